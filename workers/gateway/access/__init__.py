"""Who may call: tokens and their scopes, rate limits, and the web origins that may reach the HTTP server."""

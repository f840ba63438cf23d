"""Access control: tokens and their scopes, rate limits, and the web origins that may reach the HTTP server."""

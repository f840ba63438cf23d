"""The HTTP server: JSON, server-sent events and the OpenAPI description."""

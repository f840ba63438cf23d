"""The one way to Redis: connections, automatic pipelining, scripts, pub/sub and leases."""

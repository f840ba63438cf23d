"""Redis access: connections, automatic pipelining, scripts, pub/sub and leases."""

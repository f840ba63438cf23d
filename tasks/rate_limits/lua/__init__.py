"""The rate limits' server-side scripts. The libraries of leases and of the broker transport are passed in as text."""

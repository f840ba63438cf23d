"""The rate limits' server-side scripts. ``claim_take`` is the broker transport's own library, passed in as text."""

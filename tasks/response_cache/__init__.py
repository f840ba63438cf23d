"""The opt-in response cache of programs: answers in Redis, and single flight for identical calls."""

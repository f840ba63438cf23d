"""Encryption of what a fleet keeps in Redis: the operator's keys, and the cipher that binds each value to its place."""

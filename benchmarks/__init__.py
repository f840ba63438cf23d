"""Benchmarks: each module answers one question and returns one JSON object; ``python -m benchmarks NAME --json``."""

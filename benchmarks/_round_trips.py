"""Measures what a bare round trip to Redis takes while a benchmark runs, in a process of its own.

It pings a hundred times a second until its stdin ends, and then prints the milliseconds of each as a line of JSON.
"""

from __future__ import annotations

import json
import sys
import threading
import time

from redis import Redis

_PAUSE_S = 0.01


def main(url: str) -> None:
    """Ping the server at a URL."""
    over = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
    redis = Redis.from_url(url)
    redis.ping()
    spent_ms: list[float] = []
    while not over.wait(_PAUSE_S):
        began = time.perf_counter()
        redis.ping()
        spent_ms.append((time.perf_counter() - began) * 1000)
    sys.stdout.write(json.dumps(spent_ms) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])

"""An LM server with a quota, as a process: it counts a sliding window by a log of every request that it accepted.

That is the strictest way to count: no window, wherever it begins, holds more than the quota. It is not how the fleet
counts. The first line on stdout is its port; ``GET /log`` gives what arrived; it answers until its standard input ends.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
import time
from collections import deque
from typing import Any

from snakepit_bridge.testing.lm.openai_format import completion, error

_ANSWER = "[[ ## answer ## ]]\nyes\n\n[[ ## completed ## ]]"
_WHO = re.compile(rb"session-\d+")


class QuotaLM:
    """Accepts so many requests in any window, and refuses the others.

    Args:
        quota: requests.
        window_s: seconds.
        latency_s: seconds before each answer.
    """

    def __init__(self, quota: int, window_s: float, latency_s: float) -> None:
        self._quota = quota
        self._window_s = window_s
        self._latency_s = latency_s
        self._window: deque[float] = deque()
        self._log: list[tuple[float, str, int]] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
                body = await reader.readexactly(int(length[1])) if length else b""
                status, answer = (200, self._log) if head.startswith(b"GET /log") else await self._answer(body)
                text = json.dumps(answer).encode()
                writer.write(
                    b"HTTP/1.1 %d OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
                    % (status, len(text))
                    + text
                )
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def _answer(self, body: bytes) -> tuple[int, Any]:
        accepted, askers = self._accepts(), _WHO.findall(body)
        # The question stands last; what comes before it may be an example.
        who = askers[-1].decode() if askers else ""
        self._log.append((time.time(), who, 200 if accepted else 429))
        if not accepted:
            return 429, error("The quota is used up.", "rate_limit_error", "rate_limit_exceeded")
        await asyncio.sleep(self._latency_s)
        return 200, completion(json.loads(body), [_ANSWER], len(self._log))

    def _accepts(self) -> bool:
        now = time.monotonic()
        while self._window and self._window[0] <= now - self._window_s:
            self._window.popleft()
        if len(self._window) >= self._quota:
            return False
        self._window.append(now)
        return True


async def main() -> None:
    """Serve until the standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, kind in (("quota", int), ("window-s", float), ("latency-s", float)):
        parser.add_argument(f"--{name}", type=kind, required=True)
    options = parser.parse_args()
    lm = QuotaLM(options.quota, options.window_s, options.latency_s)
    server = await asyncio.start_server(lm.serve, "127.0.0.1", 0, backlog=1024)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())

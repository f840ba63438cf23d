"""An LM for benchmarks: always the same answer after a given latency, from a server that is never the bottleneck.

It speaks just enough HTTP for DSPy's engines, on one event loop: a request costs it some tens of microseconds, where
the demo's stand-in, which reads every prompt, takes over a millisecond. The first line on stdout is its URL as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys

_ANSWER = "[[ ## reasoning ## ]]\nAdd one.\n\n[[ ## answer ## ]]\n4.0\n\n[[ ## completed ## ]]"
_BODY = json.dumps({
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "bench",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": _ANSWER}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 200, "completion_tokens": 20, "total_tokens": 220},
}).encode()  # fmt: skip
_RESPONSE = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: " + str(len(_BODY)).encode() + b"\r\n\r\n"
) + _BODY
_LENGTH = b"\r\ncontent-length:"


class _Connection(asyncio.Protocol):
    """One connection: requests one after the other, each answered after the latency."""

    def __init__(self, latency_s: float) -> None:
        self._latency_s = latency_s
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._loop = asyncio.get_running_loop()

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (size := self._size()) is not None and len(self._received) >= size:
            self._received = self._received[size:]
            self._loop.call_later(self._latency_s, self._answer)

    def _size(self) -> int | None:
        """How many bytes the request has that came first; None while its head isn't whole."""
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return None
        head = self._received[:end].lower()
        start = head.find(_LENGTH)
        length = int(head[start + len(_LENGTH) :].partition(b"\r\n")[0]) if start >= 0 else 0
        return end + 4 + length

    def _answer(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(_RESPONSE)


async def main(latency_s: float) -> None:
    """Serve for ever."""
    server = await asyncio.get_running_loop().create_server(
        lambda: _Connection(latency_s), "127.0.0.1", 0, backlog=4_096
    )
    port = server.sockets[0].getsockname()[1]
    sys.stdout.write(json.dumps({"url": f"http://127.0.0.1:{port}/v1"}) + "\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1])))

"""uvicorn beside other servers in one process: without signal handlers, and it reports when it accepts connections."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Generator

import uvicorn


class UvicornServer(uvicorn.Server):
    """A uvicorn server that leaves signals to its process.

    Args:
        config: uvicorn's configuration.
        on_accepting: called on the server's loop once connections are accepted.
    """

    def __init__(self, config: uvicorn.Config, on_accepting: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_accepting = on_accepting

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Install no signal handlers."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and report it."""
        await super().startup(sockets)
        self._on_accepting()

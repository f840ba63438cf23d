"""Runs the endpoints under uvicorn, in any thread, until told to stop."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable

import uvicorn

from snakepit_bridge.process.uvicorn_server import UvicornServer
from snakepit_bridge.testing.lm.endpoints import Backstage, build

_GRACE_S = 1


def _unexpected(record: logging.LogRecord) -> bool:
    """Uvicorn complains of answers that are broken off; here that is what was asked for."""
    return "without completing response" not in record.getMessage()


async def run(stage: Backstage, listening: socket.socket, accepting: Callable[[], None]) -> None:
    """Serve on a listening socket until ``stage.stopping`` is set; answers under way get a second to finish."""
    config = uvicorn.Config(
        build(stage),
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=60,
        timeout_graceful_shutdown=_GRACE_S,
    )
    logging.getLogger("uvicorn.error").addFilter(_unexpected)
    server = UvicornServer(config, accepting)
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    stopping = asyncio.create_task(stage.stopping.wait())
    await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    server.should_exit = True
    await serving

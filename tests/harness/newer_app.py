"""The fleet's app as a later release may have it: it reads and writes version 2 of requests and results."""

from __future__ import annotations

from snakepit_bridge.protocol import messages

messages.VERSION = 2

from workers.app import app  # noqa: E402

__all__ = ["app"]

"""The transport ``workers.transport:Transport``: kombu's Redis transport, with claims that no dead worker can lose."""

from __future__ import annotations

from workers.transport.channel import Channel
from workers.transport.transport import Transport

__all__ = ["Channel", "Transport"]

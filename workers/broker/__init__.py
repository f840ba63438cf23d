"""The transport ``workers.broker:Transport``: kombu's Redis transport, with claims that no dead worker can lose."""

from __future__ import annotations

from workers.broker.channel import Channel
from workers.broker.transport import Transport

__all__ = ["Channel", "Transport"]

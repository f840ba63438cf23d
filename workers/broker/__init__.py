"""The transport ``workers.broker:Transport``: kombu's Redis transport, with leased messages."""

from __future__ import annotations

from workers.broker.channel import Channel
from workers.broker.transport import Transport

__all__ = ["Channel", "Transport"]

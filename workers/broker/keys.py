"""The transport's keys, re-exported from the library, which reads them too."""

from __future__ import annotations

from snakepit_bridge.delivery.keys import REDIS_SCHEMES, SEPARATOR, DeliveryKeys

__all__ = ["REDIS_SCHEMES", "SEPARATOR", "DeliveryKeys"]

"""The transport's keys, under the name that its own modules know them by; the library reads them too."""

from __future__ import annotations

from snakepit_bridge.delivery.keys import REDIS, SEPARATOR, DeliveryKeys

__all__ = ["REDIS", "SEPARATOR", "DeliveryKeys"]

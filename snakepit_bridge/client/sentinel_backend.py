"""Celery's result backend on the primary behind Sentinel. Apart from the transport, which needs no Celery."""

from __future__ import annotations

from typing import Any

from celery.backends.redis import RedisBackend

from snakepit_bridge.redis.sentinel import OPTION, SentinelService


class PrimaryBackend(RedisBackend):
    """Celery's result backend, on a primary behind Sentinel if its transport options name one."""

    def _get_pool(self, **params: Any) -> Any:
        service: SentinelService | None = self._transport_options.get(OPTION)
        return super()._get_pool(**params) if service is None else service.create_pool(**params)

"""Whether the servers that a worker needs can be used, found out before it consumes anything."""

from __future__ import annotations

from redis.exceptions import RedisError

from config.settings import FleetSettings
from snakepit_bridge.client.broker import find_sentinel
from snakepit_bridge.client.rabbitmq import check_broker, is_rabbitmq
from snakepit_bridge.exceptions import ConfigurationError, StoreForbiddenError, StoreUnavailableError
from snakepit_bridge.redis.acl import Role
from snakepit_bridge.redis.acl_check import check_role
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.data_format import mark_data_format
from snakepit_bridge.redis.outages import is_transient
from snakepit_bridge.redis.urls import SCHEMES, mask_url


async def check_servers(settings: FleetSettings) -> None:
    """Reject servers that respond but are unusable; an unreachable one may be back soon.

    Raises:
        ConfigurationError: the password is wrong, the user lacks permissions, the server isn't Redis, no Sentinel
            knows the service, or a newer release wrote the fleet's data.
    """
    for url in dict.fromkeys((settings.redis, settings.broker)):
        _check_service(url)
    if is_rabbitmq(settings.broker):
        check_broker(settings.broker, [settings.queue])
    for url in dict.fromkeys(url for url in (settings.redis, settings.broker) if url.partition("://")[0] in SCHEMES):
        connection = RedisConnection(url, timeout_s=settings.redis_timeout_s)
        try:
            await connection.send_each([("PING",)])
            if settings.redis == settings.broker:
                await check_role(Role.worker, connection, settings.namespace, settings.queue)
            if url == settings.redis:
                await mark_data_format(connection.execute, settings.namespace)
        except StoreForbiddenError as exc:
            raise ConfigurationError(str(exc)) from exc
        except StoreUnavailableError as exc:
            if not is_transient(exc):
                raise ConfigurationError(f"Redis at {exc.url} can't be used: {exc.problem}.") from exc
        except (RedisError, ValueError, TypeError) as exc:
            raise ConfigurationError(f"The server at {connection.url} can't be used as Redis: {exc}.") from exc
        finally:
            await connection.aclose()


def _check_service(url: str) -> None:
    """Reject the name of a service that every Sentinel that answers doesn't know.

    Raises:
        ConfigurationError: it is unknown.
    """
    service = find_sentinel(url)
    if service is None:
        return
    known = [view for view in service.ask_each().values() if view is not None]
    if known and all(service.address.service not in view for view in known):
        names = ", ".join(sorted({name for view in known for name in view})) or "none"
        raise ConfigurationError(
            f"No Sentinel at {mask_url(url)} knows the service '{service.address.service}'; they know: {names}. "
            "Correct the URL, or have Sentinel monitor it."
        )

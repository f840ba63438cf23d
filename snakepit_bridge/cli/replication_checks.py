"""What ``doctor`` says of replicas, of disks that are waited for, of Sentinel and of RabbitMQ's features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from snakepit_bridge.exceptions import ConfigurationError
from snakepit_bridge.protocol.checks import Check
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.replication import Replication
from snakepit_bridge.redis.sentinel import SentinelService

_MAX_LAG_S = 10
# Once per second, and as much later as a slow disk may delay it.
_EVERYSEC_S = 2.0
_OFFLINE_FIX = "check its network and its log; until it follows, a failover loses what it lacks"
_FAILOVER = "docs/how-to/redis-failover.md"


def check_replicas(info: Mapping[str, Any], replication: Replication, *, by_sentinel: bool) -> Check:
    """Check the replicas of a server.

    Args:
        info: the server's ``INFO``.
        replication: what this fleet's writes wait for.
        by_sentinel: whether Sentinel is to promote one of them.
    """
    if info.get("role") == "slave":
        of = f"{info.get('master_host')}:{info.get('master_port')}"
        found = f"this server is a replica of {of}, and accepts no writes"
        return Check("replicas", "fail", found, f"name the primary, or Sentinel: {_FAILOVER}")
    count = int(info.get("connected_slaves", 0))
    states = [state for name, state in info.items() if name.startswith("slave") and isinstance(state, Mapping)]
    late = [_describe(state) for state in states if _is_behind(state)]
    if count < replication.replicas:
        found = f"{count}, and the fleet's durability waits for {replication.replicas}"
        return Check("replicas", "fail", found, "add replicas, or set DSPEX_DURABILITY to primary")
    if late:
        return Check("replicas", "warn", f"{', '.join(late)}", _OFFLINE_FIX)
    if not count:
        if by_sentinel:
            return Check("replicas", "warn", "none, so that Sentinel has nothing to promote", f"add one: {_FAILOVER}")
        return Check("replicas", "ok", "none")
    if "min_slaves_good_slaves" not in info:
        found = f"{count}, but a primary that is cut off from them goes on accepting writes, which a failover loses"
        return Check("replicas", "warn", found, "set min-replicas-to-write 1 and min-replicas-max-lag 10")
    return Check("replicas", "ok", f"{count} in step")


async def check_fsync(connection: RedisConnection, replication: Replication, appendfsync: str | None) -> Check | None:
    """Check whether a server can wait for its disk, where the fleet's writes do; None if they don't.

    Args:
        connection: to the server.
        replication: what this fleet's writes wait for.
        appendfsync: its setting; None if unknown.
    """
    if not replication.fsync:
        return None
    try:
        await connection.durable.check(replication)
    except ConfigurationError as exc:
        return Check("durability", "fail", f"DSPEX_DURABILITY is '{replication}': {exc}", f"see {_FAILOVER}")
    if appendfsync == "no":
        found = f"DSPEX_DURABILITY is '{replication}', and with appendfsync no the server never says what is on disk"
        return Check("durability", "fail", found, "set appendfsync everysec, or always")
    if appendfsync == "everysec" and replication.wait_s < _EVERYSEC_S:
        found = f"'{replication}' waits {replication.wait_s:g} s, and with appendfsync everysec the disk may take 2 s"
        return Check("durability", "warn", found, "wait for 3 s, or set appendfsync always")
    return Check("durability", "ok", f"'{replication}', by WAITAOF")


def check_sentinel(service: SentinelService) -> Iterator[Check]:
    """Ask each Sentinel of a URL for the service, and check that they agree; blocks for at most some seconds."""
    views = service.ask_each()
    silent = sorted(place for place, view in views.items() if view is None)
    known = {place: view for place, view in views.items() if view is not None}
    name = service.address.service
    if not known:
        fix = "start them, or correct the hosts of --redis-url"
        yield Check("Sentinel", "fail", f"none answers of {', '.join(silent)}", fix)
        return
    ignorant = sorted(place for place, view in known.items() if name not in view)
    if ignorant:
        services = sorted({other for view in known.values() for other in view}) or ["none"]
        found = f"{', '.join(ignorant)} doesn't know the service '{name}', but {', '.join(services)}"
        yield Check("Sentinel", "fail", found, "name one of these in --redis-url, or have Sentinel monitor it")
        return
    primaries = sorted({view[name] for view in known.values()})
    if len(primaries) > 1:
        found = f"they don't agree on the primary: {', '.join(primaries)}"
        yield Check("Sentinel", "warn", found, "wait for a failover to end; if it stays, check their logs")
    if silent:
        found = f"{', '.join(silent)} doesn't answer; {len(known)} of {len(views)} do"
        yield Check("Sentinel", "warn", found, "start it: a failover needs most of them")
    elif len(views) < 3:
        found = f"{len(views)} named in the URL: if its machine is lost, nobody finds the primary"
        yield Check("Sentinel", "warn", found, f"run and name three: {_FAILOVER}")
    elif len(primaries) == 1:
        yield Check("Sentinel", "ok", f"{len(known)} name {primaries[0]} as the primary of '{name}'")


def check_rabbitmq_features(version: str, missing: tuple[str, ...]) -> Check | None:
    """Check that a RabbitMQ has what the fleet needs; None if it does.

    Args:
        version: of the server.
        missing: the capabilities that it doesn't announce.
    """
    if not missing:
        return None
    found = f"{version} lacks {', '.join(missing)}: messages could be lost or dropped"
    return Check("RabbitMQ", "fail", found, "use RabbitMQ 3.10 or newer; other AMQP servers aren't supported")


def _is_behind(state: Mapping[str, Any]) -> bool:
    return state.get("state") != "online" or int(state.get("lag", 0)) > _MAX_LAG_S


def _describe(state: Mapping[str, Any]) -> str:
    place = f"{state.get('ip')}:{state.get('port')}"
    if state.get("state") != "online":
        return f"{place} isn't in step: {state.get('state')}"
    return f"{place} was last heard of {state.get('lag')} s ago"

"""Durable results: replicas, or disks, have a prediction's result before its message is acknowledged.

A client asks for it in the message's headers. Where the servers don't confirm in time, that counts as an outage of
Redis: the commit is repeated, which changes nothing, and the message stays with the fleet. So a failover that loses the
result leaves its message, and the prediction runs again.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from celery.exceptions import Reject

from snakepit_bridge.exceptions import ConfigurationError, NotReplicatedError, StoreUnavailableError
from snakepit_bridge.process.aio import OutageLog
from snakepit_bridge.redis.key_names import FleetKeys
from snakepit_bridge.redis.outages import MAX_WAIT_S, retry_through_outages
from snakepit_bridge.redis.pipeliner import Command
from snakepit_bridge.redis.replication import Replication
from snakepit_bridge.redis.scripts import Script
from tasks.runtime import Runtime

_RESULT = "A prediction's result"

_log = logging.getLogger(__name__)
_outage = OutageLog(
    _log, "Results aren't confirmed as their predictions ask for, so these stay unacknowledged and are committed again"
)


async def run_durably(
    runtime: Runtime, script: Script, keys: Sequence[Any], args: Sequence[Any], replication: Replication
) -> Any:
    """Run a script that commits a result, and return its reply once enough servers have confirmed it.

    Raises:
        StoreUnavailableError: they haven't in time, or can't; the result is stored on the primary all the same.
    """
    try:
        touch = _touch(runtime)
        reply, confirmed = await runtime.results.durable.run(script, keys, args, replication, touch)
        replication.check(confirmed, _RESULT)
    except (ConfigurationError, NotReplicatedError) as exc:
        raise _unconfirmed(runtime, exc) from exc
    _outage.recovered()
    return reply


async def confirm_stored(runtime: Runtime, replication: Replication, *, patience_s: float = MAX_WAIT_S) -> None:
    """Wait until enough servers have confirmed the results that are stored now; retry through outages.

    Args:
        runtime: the process's runtime.
        replication: what is waited for.
        patience_s: seconds after which to give up.

    Raises:
        StoreUnavailableError: they haven't in that time.
    """
    if not replication.waits:
        return

    async def confirm() -> None:
        try:
            replication.check(await runtime.results.durable.confirm(replication, _touch(runtime)), _RESULT)
        except (ConfigurationError, NotReplicatedError) as exc:
            raise _unconfirmed(runtime, exc) from exc

    await retry_through_outages(confirm, patience_s=patience_s)
    _outage.recovered()


async def confirm_or_requeue(runtime: Runtime, replication: Replication) -> None:
    """Confirm the stored result of a message's only prediction, before the message is dropped.

    Raises:
        Reject: it isn't confirmed; the message goes back to its queue.
    """
    try:
        await confirm_stored(runtime, replication)
    except StoreUnavailableError as exc:
        raise Reject(str(exc), requeue=True) from exc


def _touch(runtime: Runtime) -> Command:
    """Return a write that changes nothing: nobody subscribes to this channel, and replicas get the message."""
    return "PUBLISH", FleetKeys(runtime.payloads.namespace).replies("durability"), ""


def _unconfirmed(runtime: Runtime, exc: Exception) -> StoreUnavailableError:
    _outage.failed(exc)
    return StoreUnavailableError(runtime.results.url, str(exc).rstrip("."))

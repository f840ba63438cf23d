"""``doctor``: looks at everything that a fleet needs, and says the fix beside each thing that is wrong."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from snakepit_bridge.cli.checks import Check
from snakepit_bridge.cli.connection_options import AsJson, RedisUrl, target
from snakepit_bridge.cli.fleet_commands import fleet_commands
from snakepit_bridge.cli.fleet_state import Worker, consumed, live_workers, recent_stalls, waiting_in
from snakepit_bridge.cli.lm_call import check_calls
from snakepit_bridge.cli.output import as_json, say, table
from snakepit_bridge.cli.worker_report import PACKAGES, check_workers, worker_reports
from snakepit_bridge.delivery.dead_letters import DeadLetters
from snakepit_bridge.exceptions import BridgeError, ConfigurationError, StoreForbiddenError
from snakepit_bridge.process.home_loop import run_blocking
from snakepit_bridge.protocol.messages import code_queue
from snakepit_bridge.redis.acl import Rights, Role, rights_of
from snakepit_bridge.redis.acl_check import check_rights

if TYPE_CHECKING:
    from snakepit_bridge.client import Fleet

_PROFILE = "LM profile "
_OLDEST = 7
# Before it is said that no worker runs, a busy one has so much longer to answer.
_SLOW_ANSWER_S = 3.0


def doctor(
    ctx: typer.Context,
    json: AsJson = False,
    call: Annotated[
        bool, typer.Option("--call", help="Also make one prediction with each LM profile, which costs a few tokens.")
    ] = False,
    redis_url: RedisUrl = None,
) -> None:
    """Check Redis, the workers, their LM profiles, packages and versions, and say the fix of what is wrong.

    Workers tell what they run with themselves; without any, this shell's LM profiles are looked at. The exit code is 1
    if something fails.
    """
    fleet = target(ctx, redis_url).fleet()
    found = [*_redis(fleet), *_modules(), *_versions()]
    if call:
        found += check_calls(fleet, _profiles(found))
    if json:
        say(as_json([asdict(check) for check in found]))
    else:
        table(("", "what", "found", "fix"), [(check.level, check.what, check.found, check.fix) for check in found])
    failed = [check.what for check in found if check.level == "fail"]
    if failed:
        raise BridgeError(f"{len(failed)} to mend: {', '.join(failed)}.")


def _redis(fleet: Fleet) -> Iterator[Check]:
    try:
        run_blocking(check_rights(fleet.connection, _rights(fleet)))
        told = run_blocking(_info(fleet))
        stalls = list(_stalls(fleet))
        dead = run_blocking(DeadLetters(fleet.connection, namespace=fleet.namespace).count())
    except StoreForbiddenError as exc:
        found = f"user '{exc.user}': {exc.problem}"
        yield Check("rights on Redis", "fail", found, "give it those of: dspex-fleet acl operator")
        return
    except BridgeError as away:
        yield Check("Redis", "fail", str(away), "start it, or name another with --redis-url")
        return
    yield _server(told)
    yield _durability(told, run_blocking(_fsync(fleet)))
    yield _eviction(told)
    yield _given_up(dead)
    yield from _broker(fleet)
    yield from stalls


def _broker(fleet: Fleet) -> Iterator[Check]:
    """What is there only if the broker answers: workers, and what waits for them."""
    from snakepit_bridge.client.celery_app import broker_of
    from snakepit_bridge.client.rabbitmq import check_broker

    try:
        if fleet.on_rabbitmq:
            check_broker(broker_of(fleet.app), [fleet.queue])
        workers = live_workers(fleet) or live_workers(fleet, _SLOW_ANSWER_S)
        code = _code(fleet)
    except BridgeError as exc:
        fix = "see docs/concepts/delivery.md" if isinstance(exc, ConfigurationError) else "start it, or name another"
        yield Check("RabbitMQ" if fleet.on_rabbitmq else "Redis", "fail", str(exc), fix)
        return
    if fleet.on_rabbitmq:
        yield Check("RabbitMQ", "ok", f"{fleet.broker}, queue '{fleet.queue}'")
    yield from _workers(fleet, workers)
    yield code


def _workers(fleet: Fleet, workers: Sequence[Worker]) -> Iterator[Check]:
    """What the workers tell of themselves; where none does, what this shell would start one with."""
    if not workers:
        yield Check("workers", "warn", "none answers", "start one: dspex-fleet worker")
        here = fleet_commands()
        yield from here.check_language_models() if here else ()
        return
    reports = worker_reports(fleet, len(workers))
    silent = [worker.name for worker in workers if worker.name not in reports]
    yield Check("workers", "ok", f"{len(workers)} answer: {', '.join(worker.name for worker in workers)}")
    if silent:
        yield Check("reports", "warn", f"{', '.join(silent)} tells nothing of itself", "look at its log; it may be old")
    if reports:
        yield from check_workers(reports, fleet.queue)


def _profiles(found: Sequence[Check]) -> list[str]:
    """The LM profiles that can be called, of those that were looked at."""
    names = [check.what.removeprefix(_PROFILE) for check in found if check.what.startswith(_PROFILE)]
    return sorted({name.partition(" of ")[0] for name in names})


def _stalls(fleet: Fleet) -> Iterator[Check]:
    """Workers whose event loop stands still, and those that were ended for that."""
    found = run_blocking(recent_stalls(fleet))
    if not found:
        yield Check("event loops", "ok", "all turn")
    for one in found:
        place = f" at {one.place}" if one.place else ""
        whose = f" in prediction {one.task_id}" if one.task_id else ""
        what = "was ended since its event loop stood still" if one.ended_at else "has an event loop that stands still"
        fix = "await there what waits, or register the program with executes_code=True; see docs/how-to/run-workers.md"
        level = "warn" if one.ended_at else "fail"
        yield Check("event loops", level, f"{one.worker} (process {one.pid}) {what}{whose}{place}", fix)


def _code(fleet: Fleet) -> Check:
    """Whether somebody takes the programs that execute code, if any wait."""
    queue = code_queue(fleet.queue)
    waits = run_blocking(waiting_in(fleet, queue))
    if not waits or queue in consumed(fleet):
        return Check("code queue", "ok", f"{waits} wait" if waits else "none waits")
    found = f"{waits} wait in {queue}, and no worker takes from it"
    return Check("code queue", "fail", found, "start one: dspex-fleet worker --pool prefork")


def _rights(fleet: Fleet) -> Rights:
    return rights_of(Role.operator, fleet.namespace, fleet.queue, db=fleet.connection.database)


async def _info(fleet: Fleet) -> dict[str, Any]:
    return await fleet.connection.bounded(fleet.connection.client.info())


async def _fsync(fleet: Fleet) -> str | None:
    """Return when the server flushes its log to the disk; None where it doesn't tell this user."""
    from redis.exceptions import RedisError

    try:
        (found,) = await fleet.connection.send_each([("CONFIG", "GET", "appendfsync")])
    except (BridgeError, RedisError):
        return None
    told = found.items() if isinstance(found, Mapping) else zip(found[::2], found[1::2], strict=True)
    return next((value.decode() for _, value in cast("Iterable[tuple[bytes, bytes]]", told)), None)


def _server(told: Mapping[str, Any]) -> Check:
    valkey = told.get("valkey_version")
    name, number = ("Valkey", str(valkey)) if valkey else ("Redis", str(told["redis_version"]))
    if int(number.split(".")[0]) >= _OLDEST:
        return Check("Redis", "ok", f"{name} {number}")
    return Check("Redis", "fail", f"{name} {number}", f"use Redis {_OLDEST} or newer, or Valkey")


def _durability(told: Mapping[str, Any], fsync: str | None = None) -> Check:
    """What a loss of the server would cost; docs/concepts/delivery.md says it of each setting."""
    if not told.get("aof_enabled"):
        cost = "a restart of Redis loses what waits and what was published"
        return Check("append-only file", "warn", f"off: {cost}", "set appendonly yes")
    if str(told.get("aof_last_write_status", "ok")) != "ok":
        return Check("append-only file", "fail", "its last write failed: Redis takes no changes", "look at its disk")
    late = int(told.get("aof_delayed_fsync", 0))
    if late and fsync != "always":
        found = f"on, but its disk was behind {late} times: a killed Redis may have lost up to 2 s each time"
        return Check("append-only file", "warn", found, "give it a faster disk, or set appendfsync always")
    if fsync == "no":
        found = "on, appendfsync no: a machine that dies loses what its kernel hadn't written, 30 s or so"
        return Check("append-only file", "warn", found, "set appendfsync everysec, or always")
    if fsync == "everysec":
        return Check("append-only file", "ok", "on, everysec: a machine that dies loses the last 1 to 3 s")
    return Check("append-only file", "ok", "on, always: nothing confirmed is lost" if fsync == "always" else "on")


def _eviction(told: Mapping[str, Any]) -> Check:
    policy = str(told.get("maxmemory_policy", "unknown"))
    if policy == "noeviction" or not told.get("maxmemory"):
        return Check("eviction", "ok", "never" if told.get("maxmemory") else "never, there is no memory limit")
    return Check("eviction", "fail", f"{policy}: a full server drops sessions", "set maxmemory-policy noeviction")


def _given_up(count: int) -> Check:
    if not count:
        return Check("dead messages", "ok", "none")
    return Check("dead messages", "warn", f"{count} were given up", "look at them: dspex-fleet dead list")


def _modules() -> Iterator[Check]:
    """What DSPy's modules need beside DSPy itself; a fleet that doesn't use them can do without."""
    from snakepit_bridge.dspy_integration.compat import missing

    lacking = missing()
    for name, consequence in lacking.items():
        yield Check(f"for modules: {name}", "warn", consequence, "pip install 'dspex-fleet[modules]'")
    if not lacking:
        yield Check("for modules", "ok", "nothing is missing")


def _versions() -> Iterator[Check]:
    yield Check("Python", "ok", platform.python_version())
    for package in PACKAGES:
        try:
            yield Check(package, "ok", version(package))
        except PackageNotFoundError:
            yield Check(package, "fail", "not installed", f"pip install {package}")

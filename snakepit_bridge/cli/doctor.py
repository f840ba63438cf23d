"""``doctor``: checks everything that a fleet needs, and prints a fix beside each problem."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from snakepit_bridge.cli.change_checks import check_changes, describe_data_format
from snakepit_bridge.cli.connection_options import AsJson, RedisUrl, resolve_fleet
from snakepit_bridge.cli.fleet_commands import load_fleet_commands
from snakepit_bridge.cli.fleet_state import (
    FoundWorkers,
    find_consumed_queues,
    find_recent_stalls,
    find_workers,
)
from snakepit_bridge.cli.lm_call import check_calls
from snakepit_bridge.cli.output import dump_json, echo, echo_aside, print_table
from snakepit_bridge.cli.replication_checks import (
    check_fsync,
    check_rabbitmq_features,
    check_replicas,
    check_sentinel,
)
from snakepit_bridge.cli.secret_checks import (
    SHELL_KEYS,
    check_default_user,
    check_keys,
    check_transport,
    check_workers_keys,
)
from snakepit_bridge.cli.worker_report import check_workers, collect_reports
from snakepit_bridge.delivery.dead_letters import DeadLetters
from snakepit_bridge.exceptions import BridgeError, ConfigurationError, DataFormatError, StoreForbiddenError
from snakepit_bridge.process.home_loop import run_blocking
from snakepit_bridge.protocol.checks import PACKAGES, Check
from snakepit_bridge.protocol.messages import code_queue
from snakepit_bridge.redis.acl import Rights, Role, rights_of
from snakepit_bridge.redis.acl_check import check_rights

if TYPE_CHECKING:
    from snakepit_bridge.client import Fleet

_PROFILE = "LM profile "
_OLDEST = 7


def doctor(
    ctx: typer.Context,
    json: AsJson = False,
    call: Annotated[
        bool, typer.Option("--call", help="Also make one prediction with each LM profile, which costs a few tokens.")
    ] = False,
    wait: Annotated[
        float,
        typer.Option(min=1.0, metavar="SECONDS", help="How long a worker may take to answer, and then to report."),
    ] = 20.0,
    redis_url: RedisUrl = None,
) -> None:
    """Check Redis, the workers, their LM profiles, packages and versions, and suggest fixes.

    Workers report what they run with; if none answers, this shell's LM profiles are checked instead. The exit code is 1
    if a check fails.
    """
    address, keys = resolve_fleet(ctx, redis_url), list(check_keys())
    has_keys = all(check.level != "fail" or check.what != SHELL_KEYS for check in keys)
    fleet = address.fleet() if has_keys else address.without_keys()
    found = [*check_transport("way to Redis", address.url), *keys, *_redis(fleet, wait), *_modules(), *_versions()]
    if call:
        found += check_calls(fleet, _profiles(found))
    if json:
        echo(dump_json([asdict(check) for check in found]))
    else:
        print_table(
            ("", "what", "found", "fix"), [(check.level, check.what, check.found, check.fix) for check in found]
        )
    failed = [check.what for check in found if check.level == "fail"]
    if failed:
        raise BridgeError(f"{len(failed)} failed: {', '.join(failed)}.")


def _redis(fleet: Fleet, wait_s: float) -> Iterator[Check]:
    try:
        run_blocking(check_rights(fleet.connection, _rights(fleet)))
        info = run_blocking(_info(fleet))
        stalls = list(_stalls(fleet))
        dead = run_blocking(DeadLetters(fleet.connection, namespace=fleet.namespace).count())
        changes = run_blocking(check_changes(fleet))
    except DataFormatError as exc:
        yield describe_data_format(exc)
        return
    except StoreForbiddenError as exc:
        found = f"user '{exc.user}': {exc.problem}"
        yield Check("rights on Redis", "fail", found, "grant those that 'dspex-fleet acl operator' prints")
        return
    except BridgeError as exc:
        yield from _sentinel(fleet)
        yield Check("Redis", "fail", str(exc), "start it, or name another with --redis-url")
        return
    yield _server(info)
    yield from _sentinel(fleet)
    yield check_replicas(info, fleet.replication, by_sentinel=fleet.connection.by_sentinel)
    appendfsync = run_blocking(_fsync(fleet))
    yield _durability(info, appendfsync)
    if (waits := run_blocking(check_fsync(fleet.connection, fleet.replication, appendfsync))) is not None:
        yield waits
    yield _eviction(info)
    yield from run_blocking(check_default_user(fleet.connection))
    yield _given_up(dead)
    yield from changes
    yield from _broker(fleet, wait_s)
    yield from stalls


def _sentinel(fleet: Fleet) -> Iterator[Check]:
    """Check the Sentinels, if the URL names some."""
    from snakepit_bridge.client.broker import find_sentinel
    from snakepit_bridge.client.celery_app import get_backend_url

    service = find_sentinel(get_backend_url(fleet.app))
    if service is not None:
        yield from check_sentinel(service)


def _broker(fleet: Fleet, wait_s: float) -> Iterator[Check]:
    """Check what needs a broker that answers: workers, and the queues they consume."""
    from snakepit_bridge.client.broker import get_broker_url
    from snakepit_bridge.client.rabbitmq import check_broker, read_features

    features = None
    try:
        if fleet.on_rabbitmq:
            check_broker(get_broker_url(fleet.app), [fleet.queue])
            features = check_rabbitmq_features(*read_features(get_broker_url(fleet.app)))
        workers = find_workers(fleet, wait_s, on_silence=_announce_wait(wait_s))
        code = _code(fleet)
    except BridgeError as exc:
        fix = "see docs/concepts/delivery.md" if isinstance(exc, ConfigurationError) else "start it, or name another"
        yield Check("RabbitMQ" if fleet.on_rabbitmq else "Redis", "fail", str(exc), fix)
        return
    if features is not None:
        yield features
    elif fleet.on_rabbitmq:
        yield Check("RabbitMQ", "ok", f"{fleet.broker}, queue '{fleet.queue}'")
    yield from _workers(fleet, workers, wait_s)
    yield code


def _announce_wait(wait_s: float) -> Callable[[Sequence[str]], None]:
    """Return what tells people why ``doctor`` takes longer than usual."""
    return lambda names: echo_aside(f"doctor: waiting up to {wait_s:g} s for {', '.join(names)}")


def _workers(fleet: Fleet, found: FoundWorkers, wait_s: float) -> Iterator[Check]:
    """Check what the workers report; if none does, check what this shell would start one with."""
    yield from check_answers(found)
    if not found.workers:
        yield from load_fleet_commands().check_language_models()
        return
    names = sorted({worker.name for worker in found.workers})
    reports = collect_reports(fleet, names, wait_s)
    silent = [name for name in names if name not in reports]
    if silent:
        missing = f"none of {', '.join(silent)} within {wait_s:g} s"
        yield Check("reports", "warn", missing, "ask again with a longer --wait; if it stays, see the worker's log")
    if reports:
        yield from check_workers(reports, fleet.queue)
        yield from check_workers_keys(reports)


def check_answers(found: FoundWorkers) -> Iterator[Check]:
    """Check which workers answer, and whether each has a name of its own.

    Args:
        found: the workers.
    """
    names = sorted({worker.name for worker in found.workers})
    if found.workers:
        verb = "answer" if len(found.workers) > 1 else "answers"
        yield Check("workers", "ok", f"{len(found.workers)} {verb}: {', '.join(names)}")
    elif not found.silent:
        yield Check("workers", "warn", f"none answers within {found.waited_s:.0f} s", "start one: dspex-fleet worker")
    if found.silent:
        missing = f"{', '.join(found.silent)} reported lately, and gave no answer within {found.waited_s:.0f} s"
        fix = "it is busy, starting or stopping: ask again with a longer --wait; if it stays, see its log"
        yield Check("silent workers", "warn", missing, fix)
    if found.shared:
        fix = "name each: dspex-fleet worker -n NAME@%h; without -n it takes a free name"
        yield Check("worker names", "warn", f"several workers are called {', '.join(found.shared)}", fix)


def _profiles(found: Sequence[Check]) -> list[str]:
    """Return the LM profiles that can be called, among those that were checked."""
    names = [check.what.removeprefix(_PROFILE) for check in found if check.what.startswith(_PROFILE)]
    return sorted({name.partition(" of ")[0] for name in names})


def _stalls(fleet: Fleet) -> Iterator[Check]:
    """Check for workers whose event loop is blocked, and for those that were terminated for it."""
    found = run_blocking(find_recent_stalls(fleet))
    if not found:
        yield Check("event loops", "ok", "all responsive")
    for stall in found:
        place = f" at {stall.place}" if stall.place else ""
        prediction = f" in prediction {stall.task_id}" if stall.task_id else ""
        what = "was terminated because its event loop was blocked" if stall.ended_at else "has a blocked event loop"
        fix = "await instead of blocking, or register the program with executes_code=True; docs/how-to/run-workers.md"
        level = "warn" if stall.ended_at else "fail"
        yield Check("event loops", level, f"{stall.worker} (process {stall.pid}) {what}{prediction}{place}", fix)


def _code(fleet: Fleet) -> Check:
    """Check that a worker consumes the queue of programs that execute code, if any wait."""
    from snakepit_bridge.client.backlog import read_fleet_backlog

    queue = code_queue(fleet.queue)
    waits = sum(run_blocking(read_fleet_backlog(fleet, [queue])).by_priority(queue).values())
    if not waits or queue in find_consumed_queues(fleet):
        return Check("code queue", "ok", f"{waits} wait" if waits else "none waits")
    found = f"{waits} wait in {queue}, and no worker consumes it"
    return Check("code queue", "fail", found, "start one: dspex-fleet worker --pool prefork")


def _rights(fleet: Fleet) -> Rights:
    return rights_of(Role.operator, fleet.namespace, fleet.queue, db=fleet.connection.database)


async def _info(fleet: Fleet) -> dict[str, Any]:
    return await fleet.connection.wait_bounded(fleet.connection.client.info())


async def _fsync(fleet: Fleet) -> str | None:
    """Return when the server flushes its log to disk; None if this user may not read it."""
    from redis.exceptions import RedisError

    try:
        (found,) = await fleet.connection.send_each([("CONFIG", "GET", "appendfsync")])
    except (BridgeError, RedisError):
        return None
    info = found.items() if isinstance(found, Mapping) else zip(found[::2], found[1::2], strict=True)
    return next((value.decode() for _, value in cast("Iterable[tuple[bytes, bytes]]", info)), None)


def _server(info: Mapping[str, Any]) -> Check:
    valkey = info.get("valkey_version")
    name, number = ("Valkey", str(valkey)) if valkey else ("Redis", str(info["redis_version"]))
    if int(number.split(".")[0]) >= _OLDEST:
        return Check("Redis", "ok", f"{name} {number}")
    return Check("Redis", "fail", f"{name} {number}", f"use Redis {_OLDEST} or newer, or Valkey")


def _durability(info: Mapping[str, Any], fsync: str | None = None) -> Check:
    """Check what a crash of the server would lose; docs/concepts/delivery.md explains each setting."""
    if not info.get("aof_enabled"):
        cost = "a restart of Redis loses waiting predictions and published variables"
        return Check("append-only file", "warn", f"off: {cost}", "set appendonly yes")
    if str(info.get("aof_last_write_status", "ok")) != "ok":
        return Check("append-only file", "fail", "its last write failed: Redis accepts no writes", "check its disk")
    late = int(info.get("aof_delayed_fsync", 0))
    if late and fsync != "always":
        found = f"on, but fsync was delayed {late} times: a killed Redis may have lost up to 2 s each time"
        return Check("append-only file", "warn", found, "give it a faster disk, or set appendfsync always")
    if fsync == "no":
        found = "on, appendfsync no: a machine that crashes loses what its kernel hadn't written, about 30 s"
        return Check("append-only file", "warn", found, "set appendfsync everysec, or always")
    if fsync == "everysec":
        return Check("append-only file", "ok", "on, everysec: a machine that crashes loses the last 1 to 3 s")
    return Check("append-only file", "ok", "on, always: nothing confirmed is lost" if fsync == "always" else "on")


def _eviction(info: Mapping[str, Any]) -> Check:
    policy = str(info.get("maxmemory_policy", "unknown"))
    if policy == "noeviction" or not info.get("maxmemory"):
        return Check("eviction", "ok", "never" if info.get("maxmemory") else "never, there is no memory limit")
    return Check("eviction", "fail", f"{policy}: a full server drops sessions", "set maxmemory-policy noeviction")


def _given_up(count: int) -> Check:
    if not count:
        return Check("dead messages", "ok", "none")
    return Check("dead messages", "warn", f"{count} in the dead-letter list", "inspect them: dspex-fleet dead list")


def _modules() -> Iterator[Check]:
    """Check the optional dependencies of DSPy's modules; a fleet that doesn't use these modules needs none of them."""
    from snakepit_bridge.dspy_integration.compat import find_missing_extras

    lacking = find_missing_extras()
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

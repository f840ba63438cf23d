"""Ask workers by Celery's remote control, and wait for those that are known to run."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from snakepit_bridge.process.home_loop import run_blocking

if TYPE_CHECKING:
    from snakepit_bridge.client import Fleet

# A worker that doesn't answer is asked again, if it still reports that it runs.
_ROUND_S = 5.0

Answer = tuple[str, Any]
"""A node's name, and what it answered. Workers that share a name answer once each."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What workers answered.

    Attributes:
        found: by node, sorted.
        silent: the nodes that have reported to Redis lately that they run, and haven't answered.
        waited_s: seconds for which they were waited for.
    """

    found: Sequence[Answer]
    silent: Sequence[str] = ()
    waited_s: float = 0.0

    @property
    def shared(self) -> list[str]:
        """Names that several workers have."""
        return sorted(name for name, count in Counter(name for name, _ in self.found).items() if count > 1)


def ask_workers(
    fleet: Fleet, command: str, wait_s: float, *, names: Sequence[str] | None = None, **arguments: Any
) -> list[Answer]:
    """Send a remote control command, and return the answers that come before it is silent for the wait.

    Args:
        fleet: whose workers.
        command: Celery's name of it.
        wait_s: seconds to wait for the next answer.
        names: nodes to ask; waiting ends with as many answers. None for all.
        arguments: of the command.

    Raises:
        StoreUnavailableError: the broker is away.
    """
    from snakepit_bridge.client.broker import get_broker_url
    from snakepit_bridge.client.rabbitmq import translate_broker_errors

    with translate_broker_errors(get_broker_url(fleet.app)):
        replies: list[dict[str, Any]] = (
            fleet.app.control.broadcast(command, arguments, reply=True, timeout=wait_s, destination=names) or []
        )
    return sorted(((name, answer) for reply in replies for name, answer in reply.items()), key=lambda found: found[0])


def find_running(fleet: Fleet) -> list[str]:
    """Return the nodes whose processes report to Redis that they run, sorted.

    Raises:
        StoreUnavailableError: Redis is away.
    """
    from snakepit_bridge.delivery.activity import ActivityStore

    activity = ActivityStore(fleet.connection, namespace=fleet.namespace)
    return sorted({process.report.node for process in run_blocking(activity.read_processes())})


def await_answers(
    fleet: Fleet,
    command: str,
    wait_s: float,
    *,
    first_s: float,
    on_silence: Callable[[Sequence[str]], None] = lambda _: None,
) -> Answers:
    """Ask every worker, and wait longer for those that report to Redis that they run and haven't answered.

    One that no longer reports isn't waited for, since it may have ended; it counts as silent all the same.

    Args:
        fleet: whose workers.
        command: Celery's name of the remote control command.
        wait_s: most seconds to wait for them.
        first_s: seconds for which all may answer, known or not.
        on_silence: is told once which ones are waited for, if any.

    Raises:
        StoreUnavailableError: Redis or the broker is away.
    """
    began, running = time.monotonic(), {*find_running(fleet)}
    found = ask_workers(fleet, command, min(first_s, wait_s))
    silent = sorted((running | {*find_running(fleet)}) - _names(found))
    awaited = silent
    if awaited and wait_s > first_s:
        on_silence(awaited)
    while awaited and (left_s := wait_s - (time.monotonic() - began)) > 0:
        found += ask_workers(fleet, command, min(_ROUND_S, left_s), names=awaited)
        silent = sorted({*silent} - _names(found))
        awaited = sorted({*silent} & {*find_running(fleet)})
    return Answers(sorted(found, key=lambda answer: answer[0]), silent, time.monotonic() - began)


def _names(found: Sequence[Answer]) -> set[str]:
    return {name for name, _ in found}

"""Stores errors for predictions that the watchdog has given up: in a process that loads the app, and then ends.

    python -m workers.watchdog.ends

The app takes as much memory as a worker, and is needed once in a worker's life at most. Its module may also run code of
the user, which must not keep the watchdog from killing the worker.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from workers import PACKAGE
from workers.watchdog.handover import AppAccess, Handover

if TYPE_CHECKING:
    from workers.fleet_app import FleetApp

# The app may have to be loaded first, on a machine that may be busy.
_PROCESS_S = 30.0
_STORED_S = 3.0

_log = logging.getLogger(__name__)


class PredictionEnds:
    """Stores errors by running this module.

    Args:
        handover: what the worker handed over.
    """

    def __init__(self, handover: Handover) -> None:
        self._handover = handover
        self._process: subprocess.Popen[bytes] | None = None

    def prepare(self) -> None:
        """Start the process, unless it runs: on a busy machine it takes seconds until it has loaded the app."""
        if self._process is None:
            command = [sys.executable, "-P", "-m", f"{PACKAGE}.watchdog.ends"]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE)

    def discard(self) -> None:
        """End the process without an order, if it runs."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def store(self, summaries: Sequence[Mapping[str, Any]]) -> None:
        """Store errors for the predictions of dead-lettered messages, and wait for it: the worker is killed then.

        Args:
            summaries: of the messages; see ``snakepit_bridge.delivery.dead_letters``.
        """
        tasks = [summary.get("task_id") for summary in summaries]
        order = {**asdict(self._handover.app), "log": self._handover.log, "summaries": summaries}
        self.prepare()
        assert self._process is not None
        try:
            self._process.communicate(json.dumps(order).encode(), timeout=_PROCESS_S)
            if self._process.returncode:
                _log.error("The errors of predictions %s can't be stored", tasks)
        except subprocess.TimeoutExpired:
            _log.error("Storing the errors of predictions %s timed out", tasks)
        finally:
            self.discard()


def store_ends(app: FleetApp, summaries: Sequence[Mapping[str, Any]]) -> bool:
    """Store errors for the predictions of dead-lettered messages; return whether all were stored in time."""
    from workers import task_ends

    stored = threading.Semaphore(0)
    for summary in summaries:
        task_ends.end_predictions(app, summary, stored.release)
    return all(stored.acquire(timeout=_STORED_S) for _ in summaries)


def load_app(access: AppAccess, *, with_tasks: bool) -> FleetApp:
    """Return the worker's app, or one of the fleet alone, which suffices unless tasks of the user are to be called.

    Args:
        access: how to get it.
        with_tasks: whether tasks of the user may be called.
    """
    from celery.utils.imports import symbol_by_name

    from config.settings import FleetSettings
    from workers.fleet_app import FleetApp

    if with_tasks and access.name:
        try:
            app: Any = symbol_by_name(access.name)
            return app
        except Exception:  # noqa: BLE001 (whatever the user's module raises, the error is stored)
            _log.exception("The worker's app %s can't be loaded; tasks of its own won't be called", access.name)
    return FleetApp(FleetSettings.model_validate(access.settings))


def main() -> None:
    """Store the errors that standard input names."""
    # Before the order comes, as far as it is known what is needed.
    from workers import fleet_app  # noqa: F401  # pyright: ignore[reportUnusedImport]
    from workers.broker.message import EMBED
    from workers.watchdog.logs import log_as_watchdog

    order: dict[str, Any] = json.load(sys.stdin)
    summaries: list[dict[str, Any]] = order["summaries"]
    access = AppAccess(order["name"], order["settings"])
    app = load_app(access, with_tasks=any(EMBED in summary for summary in summaries))
    log_as_watchdog(order["log"], app.settings.log_redactions)
    raise SystemExit(0 if store_ends(app, summaries) else 1)


if __name__ == "__main__":
    main()

"""``fleet_report``: what a worker tells of itself over remote control, so that ``doctor`` needn't guess."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from celery.worker.control import inspect_command

from snakepit_bridge.cli.checks import Check
from snakepit_bridge.cli.worker_report import PACKAGES, REPORT
from snakepit_bridge.process.open_files import OPEN_FILES
from snakepit_bridge.programs.packages import distributions
from workers.profile_checks import check_each, check_profiles


@inspect_command(name=REPORT)  # pyright: ignore[reportUntypedFunctionDecorator]
def fleet_report(state: Any, **_: Any) -> dict[str, Any]:
    """Return what a worker runs with: versions, queues, LM profiles, open files, packages that programs may name."""
    app: Any = state.app
    settings = app.settings
    return {
        "namespace": settings.namespace,
        "queues": sorted(queue.name for queue in state.consumer.task_consumer.queues),
        "pid": os.getpid(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "profiles": [asdict(check) for check in _profiles(app)],
        "open_files": asdict(OPEN_FILES.use()),
        "allowed_packages": {name: _release(name) for name in settings.allowed_packages},
    }


def _profiles(app: Any) -> Iterable[Check]:
    """The profiles that the process runs with, where tasks run in it; a pool that forks builds them in its children."""
    return check_each(app.slot.get().profiles) if app.slot.built else check_profiles(app.settings)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _release(package: str) -> str | None:
    """The distribution that a package came with, and its version; None where it isn't installed as one."""
    found = distributions().get(package.partition(".")[0])
    return " ".join(f"{name} {version(name)}" for name in sorted(set(found))) if found else None

"""``fleet_report``: a remote-control command by which ``doctor`` inspects a worker."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from celery.worker.control import inspect_command

from snakepit_bridge.process.open_files import OPEN_FILES
from snakepit_bridge.programs.packages import load_distributions
from snakepit_bridge.protocol.checks import PACKAGES, REPORT, Check
from tasks.newer_messages import NEWER_RELEASE
from workers.deployment_checks import check_deployment
from workers.encryption import describe_keys
from workers.profile_checks import check_each, check_profiles


@inspect_command(name=REPORT)  # pyright: ignore[reportUntypedFunctionDecorator]
def fleet_report(state: Any, **_: Any) -> dict[str, Any]:
    """Return a worker's versions, queues, LM profiles, open files, deployment, packages, and what it can't read."""
    app: Any = state.app
    settings = app.settings
    return {
        "namespace": settings.namespace,
        "queues": sorted(queue.name for queue in state.consumer.task_consumer.queues),
        "pid": os.getpid(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "keys": describe_keys(settings),
        "profiles": [asdict(check) for check in _profiles(app)],
        "open_files": asdict(OPEN_FILES.usage()),
        "allowed_packages": {name: _release(name) for name in settings.allowed_packages},
        "newer_release": NEWER_RELEASE.problem,
        "deployment": [asdict(check) for check in _deployment(state)],
    }


def _deployment(state: Any) -> Iterable[Check]:
    queues = [queue.name for queue in state.consumer.task_consumer.queues]
    return check_deployment(state.app.settings, queues, state.consumer.pool.limit or 1)


def _profiles(app: Any) -> Iterable[Check]:
    """Check the profiles of the runtime, or those of the settings in a parent process that runs no tasks."""
    return check_each(app.slot.get().profiles) if app.slot.built else check_profiles(app.settings)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _release(package: str) -> str | None:
    """Return a package's distribution and its version, or None if it doesn't belong to one."""
    found = load_distributions().get(package.partition(".")[0])
    return " ".join(f"{name} {version(name)}" for name in sorted(set(found))) if found else None

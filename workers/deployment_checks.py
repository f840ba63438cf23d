"""Checks of how a worker is deployed: whether its supervisor fits what it needs to stop, to be asked, and to be killed.

A worker finds out what it can from where it runs. How long its supervisor waits only the supervisor knows, so that
DSPEX_SUPERVISOR_GRACE_S has to say it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from config.settings import FleetSettings
from snakepit_bridge.exceptions import ConfigurationError
from snakepit_bridge.protocol.checks import Check
from snakepit_bridge.protocol.messages import CODE_SUFFIX
from workers.addresses import is_loopback, parse_address

# What a supervisor adds to DSPEX_STOP_GRACE_S.
_MARGIN_S = 10.0
# Kubernetes' terminationGracePeriodSeconds where a pod has none.
_KUBERNETES_GRACE_S = 30.0
# What a child takes beside its sandbox, and the parent with its watchdog.
_CHILD_MB, _PARENT_MB = 300, 400
_MEMORY_LIMITS = ("memory.max", "memory/memory.limit_in_bytes")


@dataclass(frozen=True, slots=True)
class WorkerHost:
    """Where a worker runs.

    Attributes:
        pid: its process id.
        environment: its environment variables.
        cgroup: the folder of its control group.
    """

    pid: int = field(default_factory=os.getpid)
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
    cgroup: Path = Path("/sys/fs/cgroup")

    @property
    def is_kubernetes(self) -> bool:
        """Whether it is a container of a pod."""
        return "KUBERNETES_SERVICE_HOST" in self.environment

    def read_memory_limit_mb(self) -> int | None:
        """Return the megabytes that its container may use; None if nothing limits them, or if that isn't known."""
        for name in _MEMORY_LIMITS:
            try:
                text = (self.cgroup / name).read_text(encoding="ascii").strip()
            except OSError:
                continue
            return int(text) // 2**20 if text.isdigit() and int(text) < 2**60 else None
        return None


def check_deployment(
    settings: FleetSettings, queues: Sequence[str], processes: int, where: WorkerHost | None = None
) -> Iterator[Check]:
    """Yield the checks of a worker's deployment; where nothing is known about it, none.

    Args:
        settings: of the worker.
        queues: that it consumes.
        processes: how many predictions it runs at a time.
        where: where it runs.
    """
    where = where or WorkerHost()
    yield from _check_grace(settings, where)
    yield from _check_health(settings, where)
    if where.pid == 1:
        fix = "give it an init process: init: true with Compose, shareProcessNamespace: true in a pod"
        yield Check("watchdog", "warn", "it can't end a worker that hangs, since that is process 1", fix)
    if any(name.endswith(CODE_SUFFIX) for name in queues):
        yield from _check_memory(settings, processes, where)


def _check_grace(settings: FleetSettings, where: WorkerHost) -> Iterator[Check]:
    needed_s, given_s = settings.stop_grace_s + _MARGIN_S, settings.supervisor_grace_s
    if given_s is None and not where.is_kubernetes:
        return
    if given_s is None:
        found = (
            f"not known: a pod has {_KUBERNETES_GRACE_S:g} s unless it says otherwise, and {needed_s:g} s are needed"
        )
        fix = f"set terminationGracePeriodSeconds: {needed_s:g}, and DSPEX_SUPERVISOR_GRACE_S to the same"
        yield Check("time to stop", "warn", found, fix)
    elif given_s < needed_s:
        found = f"{given_s:g} s of {needed_s:g} s: what it hasn't handed back by then counts as lost with its worker"
        fix = (
            "raise the supervisor's (terminationGracePeriodSeconds, stop_grace_period, TimeoutStopSec) "
            f"to {needed_s:g} s, or lower DSPEX_STOP_GRACE_S"
        )
        yield Check("time to stop", "warn", found, fix)
    else:
        yield Check("time to stop", "ok", f"{given_s:g} s, of which {settings.stop_grace_s:g} s for what is running")


def _check_health(settings: FleetSettings, where: WorkerHost) -> Iterator[Check]:
    if not where.is_kubernetes:
        return
    if settings.health_address is None:
        found = "none are served, so no probe can ask for them"
        yield Check(
            "health endpoints", "warn", found, "set DSPEX_HEALTH_ADDRESS to 0.0.0.0:8063, and probes that ask it"
        )
        return
    try:
        host, port = parse_address(settings.health_address)
    except ConfigurationError:
        return  # such a worker doesn't start
    if is_loopback(host):
        found = f"on {settings.health_address}, which the kubelet doesn't reach from outside of the pod"
        yield Check("health endpoints", "warn", found, f"set DSPEX_HEALTH_ADDRESS to 0.0.0.0:{port}")
    else:
        yield Check("health endpoints", "ok", settings.health_address)


def _check_memory(settings: FleetSettings, processes: int, where: WorkerHost) -> Iterator[Check]:
    limit_mb = where.read_memory_limit_mb()
    if limit_mb is None:
        return
    needed_mb = processes * (settings.sandbox_memory_mb + _CHILD_MB) + _PARENT_MB
    found = f"{limit_mb} MB, and {processes} sandboxes at a time need up to {needed_mb} MB"
    if limit_mb >= needed_mb:
        yield Check("memory for code", "ok", found)
    else:
        fix = "raise the container's limit, or lower --concurrency or DSPEX_SANDBOX_MEMORY_MB"
        yield Check("memory for code", "warn", found, fix)

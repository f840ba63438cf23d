"""How a worker is deployed, as the doctor tells of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from config.settings import FleetSettings
from snakepit_bridge.protocol.checks import Check
from workers.deployment_checks import WorkerHost, check_deployment

POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}
NOWHERE = Path("/nowhere")


def found(
    settings: dict[str, Any],
    *,
    pid: int = 7,
    environment: dict[str, str] | None = None,
    cgroup: Path = NOWHERE,
    queues: tuple[str, ...] = ("predictions",),
    processes: int = 2,
) -> dict[str, Check]:
    where = WorkerHost(pid, environment or {}, cgroup)
    checks = check_deployment(FleetSettings.model_validate(settings), queues, processes, where)
    return {check.what: check for check in checks}


def test_of_a_worker_of_which_nothing_is_known_nothing_is_said() -> None:
    assert found({}) == {}


def test_a_supervisor_that_kills_too_early_is_named_with_the_time_that_is_needed() -> None:
    check = found({"supervisor_grace_s": 30})["time to stop"]
    assert check.level == "warn"
    assert check.found.startswith("30 s of 60 s")
    assert "to 60 s, or lower DSPEX_STOP_GRACE_S" in check.fix


def test_a_supervisor_that_waits_long_enough_is_fine() -> None:
    checks = found({"supervisor_grace_s": 60, "health_address": "0.0.0.0:8063"}, environment=POD)
    assert checks == {
        "time to stop": Check("time to stop", "ok", "60 s, of which 50 s for what is running"),
        "health endpoints": Check("health endpoints", "ok", "0.0.0.0:8063"),
    }


def test_a_pod_that_does_not_say_its_grace_period_may_have_that_of_every_pod() -> None:
    check = found({"stop_grace_s": 110}, environment=POD)["time to stop"]
    assert (check.level, "30 s unless" in check.found, "120 s are needed" in check.found) == ("warn", True, True)
    assert check.fix == "set terminationGracePeriodSeconds: 120, and DSPEX_SUPERVISOR_GRACE_S to the same"


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ({}, "none are served"),
        ({"health_address": "127.0.0.1:8063"}, "the kubelet doesn't reach"),
        ({"health_address": "[::1]:8063"}, "the kubelet doesn't reach"),
    ],
)
def test_health_endpoints_that_the_kubelet_does_not_reach_are_named(address: dict[str, str], says: str) -> None:
    check = found(address, environment=POD)["health endpoints"]
    assert check.level == "warn"
    assert says in check.found
    assert "0.0.0.0:8063" in check.fix
    assert "health endpoints" not in found(address), "elsewhere a process of the same host may ask"


def test_process_1_is_named_since_its_watchdog_cannot_kill_it() -> None:
    check = found({}, pid=1)["watchdog"]
    assert check.level == "warn"
    assert "shareProcessNamespace: true" in check.fix


@pytest.mark.parametrize("name", ["memory.max", "memory/memory.limit_in_bytes"])
def test_sandboxes_that_exceed_the_memory_are_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "memory").mkdir()
    (tmp_path / name).write_text(f"{2_000 * 2**20}\n")
    code: dict[str, Any] = {"queues": ("predictions", "predictions.code"), "cgroup": tmp_path}
    check = found({"sandbox_memory_mb": 512}, **code)["memory for code"]
    assert (check.level, check.found) == ("warn", "2000 MB, and 2 sandboxes at a time need up to 2024 MB")
    assert found({"sandbox_memory_mb": 500}, **code)["memory for code"].level == "ok"
    assert "memory for code" not in found({}, cgroup=tmp_path), "it runs no code"


@pytest.mark.parametrize("text", ["max", str(2**63 - 4096)])
def test_memory_that_nothing_limits_is_enough(tmp_path: Path, text: str) -> None:
    (tmp_path / "memory.max").write_text(text)
    assert found({}, queues=("predictions.code",), cgroup=tmp_path) == {}

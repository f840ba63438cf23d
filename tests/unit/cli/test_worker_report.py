"""Workers' reports side by side: what they agree on is told once, what differs by name."""

from __future__ import annotations

from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import pytest

from snakepit_bridge.cli.worker_report import check_workers
from snakepit_bridge.process.open_files import FileUsage
from snakepit_bridge.protocol.checks import PACKAGES, Check


def report(**changes: Any) -> dict[str, Any]:
    return {
        "queues": ["predictions"],
        "packages": {name: version(name) for name in PACKAGES},
        "profiles": [{"what": "LM profile a", "level": "ok", "found": "openai/a, with a key", "fix": ""}],
        "allowed_packages": {"shop": "shop 1.0"},
        **changes,
    }


def checks(**reports: dict[str, Any]) -> dict[str, Check]:
    found = list(check_workers(reports, "predictions"))
    return {check.what: check for check in found}


def test_workers_that_agree_are_told_of_once() -> None:
    assert checks(one=report(), two=report()) == {
        "queue": Check("queue", "ok", "2 workers consume 'predictions'"),
        "LM profile a": Check("LM profile a", "ok", "openai/a, with a key"),
        "package shop": Check("package shop", "ok", "shop 1.0"),
    }


def test_a_queue_that_nobody_takes_from_fails_and_names_those_that_are_taken_from() -> None:
    found = checks(one=report(queues=["gpu"]), two=report(queues=["predictions.code"]))
    assert found["queue"].level == "fail"
    assert found["queue"].found == "no worker consumes 'predictions', only gpu, predictions.code"


def test_a_worker_that_leaves_messages_to_newer_ones_fails_by_name() -> None:
    found = checks(one=report(newer_release=""), two=report(newer_release="a message has version 2"), three=report())
    failed = {what: check.found for what, check in found.items() if check.level == "fail"}
    assert failed == {"release of two": "two isn't ready: a message has version 2"}


def test_profiles_that_differ_are_told_by_worker() -> None:
    missing = {"what": "LM profile a", "level": "fail", "found": "there is no key", "fix": "set it"}
    found = checks(one=report(), two=report(profiles=[missing]), three=report(profiles=[]))
    assert found["LM profile a of one"].level == "ok"
    assert found["LM profile a of two"] == Check("LM profile a of two", "fail", "there is no key", "set it")
    assert found["LM profile a"].level == "warn"
    assert "three doesn't have it" in found["LM profile a"].found


def test_deployments_that_agree_are_told_once_and_others_by_worker() -> None:
    late = {"what": "time to stop", "level": "warn", "found": "30 s of 60 s", "fix": "raise it"}
    found = checks(one=report(deployment=[late]), two=report(deployment=[late]), three=report())
    assert found["time to stop"] == Check("time to stop", "warn", "30 s of 60 s", "raise it")
    found = checks(one=report(deployment=[late]), two=report(deployment=[{**late, "level": "ok"}]))
    assert [found[f"time to stop of {name}"].level for name in ("one", "two")] == ["warn", "ok"]


def test_packages_that_differ_are_told() -> None:
    found = checks(one=report(), two=report(allowed_packages={"shop": "shop 2.0"}))
    assert found["package shop"].level == "warn"
    assert "shop 1.0, shop 2.0" in found["package shop"].found
    found = checks(one=report(), two=report(allowed_packages={}))
    assert (found["package shop"].level, found["package shop"].found) == ("warn", "not every worker may use it")


def test_versions_that_differ_are_told_with_this_clients() -> None:
    packages = {name: version(name) for name in PACKAGES} | {"dspy": "3.3.9"}
    found = checks(one=report(), two=report(packages=packages))
    assert found["dspy of the workers"].level == "warn"
    assert f"one {version('dspy')}, two 3.3.9; here {version('dspy')}" in found["dspy of the workers"].found
    assert set(found) == {"queue", "LM profile a", "package shop", "dspy of the workers"}


@pytest.mark.parametrize(
    ("use", "level", "says"),
    [
        ((8_192, 40, 8_000, None), "ok", "has 40 of 8192"),
        ((0, 40, 0, None), "ok", "has 40, without a limit"),
        ((256, 40, 140, None), "warn", "has 40 of 256, so that it makes at most 140 LM calls at a time"),
        ((256, 250, 140, 12.3), "fail", "has 250 of 256; the limit was reached 12 s ago, and work had to wait"),
        ((8_192, 40, 8_000, 7_200.0), "ok", "has 40 of 8192"),
    ],
)
def test_open_files_are_told_by_worker(use: tuple[int, int, int, float | None], level: str, says: str) -> None:
    found = checks(one=report(open_files=asdict(FileUsage(*use))))["open files"]
    assert (found.level, found.found) == (level, f"one {says}")
    assert ("ulimit" in found.fix) == (level != "ok")

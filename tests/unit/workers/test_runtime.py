"""The runtime of a worker process: one per process, built from the settings after the fork."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from config.settings import FleetSettings
from snakepit_bridge.exceptions import ConfigurationError
from tests.harness.waiting import PATIENCE_S, wait_until
from tests.harness.worker_settings import KEY_VARIABLE, offline_settings, write_profiles
from workers import runtime as runtime_module
from workers.runtime import RuntimeSlot, build_runtime

_CHILD_S = 20


@pytest.fixture
def profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(KEY_VARIABLE, "sk-secret")
    return write_profiles(tmp_path)


def in_child(look: Callable[[], bytes]) -> bytes:
    """What a forked child saw; nothing, if it did not come back."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(_CHILD_S)
        try:
            os.write(writer, look())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        seen = pipe.read()
    assert os.waitpid(pid, 0)[1] == 0, "the child ended or hung"
    return seen


# ---------------------------------------------------------------- the slot


def test_threads_that_ask_at_once_share_one_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[object] = []
    together = threading.Barrier(8)

    def slow(_: FleetSettings, **__: bool) -> object:
        built.append(object())
        wait_until(lambda: waiting() >= 1, "another thread to ask meanwhile")
        return built[-1]

    entered: list[int] = []

    def waiting() -> int:
        return len(entered) - len(built)

    monkeypatch.setattr(runtime_module, "build_runtime", slow)
    slot = RuntimeSlot(offline_settings())

    def ask() -> object:
        together.wait()
        entered.append(1)
        return slot.get()

    with ThreadPoolExecutor(8) as threads:
        answers = [future.result() for future in [threads.submit(ask) for _ in range(8)]]
    assert len(built) == 1
    assert set(map(id, answers)) == {id(built[0])}


def test_nothing_is_built_before_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime_module, "build_runtime", lambda *_, **__: pytest.fail("built too early"))
    RuntimeSlot(offline_settings())


def test_a_forked_child_forgets_its_parents_runtime_and_builds_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime_module, "build_runtime", lambda *_, **__: os.getpid())
    slot: Any = RuntimeSlot(offline_settings())
    assert slot.get() == os.getpid()

    def look() -> bytes:
        return f"{slot.get()} {os.getpid()}".encode()

    first, second = in_child(look).split()
    assert first == second != str(os.getpid()).encode()
    assert slot.get() == os.getpid()


def test_a_fork_while_another_thread_builds_does_not_block_the_child(monkeypatch: pytest.MonkeyPatch) -> None:
    parent, building, go_on = os.getpid(), threading.Event(), threading.Event()

    def build(_: FleetSettings, **__: bool) -> int:
        if os.getpid() == parent:
            building.set()
            assert go_on.wait(PATIENCE_S)
        return os.getpid()

    monkeypatch.setattr(runtime_module, "build_runtime", build)
    slot: Any = RuntimeSlot(offline_settings())
    with ThreadPoolExecutor(1) as threads:
        mine = threads.submit(slot.get)
        assert building.wait(PATIENCE_S)
        # The lock is held here; in the child nobody would ever give it back.
        assert in_child(lambda: b"built" if slot.get() == os.getpid() else b"not") == b"built"
        go_on.set()
        assert mine.result() == parent


def test_a_runtime_that_could_not_be_built_is_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "lm.toml"
    slot = RuntimeSlot(offline_settings(lm_profiles=path))
    with pytest.raises(ConfigurationError):
        slot.get()
    path.write_text('[profiles.a]\nmodel = "openai/a"', encoding="utf-8")
    assert slot.get() is slot.get()


# ---------------------------------------------------------------- the runtime


def test_the_settings_reach_the_runtime(profiles: Path) -> None:
    runtime = build_runtime(
        offline_settings(
            lm_profiles=profiles, result_expires_s=9, task_attempts=4, retry_backoff_s=0.5, redis_timeout_s=0.25
        )
    )
    assert runtime.keep_s == 9
    assert {(profile.retry.attempts, profile.retry.backoff_s) for profile in runtime.profiles} == {(4, 0.5)}
    assert runtime.results.timeout_s == 0.25
    # Only a profile that has a bound is bounded.
    assert {name: limit._value for name, limit in runtime.concurrency_limits.items()} == {"first": 2}


def test_a_runtime_shows_no_password() -> None:
    runtime = build_runtime(offline_settings(redis_url="redis://:hunter2@127.0.0.1:1/0"))
    assert "hunter2" not in repr(runtime)


def test_sessions_are_reported_as_wanted_only_where_a_refresher_follows_elixir() -> None:
    assert build_runtime(offline_settings()).sessions.wanted is None
    assert build_runtime(offline_settings(bridge="elixir:50051")).sessions.wanted is not None


def test_a_worker_with_a_profile_that_its_model_refuses_does_not_start(tmp_path: Path) -> None:
    path = tmp_path / "lm.toml"
    path.write_text('[profiles.a]\nmodel = "openai/o3-mini"\nparameters = { temperature = 0.7 }\n', encoding="utf-8")
    with pytest.raises(ConfigurationError, match="LM profile 'a' can't be used: openai/o3-mini takes no temperature"):
        build_runtime(offline_settings(lm_profiles=path))

"""The life of a worker process: one runtime per process, made after the fork, its profiles from file or setting."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery.concurrency import get_implementation
from celery.signals import worker_init, worker_process_init

from config.settings import FleetSettings
from snakepit_bridge.exceptions import ConfigurationError
from tests.harness.waiting import wait_until
from workers import lifecycle
from workers.app import FleetApp
from workers.lifecycle import RuntimeSlot, build_runtime, load_profiles

_CHILD_S = 20

ROOT = Path(__file__).parents[3]
PROFILES = """\
default = "second"
[profiles.first]
model = "openai/one"
limits = { max_in_flight = 2 }
[profiles.second]
model = "openai/two"
api_key_env = "LIFECYCLE_KEY"
"""


def settings(**fields: Any) -> FleetSettings:
    return FleetSettings.model_validate({"redis_url": "redis://127.0.0.1:1/0", **fields})


@pytest.fixture
def profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIFECYCLE_KEY", "sk-secret")
    path = tmp_path / "lm.toml"
    path.write_text(PROFILES, encoding="utf-8")
    return path


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

    monkeypatch.setattr(lifecycle, "build_runtime", slow)
    slot = RuntimeSlot(settings())

    def ask() -> object:
        together.wait()
        entered.append(1)
        return slot.get()

    with ThreadPoolExecutor(8) as threads:
        answers = [future.result() for future in [threads.submit(ask) for _ in range(8)]]
    assert len(built) == 1
    assert set(map(id, answers)) == {id(built[0])}


def test_nothing_is_built_before_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "build_runtime", lambda *_, **__: pytest.fail("built too early"))
    RuntimeSlot(settings())


def test_a_forked_child_forgets_its_parents_runtime_and_builds_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "build_runtime", lambda *_, **__: os.getpid())
    slot: Any = RuntimeSlot(settings())
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
            assert go_on.wait(30)
        return os.getpid()

    monkeypatch.setattr(lifecycle, "build_runtime", build)
    slot: Any = RuntimeSlot(settings())
    with ThreadPoolExecutor(1) as threads:
        mine = threads.submit(slot.get)
        assert building.wait(30)
        # The lock is held here; in the child nobody would ever give it back.
        assert in_child(lambda: b"built" if slot.get() == os.getpid() else b"not") == b"built"
        go_on.set()
        assert mine.result() == parent


def test_a_runtime_that_could_not_be_built_is_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "lm.toml"
    slot = RuntimeSlot(settings(lm_profiles=path))
    with pytest.raises(ConfigurationError):
        slot.get()
    path.write_text('[profiles.a]\nmodel = "openai/a"', encoding="utf-8")
    assert slot.get() is slot.get()


# ---------------------------------------------------------------- the runtime


def test_the_settings_reach_the_runtime(profiles: Path) -> None:
    runtime = build_runtime(
        settings(lm_profiles=profiles, result_expires_s=9, task_attempts=4, retry_backoff_s=0.5, redis_timeout_s=0.25)
    )
    assert runtime.keep_s == 9
    assert {(profile.retry.attempts, profile.retry.backoff_s) for profile in runtime.profiles} == {(4, 0.5)}
    assert runtime.results.timeout_s == 0.25
    # Only a profile that has a bound is bounded.
    assert {name: limit._value for name, limit in runtime.concurrency_limits.items()} == {"first": 2}


def test_a_runtime_shows_no_password() -> None:
    runtime = build_runtime(settings(redis_url="redis://:hunter2@127.0.0.1:1/0"))
    assert "hunter2" not in repr(runtime)


def test_sessions_are_reported_as_wanted_only_where_a_refresher_follows_elixir() -> None:
    assert build_runtime(settings()).sessions.wanted is None
    assert build_runtime(settings(bridge="elixir:50051")).sessions.wanted is not None


# ---------------------------------------------------------------- LM profiles


def test_the_file_declares_the_profiles_and_their_default(profiles: Path) -> None:
    found = load_profiles(settings(lm_profiles=profiles, lm="openai/other"))
    assert [(profile.name, profile.model) for profile in found] == [("first", "openai/one"), ("second", "openai/two")]
    assert found.default == "second"
    key = found["second"].api_key
    assert key is not None
    assert key.get_secret_value() == "sk-secret"


def test_one_model_makes_one_profile() -> None:
    found = load_profiles(settings(lm="openai/gpt-4o"))
    assert [(profile.name, profile.model, profile.api_key) for profile in found] == [("default", "openai/gpt-4o", None)]
    assert found.default == "default"


def test_a_fleet_can_be_without_profiles() -> None:
    found = load_profiles(settings())
    assert not found
    assert list(found) == []


def test_a_key_that_is_not_in_the_environment_is_named(profiles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIFECYCLE_KEY")
    with pytest.raises(ConfigurationError, match=r"LIFECYCLE_KEY.* isn't set\. Correct the file or the environment\."):
        load_profiles(settings(lm_profiles=profiles))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "can't be read"),
        ("default = ", "isn't TOML"),
        ("[profiles.a]\nmodle = 'x'", r"is wrong at profiles\.a\.model"),
        ("default = 'b'\n[profiles.a]\nmodel = 'x'", "default LM profile 'b' isn't one of: a"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(text: str | None, says: str, tmp_path: Path) -> None:
    path = tmp_path / "lm.toml"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=says):
        load_profiles(settings(lm_profiles=path))


# ---------------------------------------------------------------- DSPy


CACHES = """
import os
os.environ.pop("LITELLM_LOCAL_MODEL_COST_MAP", None)
from celery.signals import {signal}
import workers.lifecycle
{signal}.send(sender=None)
import dspy
print(dspy.cache.enable_disk_cache, dspy.cache.enable_memory_cache, os.environ["LITELLM_LOCAL_MODEL_COST_MAP"])
"""


@pytest.mark.parametrize("signal", ["worker_init", "worker_process_init"])
def test_a_worker_answers_nothing_from_a_cache_and_looks_nothing_up(signal: str, tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", CACHES.format(signal=signal)],
        cwd=ROOT,
        env={**os.environ, "DSPY_CACHEDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.stdout.split() == ["False", "False", "True"], ran.stderr


def test_dspy_is_loaded_before_the_fork_and_prepared_after_it() -> None:
    assert lifecycle._before_fork in [ref() for _, ref in worker_init.receivers]
    assert lifecycle._after_fork in [ref() for _, ref in worker_process_init.receivers]


def test_a_forked_process_prepares_dspy_without_a_warning() -> None:
    script = (
        "import logging, workers.lifecycle as lifecycle; logging.basicConfig();"
        "lifecycle._before_fork(); lifecycle.load_dspy()"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, "")


def test_an_operators_own_word_on_the_cost_map_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "False")
    lifecycle.load_dspy()
    assert os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] == "False"


# ---------------------------------------------------------------- programs that execute code


@pytest.mark.parametrize(
    ("pool", "queues", "shares"),
    [
        ("workers.pool:AsyncioPool", ["predictions"], True),
        ("threads", ["predictions"], True),
        ("prefork", ["predictions"], False),
        ("solo", ["predictions"], False),
        ("threads", ["predictions", "predictions.code"], False),
    ],
)
def test_a_worker_whose_tasks_share_a_process_hands_code_on_unless_it_was_told_to_take_it(
    pool: str, queues: list[str], shares: bool
) -> None:
    app = FleetApp(settings())
    app.amqp.queues.select(queues)
    assert lifecycle.shares_process(SimpleNamespace(app=app, pool_cls=get_implementation(pool))) is shares
    app.slot.shares_process = shares
    assert app.runtime.shares_process is shares


def test_a_worker_with_a_profile_that_its_model_refuses_does_not_start(tmp_path: Path) -> None:
    """KINDS 15: it would fail each of its predictions."""
    path = tmp_path / "lm.toml"
    path.write_text('[profiles.a]\nmodel = "openai/o3-mini"\nparameters = { temperature = 0.7 }\n', encoding="utf-8")
    with pytest.raises(ConfigurationError, match="LM profile 'a' can't be used: openai/o3-mini takes no temperature"):
        build_runtime(settings(lm_profiles=path))

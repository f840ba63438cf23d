"""The parts: each is up before the demo goes on, gone after it, and says its last words where it does not come up."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from config.lm_profiles import read_profiles
from snakepit_bridge.client import Fleet
from snakepit_bridge.exceptions import ConfigurationError, StoreUnavailableError
from snakepit_bridge.testing import RecordingLM
from workers.dev.demo import parts
from workers.dev.demo.parts import STAND_IN, DemoLM, language_model, redis_server, worker_processes

# ---------------------------------------------------------------- Redis


def test_a_redis_that_is_given_is_used_and_left_alone(redis_url: str, tmp_path: Path) -> None:
    with redis_server(redis_url, tmp_path) as url:
        assert url == redis_url
    with Redis.from_url(redis_url) as client:
        assert client.ping()
    assert list(tmp_path.iterdir()) == []


def test_a_redis_that_is_given_and_away_is_named_without_its_password(tmp_path: Path) -> None:
    with (
        pytest.raises(StoreUnavailableError, match=r"127\.0\.0\.1:1/0 is away") as raised,
        redis_server("redis://:hunter2@127.0.0.1:1/0", tmp_path),
    ):
        pytest.fail("it answered")
    assert "hunter2" not in str(raised.value)


def test_without_one_an_embedded_server_runs_until_the_end(tmp_path: Path) -> None:
    with redis_server(None, tmp_path) as url, Redis.from_url(url) as client:
        assert client.ping()
    with Redis.from_url(url) as client, pytest.raises(RedisConnectionError):
        client.ping()


# ---------------------------------------------------------------- the LM


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ("openai/gpt-4o", DemoLM("default", "openai/gpt-4o", {"DSPEX_LM": "openai/gpt-4o"}, None)),
        # A profile is one that the environment's own file declares.
        ("smart", DemoLM("smart", "smart", {}, None)),
    ],
)
def test_an_lm_that_is_named_is_asked_for_by_its_name(named: str, expected: DemoLM, tmp_path: Path) -> None:
    with language_model(named, tmp_path / "questions.jsonl", tmp_path) as lm:
        assert lm == expected
        assert lm.requests() == []
    assert list(tmp_path.iterdir()) == []


def test_the_requests_are_read_from_the_lms_own_log() -> None:
    with RecordingLM() as server:
        for temperature in (0.1, 0.2):
            body = {"model": "demo", "messages": [{"role": "user", "content": "hi"}], "temperature": temperature}
            httpx.post(f"{server.url}/chat/completions", json=body, timeout=30)
        lm = DemoLM("demo", "demo", {}, server.url.removesuffix("/v1") + "/requests")
        assert [one.temperature for one in lm.requests()] == [0.1, 0.2]
        assert [one.body for one in lm.requests()] == [one.body for one in server.requests]


def test_the_stand_in_is_declared_by_a_profile_that_says_what_it_is(tmp_path: Path) -> None:
    questions = tmp_path / "questions.jsonl"
    questions.write_text(json.dumps({"id": "1", "program": "math", "inputs": {"question": "why?"}, "expected": {}}))
    with language_model(None, questions, tmp_path) as lm:
        (profile,) = read_profiles(Path(lm.environment["DSPEX_LM_PROFILES"])).values(lm.environment)
        assert (profile["name"], profile["note"]) == (lm.profile, STAND_IN) == ("demo", STAND_IN)
        assert STAND_IN in lm.label
        assert httpx.get(f"{profile['api_base']}/models", timeout=30).is_success
        assert lm.requests() == []
        assert lm.log is not None
        httpx.get(lm.log, timeout=30).raise_for_status()
    with pytest.raises(httpx.ConnectError):
        httpx.get(lm.log, timeout=5)


def test_a_stand_in_that_does_not_come_up_says_its_last_words(tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigurationError, match=r"stand-in LM ended at its start\. Its last words: .*nowhere"),
        language_model(None, tmp_path / "nowhere.jsonl", tmp_path),
    ):
        pytest.fail("it came up")


# ---------------------------------------------------------------- the workers


def test_a_worker_that_does_not_come_up_says_its_last_words(redis_url: str, tmp_path: Path) -> None:
    environment = {"DSPEX_REDIS_URL": redis_url, "DSPEX_TASK_ATTEMPTS": "none"}
    with (
        pytest.raises(ConfigurationError, match=r"ended at its start\. Its last words: .*task_attempts"),
        worker_processes(Fleet(redis_url), 1, "threads", environment, tmp_path),
    ):
        pytest.fail("it came up")


@pytest.mark.keeps_keys(r"own-queue.*")
def test_workers_are_up_within_and_gone_after(redis_url: str, tmp_path: Path) -> None:
    fleet = Fleet(redis_url, namespace="demo-parts", queue="own-queue")
    environment = {"DSPEX_REDIS_URL": redis_url, "DSPEX_NAMESPACE": "demo-parts", "DSPEX_QUEUE": "own-queue"}
    with worker_processes(fleet, 2, "threads", environment, tmp_path) as workers:
        assert all(worker.running for worker in workers)
        queues = fleet.app.control.inspect(timeout=5, limit=2).active_queues()
        assert {name.split("@")[0] for name in queues} == {"demo1", "demo2"}
        assert {queue["name"] for each in queues.values() for queue in each} == {"own-queue"}
    assert not any(worker.running for worker in workers)
    assert [worker.returncode for worker in workers] == [0, 0], "they ended in good order"


def test_workers_end_with_the_demo_that_fails(redis_url: str, tmp_path: Path) -> None:
    seen = []
    with (  # noqa: PT012  (the block is what fails)
        pytest.raises(ZeroDivisionError),
        worker_processes(Fleet(redis_url), 1, "solo", {"DSPEX_REDIS_URL": redis_url}, tmp_path) as workers,
    ):
        seen += workers
        raise ZeroDivisionError
    assert [worker.running for worker in seen] == [False]


def test_what_never_shows_a_sign_is_given_up_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "_READY_S", 0.1)
    log = tmp_path / "log"
    log.write_text("\n".join(f"line {n}" for n in range(9)))
    said = r"no sign of any life within 0\.1 s\. Last words: line 4 / line 5 / line 6 / line 7 / line 8$"
    with pytest.raises(ConfigurationError, match=said):
        parts.await_condition(lambda: None, "any life", [log])
    log.write_bytes(b"")
    with pytest.raises(ConfigurationError, match="Last words: none"):
        parts.await_condition(lambda: False, "any life", [log])


def test_the_sign_itself_is_returned() -> None:
    signs = iter([None, "", "here"])
    assert parts.await_condition(lambda: next(signs), "a sign", []) == "here"


def test_parts_run_from_the_checkout() -> None:
    assert (parts.ROOT / "workers" / "app.py").is_file()

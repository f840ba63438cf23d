"""The parts: each is up before the demo goes on, gone after it, and says its last words where it does not come up."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import httpx
import pytest

from config.lm_profiles import read_profiles
from snakepit_bridge.exceptions import ConfigurationError, StoreUnavailableError
from snakepit_bridge.testing import RecordingLM
from workers.dev.demo import parts
from workers.dev.demo.parts import STAND_IN, DemoLM, language_model, redis_server

# ---------------------------------------------------------------- Redis


def test_a_redis_that_is_given_and_away_is_named_without_its_password(tmp_path: Path) -> None:
    with (
        pytest.raises(StoreUnavailableError, match=r"127\.0\.0\.1:1/0 is away") as raised,
        redis_server("redis://:hunter2@127.0.0.1:1/0", tmp_path),
    ):
        pytest.fail("it answered")
    assert "hunter2" not in str(raised.value)


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
        assert [request.temperature for request in lm.requests()] == [0.1, 0.2]
        assert [request.body for request in lm.requests()] == [request.body for request in server.requests]


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


def test_what_never_shows_a_sign_is_given_up_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "_READY_S", 0.1)
    log = tmp_path / "log"
    log.write_text("\n".join(f"line {n}" for n in range(9)))
    message = r"no sign of any life within 0\.1 s\. Last words: line 4 / line 5 / line 6 / line 7 / line 8$"
    with pytest.raises(ConfigurationError, match=message):
        parts.await_condition(lambda: None, "any life", [log])
    log.write_bytes(b"")
    with pytest.raises(ConfigurationError, match="Last words: none"):
        parts.await_condition(lambda: False, "any life", [log])


def test_the_sign_itself_is_returned() -> None:
    signs = iter([None, "", "here"])
    assert parts.await_condition(lambda: next(signs), "a sign", []) == "here"


def test_the_modules_of_the_working_directory_do_not_shadow_the_fleets(tmp_path: Path) -> None:
    for name in ("workers", "tasks", "config"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')\n")
    command = [*parts.PYTHON, "-c", "import workers.pools; print(workers.pools.Pool.asyncio)"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.stdout.strip() == "asyncio", ran.stderr

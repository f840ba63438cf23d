"""Batch tiers: predictions wait outside of workers for their providers' batches, and nothing is asked twice."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from snakepit_bridge.cli import main
from snakepit_bridge.client import Fleet
from snakepit_bridge.client.handle import Handle
from tests.harness.programs import Chains, Twice
from tests.harness.servers import await_log_written
from tests.harness.stage import Stage, fresh, stage
from tests.harness.waiting import wait_until
from workers.dev.redis_server import EmbeddedRedis

PACKAGES = "tests.harness.programs"
_PROFILES = """
[profiles.night]
model = "openai/night"
api_base = "{url}"
api_key_env = "STAGE_LM_KEY"
tier = "batch"
fallbacks = ["demo"]
batch = {{ wait_s = 0.5, poll_s = 0.2, send_timeout_s = 2, tries = 1 }}
price = {{ input = 1000, output = 1000 }}

[profiles.claude]
model = "anthropic/night"
api_base = "{url}"
api_key_env = "STAGE_LM_KEY"
tier = "batch"
batch = {{ wait_s = 0.5, poll_s = 0.2, send_timeout_s = 2 }}
"""

pytestmark = pytest.mark.chaos


@pytest.fixture
def redis(tmp_path: Path) -> Generator[EmbeddedRedis]:
    with EmbeddedRedis.start(tmp_path / "redis", aof=True) as server:
        yield server


@pytest.fixture
def play(tmp_path: Path, redis: EmbeddedRedis) -> Generator[Stage]:
    settings: dict[str, Any] = {"DSPEX_LEASE_S": "1", "DSPEX_ALLOWED_PACKAGES": PACKAGES}
    with stage(tmp_path, worker=False, url=redis.url, **settings) as play:
        profiles = Path(play.settings["DSPEX_LM_PROFILES"])
        profiles.write_text(profiles.read_text() + _PROFILES.format(url=play.lm.url))
        fleet = Fleet(play.url, allowed_packages=(PACKAGES,))
        fleet.register("twice", Twice(), lm="night", trial=False)
        fleet.register("chains", Chains(), lm="claude", trial=False)
        yield play


def requests_with(play: Stage, text: str) -> int:
    return sum(request.inputs.get("question") == text for request in play.lm.requests)


def parked(play: Stage) -> int:
    with Redis.from_url(play.url) as client:
        count: Any = client.hlen("dspex:{lm-batches}:parked")
        return count


@pytest.mark.timeout(300)
def test_batches_survive_the_death_of_everybody(play: Stage) -> None:
    """Each program goes through two waves. Workers die while they park, send, wait and hand out; a reply is lost."""
    play.lm.batches.faults.delay_s = 2.0
    play.lm.batches.faults.drop_created = 1
    questions = [fresh("q") for _ in range(6)]
    handles = [play.fleet.submit("twice", {"question": question}) for question in questions[:2]]
    handles += play.fleet.submit_batch("twice", [{"question": question} for question in questions[2:4]])
    handles += [play.fleet.submit("chains", {"question": question}) for question in questions[4:]]
    worker = play.start(pool="asyncio", concurrency=4)
    wait_until(lambda: parked(play) == 6, "the predictions to be parked")
    worker.kill(signal.SIGKILL)
    worker = play.start(pool="asyncio", concurrency=4)
    wait_until(lambda: play.lm.batches.batches, "a batch")
    worker.kill(signal.SIGKILL)
    play.start(pool="asyncio", concurrency=4)
    for question, handle in zip(questions[:4], handles, strict=False):
        result = handle.get(120)
        assert result.answer == f"answer of answer of {question}"
        assert requests_with(play, question) == requests_with(play, f"answer of {question}") == 1
        assert result.provenance.lm_usage["night"]["calls"] == 2
        assert result.provenance.answered == {"night": 2}
    for question, handle in zip(questions[4:], handles[4:], strict=True):
        ends = [f"answer of answer of {question} {side}" for side in ("left", "right")]
        assert handle.get(120).answer == " and ".join(ends)
        assert requests_with(play, f"{question} left") == requests_with(play, f"answer of {question} right") == 1
    sent = play.lm.batches.custom_ids()
    assert len(sent) == len(set(sent)) == 4 * 2 + 2 * 4
    with Redis.from_url(play.url) as client:
        left = [key.decode() for key in client.scan_iter("dspex:{lm-batches}:*")]
        assert {name.rsplit(":", 1)[0] for name in left} <= {"dspex:{lm-batches}:ended", "dspex:{lm-batches}"}
        assert not list(client.scan_iter("*:journal"))


@pytest.mark.timeout(300)
def test_redis_dies_while_a_batch_is_under_way_and_failed_or_cancelled_ones_go_to_the_fallback(
    play: Stage, redis: EmbeddedRedis, capsys: pytest.CaptureFixture[str]
) -> None:
    play.start(pool="asyncio", concurrency=4)

    def submit() -> tuple[str, Handle]:
        question = fresh("q")
        return question, play.fleet.submit("twice", {"question": question})

    play.lm.batches.faults.delay_s = 1.5
    question, handle = submit()
    [batch] = wait_until(lambda: list(play.lm.batches.batches.values()), "a batch")
    await_log_written(redis.url)
    redis.kill()
    wait_until(lambda: time.time() > batch.created_at + 1.5, "the provider to be done with it")
    redis.restart()
    result = handle.get(120)
    assert result.answer == f"answer of answer of {question}"
    assert result.provenance.answered == {"night": 2}
    assert requests_with(play, question) == requests_with(play, f"answer of {question}") == 1

    play.lm.batches.faults.delay_s = 0.0
    play.lm.batches.faults.fail = 1
    question, handle = submit()
    result = handle.get(120)
    assert result.answer == f"answer of answer of {question}"
    assert result.provenance.answered == {"demo": 1, "night": 1}

    play.lm.batches.faults.delay_s = 600.0
    question, handle = submit()
    [batch] = wait_until(lambda: running(play, capsys), "the batch to run")
    assert run(play, capsys, "show", batch["id"], "--json")["profile"] == "night"
    assert batch["id"] in run(play, capsys, "cancel", batch["id"])
    wait_until(lambda: run(play, capsys, "show", batch["id"], "--json")["state"] == "ended", "the batch to end")
    play.lm.batches.faults.delay_s = 0.0
    assert run(play, capsys, "show", batch["id"], "--json")["provider_status"] == "cancelled"
    assert "Predictions waiting: " in run(play, capsys, "list")
    assert handle.get(120).provenance.answered == {"demo": 1, "night": 1}


def run(play: Stage, capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    """Return what a command prints, as JSON where it was asked for."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["--redis-url", play.url, "lm-batches", *arguments])
    out, err = capsys.readouterr()
    assert not ended.value.code, err
    return json.loads(out) if "--json" in arguments else out


def running(play: Stage, capsys: pytest.CaptureFixture[str]) -> list[Any]:
    """Return the batches that their provider works on."""
    listed = run(play, capsys, "list", "--json")["batches"]
    return [batch for batch in listed if batch["provider_id"] and batch["state"] != "ended"]

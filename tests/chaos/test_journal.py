"""The journal under kill -9: what an LM has answered is never asked again, in whatever pool and however it was sent."""

from __future__ import annotations

import signal
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import dspy
import pytest
from redis import Redis

from snakepit_bridge.client import Fleet
from tests.harness.broker import held
from tests.harness.programs import Twice
from tests.harness.stage import Stage, fresh, stage
from tests.harness.waiting import PATIENCE_S, wait_until

SETTINGS: dict[str, Any] = {"DSPEX_LEASE_S": "1", "DSPEX_ALLOWED_PACKAGES": "tests.harness.programs"}

pytestmark = pytest.mark.chaos


@pytest.fixture
def play(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stage]:
    with stage(tmp_path_factory.mktemp("stage"), worker=False, **SETTINGS) as play:
        fleet = Fleet(play.url, allowed_packages=("tests.harness.programs",))
        fleet.register("twice", Twice(), trial=False)
        fleet.register("once", dspy.Predict("question -> answer"), journal=True)
        yield play


def journals(play: Stage) -> list[Any]:
    with Redis.from_url(play.url) as client:
        return list(client.scan_iter("*:journal"))


def exact_requests(play: Stage, text: str) -> int:
    return sum(request.inputs.get("question") == text for request in play.lm.requests)


@contextmanager
def journal_events(play: Stage) -> Generator[list[str]]:
    """Collects what happens to the keys of journals within the block."""
    with Redis.from_url(play.url) as client, client.pubsub() as events:
        database = client.connection_pool.connection_kwargs["db"]
        client.config_set("notify-keyspace-events", "AK")
        events.psubscribe(f"__keyspace@{database}__:*:journal")
        seen: list[str] = []
        yield seen
        client.publish(f"__keyspace@{database}__:last:journal", "last")
        while not seen or seen[-1] != "last":
            message: Any = events.get_message(timeout=PATIENCE_S)
            if message is not None and message["type"] == "pmessage":
                seen.append(message["data"].decode())


@pytest.mark.timeout(240)
def test_answers_survive_their_workers(play: Stage) -> None:
    """Singles and a batch, on two pools: the second call of each is in flight when its worker is killed, twice."""
    play.lm.hang(containing="answer of q-", times=8)
    questions: Sequence[str] = [fresh("q") for _ in range(4)]
    handles = [play.fleet.submit("twice", {"question": question}) for question in questions[:2]]
    handles += play.fleet.submit_batch("twice", [{"question": question} for question in questions[2:]])
    for count, pool in ((1, "asyncio"), (2, "threads")):
        worker = play.start(pool=pool, concurrency=8)
        for question in questions:
            wait_until(
                lambda question=question, count=count: exact_requests(play, f"answer of {question}") == count, "it"
            )
        assert len(journals(play)) == 4
        worker.kill(signal.SIGKILL)
    play.start(pool="prefork", concurrency=2)
    for question, handle in zip(questions, handles, strict=True):
        result = handle.get(PATIENCE_S)
        assert result.answer == f"answer of answer of {question}"
        assert exact_requests(play, question) == 1, "its first answer was there"
        assert exact_requests(play, f"answer of {question}") == 3, "two were in flight when their worker died"
        provenance = result.provenance
        assert (provenance.replayed, provenance.unused) == (1, 0)
        assert (provenance.lm_usage["demo"]["calls"], provenance.cost_usd) == (2, handles[0].get().provenance.cost_usd)
    with Redis.from_url(play.url) as client:
        wait_until(lambda: not held(client), "the acknowledgements")
    assert journals(play) == []

    with journal_events(play) as events:
        play.fleet.submit("once", {"question": fresh("q")}).get(PATIENCE_S)
    assert events == ["last"], "what the commit follows at once is never written"
    with journal_events(play) as events:
        play.fleet.submit("twice", {"question": fresh("q")}).get(PATIENCE_S)
    assert events == ["hset", "expire", "del", "last"]

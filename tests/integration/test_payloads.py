"""Large inputs and results on real workers: they travel beside their messages, and nobody notices."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import dspy
import pytest
from celery import chain, group
from redis import Redis

from snakepit_bridge.client import Fleet
from snakepit_bridge.exceptions import InputError, PayloadLostError
from tests.harness.stage import Stage, fresh, stage
from tests.harness.waiting import wait_until

LIMIT = 5_000


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stage]:
    folder = tmp_path_factory.mktemp("stage")
    with stage(folder, pool="asyncio", DSPEX_PAYLOAD_BYTES=str(LIMIT), DSPEX_RESULT_EXPIRES_S="600") as play:
        play.fleet.register("plain", dspy.Predict("question -> answer"))
        play.fleet.register("several", dspy.Predict("question -> answer", n=2, temperature=1.0))
        yield play


@pytest.fixture
def fleet(play: Stage) -> Fleet:
    return Fleet(play.url, wait_s=30, payload_bytes=LIMIT, result_expires_s=600)


def large(size: int = 20_000) -> str:
    return fresh("q") + " " + "x" * size


def payloads(play: Stage) -> set[Any]:
    with Redis.from_url(play.url) as client:
        return set(client.keys("dspex:payload:*"))


def test_large_inputs_and_results_travel_beside_their_messages(play: Stage, fleet: Fleet) -> None:
    before, question = payloads(play), large()
    with play.held():
        handle = fleet.submit("plain", {"question": question})
        with Redis.from_url(play.url) as client:
            [queue] = [key for key in client.keys("predictions*") if client.type(key) == b"list"]
            message: Any = client.lindex(queue, 0)
            assert message is not None
            assert len(message) < LIMIT
    assert handle.get().answer == f"answer of {question}"
    with Redis.from_url(play.url) as client:
        assert client.strlen(f"celery-task-meta-{handle.id}") < LIMIT
        new = payloads(play) - before
        assert len(new) == 2, "the inputs and the result"
        assert all(500 < client.ttl(key) <= 600 for key in new)


def test_small_ones_do_not(play: Stage, fleet: Fleet) -> None:
    before = payloads(play)
    fleet.submit("plain", {"question": fresh("q")}).get()
    assert payloads(play) == before


def test_a_batch_carries_large_inputs_by_reference(play: Stage, fleet: Fleet) -> None:
    questions = [large(), fresh("q"), large()]
    handles = fleet.submit_batch("plain", [{"question": question} for question in questions])
    assert [handle.get().answer for handle in handles] == [f"answer of {question}" for question in questions]


def test_a_chain_hands_a_large_result_on(play: Stage, fleet: Fleet) -> None:
    question = large()
    first = fleet.signature("plain", {"question": question})
    steps = chain(first, fleet.signature("plain", take={"question": "answer"}))
    assert fleet.handle(steps.apply_async().id).get().answer == f"answer of answer of {question}"


def test_a_group_hands_its_large_results_on(play: Stage, fleet: Fleet) -> None:
    fleet.register("joined", dspy.Predict("questions: list[str] -> answer"))
    questions = [large(), large()]
    first = group(fleet.signature("plain", {"question": question}) for question in questions)
    steps = chain(first, fleet.signature("joined", take={"questions": "answer"}))
    prediction = fleet.handle(steps.apply_async().id).get()
    assert prediction.provenance.program == "joined"


def test_a_large_prediction_is_replayed(play: Stage, fleet: Fleet) -> None:
    question = large()
    token = fleet.session("s").blocking.set_variables({"temp": 0.5})
    handle = fleet.submit("plain", {"question": question}, session="s", at_least=token)
    handle.get()
    replay = fleet.replay(handle.id)
    assert replay.inputs == {"question": question}
    assert replay.differences == {}


def test_inputs_that_are_lost_are_a_named_end(play: Stage, fleet: Fleet) -> None:
    before = payloads(play)
    with play.held():
        handle = fleet.submit("plain", {"question": large()})
        with Redis.from_url(play.url) as client:
            client.delete(*(payloads(play) - before))
    with pytest.raises(PayloadLostError, match="Submit the prediction again"):
        handle.get()


def test_a_result_that_is_lost_is_a_named_error_for_who_asks_for_it(play: Stage, fleet: Fleet) -> None:
    before = payloads(play)
    handle = fleet.submit("plain", {"question": large()})
    wait_until(handle.ready, "the end")
    with Redis.from_url(play.url) as client:
        client.delete(*(payloads(play) - before))
    assert handle.status == "SUCCESS"
    with pytest.raises(PayloadLostError):
        handle.get()


def test_inputs_with_a_deadline_are_kept_for_little_longer(play: Stage, fleet: Fleet) -> None:
    before = payloads(play)
    with play.held():
        fleet.submit("plain", {"question": large()}, deadline=1)
        with Redis.from_url(play.url) as client:
            [key] = payloads(play) - before
            assert client.ttl(key) <= 61


def test_a_client_cannot_name_a_payload_itself(fleet: Fleet) -> None:
    """What looks like a reference is an input like any other, which this program doesn't have."""
    with pytest.raises(InputError, match="it has no such input"):
        fleet.submit("plain", {"$payload": "0" * 64, "bytes": 9}).get()
    with pytest.raises(InputError, match="not str"):
        fleet.submit("plain", "payload:" + "0" * 64)  # pyright: ignore[reportArgumentType]


def test_an_idempotency_key_knows_large_inputs_again(play: Stage, fleet: Fleet) -> None:
    question, key = large(), fresh("key")
    first = fleet.submit("plain", {"question": question}, idempotency_key=key)
    assert fleet.submit("plain", {"question": question}, idempotency_key=key).id == first.id
    assert first.get().answer == f"answer of {question}"

"""The engine on real workers: many calls at once, threads, streams and litellm all through the one gate."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Generator
from pathlib import Path

import dspy
import pytest

from snakepit_bridge.exceptions import BridgeError, LMUnavailableError
from tests.harness.stage import Stage, fresh, stage
from tests.harness.waiting import wait_until

SOON_S = 60
MANY = 300

_PROFILES = """
[profiles.compatible]
model = "openai/compatible"
api_base = "{url}"
api_key_env = "STAGE_LM_KEY"
parameters = {{ extra_headers = {{ x-team = "blue" }} }}
fallbacks = ["demo"]
limits = {{ timeout_s = 20 }}
"""


class InAThread(dspy.Module):
    """Has no ``acall`` of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict("question -> answer")

    def forward(self, question: str) -> dspy.Prediction:
        """Ask."""
        return self.ask(question=question)


class Careless(dspy.Module):
    """Calls its forward, which blocks, from its coroutine."""

    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict("question -> answer")

    def forward(self, question: str) -> dspy.Prediction:
        """Ask."""
        return self.ask(question=question)

    async def aforward(self, question: str) -> dspy.Prediction:
        """Ask in the wrong way."""
        return self.forward(question)


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stage]:
    folder: Path = tmp_path_factory.mktemp("engine")
    with stage(folder, worker=False, more_profiles=_PROFILES, DSPEX_ALLOWED_PACKAGES="tests") as playing:
        playing.start(pool="asyncio", concurrency=MANY)
        playing.fleet._allowed = ("tests",)
        playing.fleet.register("qa", dspy.Predict("question -> answer"))
        playing.fleet.register("in-a-thread", InAThread())
        playing.fleet.register("careless", Careless())
        playing.fleet.register("compatible", dspy.Predict("question -> answer"), lm="compatible")
        yield playing


def test_more_calls_are_under_way_than_dspys_own_pool_has_connections(play: Stage) -> None:
    tag = fresh("many")
    play.lm.hang(None, containing=tag)
    handles = [play.fleet.submit("qa", {"question": f"{tag} {number}"}) for number in range(MANY)]
    play.await_asked(tag, MANY)
    for handle in handles:
        assert handle.cancel()
    wait_until(lambda: all(sent.status == 499 for sent in play.requests_with(tag)), "all of them left the provider")


def test_a_module_in_a_thread_goes_through_the_gate(play: Stage) -> None:
    question = fresh("q")
    play.lm.fail(1, status=503, containing=question)
    provenance = play.fleet.submit("in-a-thread", {"question": question}).get(SOON_S).provenance
    assert (provenance.failed_tries, dict(provenance.answered)) == (1, {"demo": 1})


def test_a_blocking_call_in_a_coroutine_is_named_and_stops_nobody(play: Stage) -> None:
    with pytest.raises(BridgeError, match=r"blocking call inside a coroutine.*Await it there"):
        play.fleet.submit("careless", {"question": fresh("q")}).get(SOON_S)
    assert play.fleet.submit("qa", {"question": fresh("q")}).get(SOON_S).answer


def test_litellm_goes_through_the_gate_and_can_be_ended(play: Stage) -> None:
    question = fresh("q")
    play.lm.fail(1, status=500, containing=question)
    provenance = play.fleet.submit("compatible", {"question": question}).get(SOON_S).provenance
    assert (provenance.profile, dict(provenance.answered)) == ("compatible", {"demo": 1})
    assert [sent.model for sent in play.requests_with(question)] == ["compatible", "demo"]

    question = fresh("q")
    play.lm.hang(None, containing=question)
    handle = play.fleet.submit("compatible", {"question": question})
    play.await_asked(question)
    assert handle.cancel()
    wait_until(lambda: play.requests_with(question)[0].status == 499, "the LM sees the client leave")


async def test_a_streamed_call_goes_through_the_gate(play: Stage) -> None:
    question = fresh("q")
    play.lm.fail(1, status=503, containing=question)
    handle = await asyncio.to_thread(lambda: play.fleet.submit("qa", {"question": question}, stream=True))
    provenance = (await asyncio.to_thread(handle.get, SOON_S)).provenance
    assert (provenance.failed_tries, dict(provenance.answered)) == (1, {"demo": 1})
    assert [sent.body.get("stream") for sent in play.requests_with(question)] == [True, True]


def test_an_input_of_a_batch_is_tried_again_by_itself(play: Stage) -> None:
    session, tag = fresh("s"), fresh("batch")
    play.fleet.session(session).blocking.set_variables(
        {"dspex.retry": json.dumps({"in_place_s": 0, "attempts": 2, "backoff_s": 0.2})}
    )
    play.lm.fail(1, status=503, containing=f"{tag} 1")
    play.lm.fail(None, status=503, containing=f"{tag} 2")
    handles = play.fleet.submit_batch("qa", [{"question": f"{tag} {number}"} for number in range(3)], session=session)

    assert handles[0].get(SOON_S).provenance.failed_tries == 0
    assert handles[1].get(SOON_S).provenance.failed_tries == 1
    with pytest.raises(LMUnavailableError, match="after 2 tries"):
        handles[2].get(SOON_S)
    assert [len(play.requests_with(f"{tag} {number}")) for number in range(3)] == [1, 2, 2]

"""A user's own LM middleware on a worker: what of it the LM receives, and where in the chain it stands."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import dspy
import pytest

from snakepit_bridge.testing import Fault
from tests.harness.stage import Stage, fresh, stage
from tests.harness.waiting import PATIENCE_S

WAIT_S = PATIENCE_S

GUARDS = """
from dataclasses import replace


class Shout:
    \"\"\"Writes the request in capitals, and counts its calls in the answer.\"\"\"

    def __init__(self):
        self.calls = 0

    async def __call__(self, call, call_next):
        messages = tuple(replace(m, parts=tuple(map(loud, m.parts))) for m in call.request.messages)
        response = await call_next(call.with_request(replace(call.request, messages=messages)))
        self.calls += 1
        count = f"call {self.calls} of"
        parts = tuple(replace(p, text=p.text.replace("answer of", count)) for p in response.message.parts)
        return replace(response, message=replace(response.message, parts=parts))


def loud(part):
    return replace(part, text=part.text.replace("quiet", "LOUD"))


async def sign(call, call_next):
    \"\"\"Adds the session's signature to the request.\"\"\"
    name = call.snapshot.variables["name"].value if "name" in call.snapshot.variables else "nobody"
    config = replace(call.request.config, user_id=name)
    return await call_next(call.with_request(replace(call.request, config=config)))
"""

PROFILE = """
[profiles.guarded]
model = "openai/guarded"
api_base = "{url}"
api_key_env = "STAGE_LM_KEY"
middleware = ["acme_guards:Shout"]
"""


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stage]:
    package = tmp_path_factory.mktemp("site")
    (package / "acme_guards.py").write_text(GUARDS, encoding="utf-8")
    env: dict[str, Any] = {
        "PYTHONPATH": str(package),
        "DSPEX_ALLOWED_PACKAGES": "acme_guards",
        "DSPEX_LM_MIDDLEWARE": "acme_guards:sign",
    }
    with stage(tmp_path_factory.mktemp("stage"), more_profiles=PROFILE, **env) as play:
        play.fleet.register("plain", dspy.Predict("question -> answer"))
        play.fleet.register("guarded", dspy.Predict("question -> answer"), lm="guarded")
        play.fleet.register("cached", dspy.Predict("question -> answer"), lm="guarded", cache={"ttl_s": 600})
        yield play


def ask(play: Stage, program: str, question: str, session: str = "default") -> str:
    return play.fleet.submit(program, {"question": question}, session=session).get(WAIT_S).answer


def test_a_profiles_middleware_changes_the_request_and_the_response(play: Stage) -> None:
    question = fresh("quiet")
    answer = ask(play, "guarded", question)
    [received] = play.requests_with(question.replace("quiet", "LOUD"))
    assert received.model == "guarded"
    assert play.requests_with(question) == []
    assert answer.startswith("call ")
    assert answer.endswith(question.replace("quiet", "LOUD"))


def test_another_profiles_calls_do_not_pass_through_it(play: Stage) -> None:
    question = fresh("quiet")
    assert ask(play, "plain", question) == f"answer of {question}"
    assert len(play.requests_with(question)) == 1


def test_that_of_the_settings_runs_for_every_profile_and_reads_the_sessions_variables(play: Stage) -> None:
    session, plain, guarded = fresh("s"), fresh("plain"), fresh("guarded")
    play.fleet.session(session).blocking.set_variables({"name": "ann"})
    ask(play, "plain", plain, session)
    ask(play, "guarded", guarded)
    assert [each.body["user"] for each in (*play.requests_with(plain), *play.requests_with(guarded))] == [
        "ann",
        "nobody",
    ]


def test_a_call_that_is_retried_passes_through_it_once(play: Stage) -> None:
    first = int(ask(play, "guarded", fresh("q")).split()[1])
    question = fresh("q")
    play.lm.faults.add(Fault(times=2, containing=question))
    assert int(ask(play, "guarded", question).split()[1]) == first + 1
    assert [each.status for each in play.requests_with(question)] == [503, 503, 200]


def test_a_cached_answer_is_that_of_the_changed_request_and_passes_through_it(play: Stage) -> None:
    question = fresh("quiet")
    first = ask(play, "cached", question)
    # The same request once the middleware has changed it, so it isn't sent again.
    second = ask(play, "cached", question.replace("quiet", "LOUD"))
    assert len(play.requests_with(question.replace("quiet", "LOUD"))) == 1
    assert int(second.split()[1]) == int(first.split()[1]) + 1

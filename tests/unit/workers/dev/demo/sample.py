"""Hand-made answers and requests for the verdict's and the report's tests: a demo in which everything went well."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import dspy

from snakepit_bridge.client.fleet_prediction import FleetPrediction
from snakepit_bridge.exceptions import BridgeError, LMAnswerError, PredictionTimeoutError
from snakepit_bridge.protocol.messages import Result
from snakepit_bridge.protocol.provenance import Provenance, Timings
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.testing import Recorded
from tests.harness.signatures import make_signature
from workers.dev.demo.job import Answer, Revision
from workers.dev.demo.script import PROGRAMS, Question

STYLE = "Answer from the text alone."


def token(revision: int) -> Token:
    return Token(100, revision)


FIRST = {"llm_temperature": 0.0, "house_style": STYLE, "reasoning_strategy": "Predict"}
CHANGES: tuple[Mapping[str, Any], ...] = (
    FIRST,
    {"llm_temperature": 0.7},
    {"reasoning_strategy": "ChainOfThought", "house_style": "Answer briefly."},
)


def revisions() -> list[Revision]:
    values: dict[str, Any] = {}
    published: list[Revision] = []
    for number, changed in enumerate(CHANGES, start=1):
        values = {**values, **changed}
        published.append(Revision(token(number), changed, values))
    return published


QUESTIONS = {
    "math": Question("m", "math", {"question": "What is\n 2 + 2?"}, {"answer": 4.0}),
    "classify": Question("c", "classify", {"text": "I love it."}, {"label": "positive"}),
    "extract": Question("e", "extract", {"text": "ACME paid 3."}, {"company": "Acme", "amount": 3}),
}
OUTPUTS: dict[str, dict[str, Any]] = {
    "math": {"answer": 4.0},
    "classify": {"label": "positive"},
    "extract": {"company": "ACME", "amount": 3.0, "date": "none"},
}


def provenance(program: str, revision: Revision, module: str) -> Provenance:
    variables = {name: revision.values[name] for name in ("llm_temperature", "house_style")}
    return Provenance(
        task_id=f"task-{program}",
        session="demo",
        token=str(revision.token),
        requirement=f"at_least={revision.token}",
        variables=variables,
        program=program,
        version=1,
        digest="d" * 64,
        module=module,
        model="openai/demo",
        profile="demo",
        usage={"openai/demo": {"total_tokens": 12}},
        attempt=1,
        worker="demo1@host",
        pid=7,
        started_at=1.0,
        timings=Timings(1.4, 0.04, 0.06, 150.6),
    )


def answer(program: str, under: Revision, *, acknowledged: Token | None = None, seconds: float = 0.2) -> Answer:
    """An answer that ran under a revision, whose token was the newest acknowledged one if none is given."""
    module = under.values["reasoning_strategy"] if program == "math" else "Predict"
    result = Result(OUTPUTS[program], provenance(program, under, module).encode())
    prediction = FleetPrediction.from_result(result)
    return Answer(QUESTIONS[program], acknowledged or under.token, prediction, None, seconds)


def failed(program: str, error: BridgeError | None = None) -> Answer:
    """A question that ended in an error which names its cause."""
    cause = error or LMAnswerError("openai/demo", "unparsable", "it wrote a poem")
    return Answer(QUESTIONS[program], token(1), None, cause, 12.0)


def lost(program: str) -> Answer:
    """A question of which nobody ever said how it ended."""
    return Answer(QUESTIONS[program], token(1), None, PredictionTimeoutError(f"task-{program}", 150.0), 150.0)


def request_of(program: str, under: Revision, index: int = 0, **changes: Any) -> Recorded:
    """The request that DSPy makes of a question under a revision; keywords change a value of that revision."""
    values = {**under.values, **changes}
    signature: Any = make_signature(PROGRAMS[program]["signature"], values["house_style"])
    if program == "math" and values["reasoning_strategy"] == "ChainOfThought":
        signature = dspy.ChainOfThought(signature).predict.signature
    messages = dspy.ChatAdapter().format(signature, [], dict(QUESTIONS[program].inputs))
    body = {"model": "demo", "messages": messages, "temperature": values["llm_temperature"]}
    return Recorded(index, 0.0, True, body, answered_at=1.0, status=200)


@dataclass(frozen=True)
class Played:
    """A demo as it was played: what came of it, and what the LM received."""

    answers: tuple[Answer, ...]
    revisions: tuple[Revision, ...]
    log: tuple[Recorded, ...]

    def with_answer(self, index: int, changed: Answer) -> Played:
        return replace(self, answers=(*self.answers[:index], changed, *self.answers[index + 1 :]))

    def with_request(self, index: int, changed: Recorded) -> Played:
        return replace(self, log=(*self.log[:index], changed, *self.log[index + 1 :]))


def played() -> Played:
    """One question of each program, each under a revision of its own; `math` under the one that makes it stepwise."""
    known = revisions()
    pairs = list(zip(("classify", "extract", "math"), known, strict=True))
    return Played(
        answers=tuple(answer(program, under) for program, under in pairs),
        revisions=tuple(known),
        log=tuple(request_of(program, under, index) for index, (program, under) in enumerate(pairs)),
    )

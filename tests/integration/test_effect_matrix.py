"""Module by target by way of calling: what a variable says stands in the request that the LM server received.

A cell whose target a module can't obey is no gap: there the binding itself must be refused, for the limit of DSPy's
that the table names.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import dspy
import numpy as np
import pytest

from snakepit_bridge.dspy_integration import (
    ChainOfThoughtWithHint,
    Ensemble,
    KNNFewShot,
    VariableAwareMixin,
    bindable,
    register_interpreter,
    register_reward,
    register_tool,
    variable_aware,
)
from snakepit_bridge.dspy_integration.knn_few_shot import Vectorizer
from snakepit_bridge.dspy_integration.registry import INTERPRETERS, REWARDS, TOOLS
from snakepit_bridge.exceptions import BindingError
from snakepit_bridge.session_context import SessionContext
from snakepit_bridge.testing import AskedQuestion, Recorded, RecordingLM, default_answer

QA = "question -> answer"
LOCAL = {"interpreter_factory": dspy.LocalInterpreter}


def search(query: str) -> str:
    """Search the library."""
    return f"found {query}"


def lookup(word: str) -> str:
    """Look a word up."""
    return f"meaning of {word}"


def never(args: dict[str, Any], prediction: Any) -> float:
    return 0.0


def always(args: dict[str, Any], prediction: Any) -> float:
    return 1.0


class Composite(dspy.Module):
    """A composite of the user's own, with predictors in an attribute, a list and a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.reasoner = dspy.ChainOfThought("question -> draft")
        self.steps = [dspy.Predict("draft -> summary")]
        self.by_name = {"last": dspy.Predict("summary -> answer")}

    def forward(self, question: str) -> Any:
        draft = self.reasoner(question=question).draft
        return self.by_name["last"](summary=self.steps[0](draft=draft).summary)


@variable_aware
class NativeComposite(Composite):
    """The same, awaited natively."""

    async def aforward(self, question: str) -> Any:
        draft = (await self.reasoner.acall(question=question)).draft
        return await self.by_name["last"].acall(summary=(await self.steps[0].acall(draft=draft)).summary)


class Counted(dspy.LocalInterpreter):
    """An interpreter that shows that it ran."""

    count = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        type(self).count += 1


@dataclass(frozen=True)
class Row:
    """A module of the matrix.

    Attributes:
        build: returns a new one, given the session.
        arguments: positional arguments of a call.
        lacks: targets that it can't obey, with DSPy's limit.
        described: a field that its requests hold.
        adapter: another adapter than DSPy's default.
    """

    build: Callable[[SessionContext], Any]
    arguments: tuple[Any, ...] = ()
    lacks: dict[str, str] = field(default_factory=dict)
    described: str = "desc.answer"
    adapter: str = "json"


def row(kind: Any, *args: Any, lacks: dict[str, str] | None = None, **options: Any) -> Row:
    row_options = {name: options.pop(name) for name in ("arguments", "described", "adapter") if name in options}
    return Row(
        lambda session: variable_aware(kind)(*args, session_context=session, **options),
        lacks=lacks or {},
        **row_options,
    )


SEVERAL = "it has several predictors; demos and instructions belong to one"
GENERATED = "it makes its predictors inside the sandbox, from code; only their LM is ours to choose"
CHOSEN = "it chooses the demos in each call"
TRAINSET = [dspy.Example(question=f"Why {n}?", answer="Because.").with_inputs("question") for n in range(2)]
ATTEMPTS = ([{"reasoning": "because", "answer": "blue"}] * 3,)

ROWS: dict[str, Row] = {
    "Predict": row(dspy.Predict, QA),
    "ChainOfThought": row(dspy.ChainOfThought, QA),
    "ChainOfThoughtWithHint": row(ChainOfThoughtWithHint, QA),
    "ReAct": row(dspy.ReAct, QA, [search], lacks={"demos": SEVERAL}),
    "ReActV2": row(dspy.ReActV2, QA, [search], described="desc.question", adapter="xml"),
    "ProgramOfThought": row(dspy.ProgramOfThought, QA, lacks={"demos": SEVERAL}, **LOCAL),
    "CodeAct": row(dspy.CodeAct, QA, [search], lacks={"demos": SEVERAL}, **LOCAL),
    "MultiChainComparison": row(dspy.MultiChainComparison, QA, arguments=ATTEMPTS),
    "BestOfN": row(dspy.BestOfN, dspy.Predict(QA), N=2, reward_fn=never, threshold=1.0),
    "Refine": row(dspy.Refine, dspy.Predict(QA), N=2, reward_fn=never, threshold=1.0),
    "RLM": row(dspy.RLM, QA, max_iters=2, lacks={"demos": SEVERAL}, **LOCAL),
    "Flex": row(dspy.Flex, QA, lacks={"demos": GENERATED, "desc.answer": GENERATED}, **LOCAL),
    "Ensemble": row(
        Ensemble, [dspy.Predict(QA), dspy.ChainOfThought(QA)], lacks={"demos": SEVERAL, "instructions": SEVERAL}
    ),
    "KNNFewShot": row(
        KNNFewShot,
        dspy.Predict(QA),
        k=2,
        trainset=TRAINSET,
        vectors=np.eye(2, dtype=np.float32),
        vectorizer=Vectorizer(lambda _: [[1.0, 0.0]]),
        max_rounds=2,
        lacks={"demos": CHOSEN},
    ),
    "Composite": row(Composite, lacks={"demos": SEVERAL, "instructions": SEVERAL}),
    "NativeComposite": row(NativeComposite, lacks={"demos": SEVERAL, "instructions": SEVERAL}),
}


def _sync(module: Any, *args: Any) -> Any:
    return module(*args, question="Why?")


def _acall(module: Any, *args: Any) -> Any:
    return asyncio.run(module.acall(*args, question="Why?"))


def _forward_async(module: Any, *args: Any) -> Any:
    return asyncio.run(module.forward_async(*args, question="Why?"))


WAYS: dict[str, Callable[..., Any]] = {"sync": _sync, "acall": _acall, "forward_async": _forward_async}
EVERY_WAY = pytest.mark.parametrize("how", WAYS)
EVERY_ROW = pytest.mark.parametrize("name", ROWS)


@pytest.fixture(scope="module")
def server() -> Generator[RecordingLM]:
    with RecordingLM() as server:
        yield server


@pytest.fixture
def session() -> SessionContext:
    return SessionContext(f"m-{uuid.uuid4().hex}")


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    register_tool(lookup)
    register_reward(always)
    register_interpreter(Counted, "counted")
    yield
    TOOLS.unregister("lookup")
    REWARDS.unregister("always")
    INTERPRETERS.unregister("counted")


def ambient(server: RecordingLM, model: str = "openai/demo", **parameters: Any) -> Any:
    lm = dspy.LM(model, api_base=server.url, api_key="x", cache=False, num_retries=0, **parameters)
    return dspy.context(lm=lm)


def run(server: RecordingLM, name: str, how: str, session: SessionContext, **bound: Any) -> list[Recorded]:
    """Bind, change every value once more after the binding, call, and return the requests."""
    module = ROWS[name].build(session)
    before = {"temperature": 1.0, "max_tokens": 9, "n": 1, "seed": 1, "top_p": 1.0}
    for attribute, value in bound.items():
        variable = f"v_{uuid.uuid4().hex}"
        session.blocking.set_variable(variable, before.get(attribute, value))
        module.bind_to_variable_sync(attribute, variable)
        session.blocking.set_variable(variable, value)
    server.clear()
    WAYS[how](module, *ROWS[name].arguments)
    return server.requests


def assert_all(requests: list[Recorded], says: Callable[[Recorded], bool]) -> None:
    assert requests
    assert [r.body for r in requests if not says(r)] == []


def asks_the_user(r: Recorded) -> bool:
    """Check whether a request is the program's own; Refine's question for advice has words and fields of DSPy's."""
    return "advice" not in r.outputs


# ---------------------------------------------------------------- LM keywords: in every request


KEYWORDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "temperature": (0.33, {"temperature": 0.33}),
    "max_tokens": (777, {"max_completion_tokens": 777}),
    "top_p": (0.44, {"top_p": 0.44}),
    "stop": ('["END", "STOP"]', {"stop": ["END", "STOP"]}),
    "seed": (11, {"seed": 11}),
    "frequency_penalty": (0.5, {"frequency_penalty": 0.5}),
    "config.user": ("acme", {"user": "acme"}),
}
"""The value of each, and what of it stands in a request."""


def assert_keywords(
    server: RecordingLM, session: SessionContext, name: str, how: str, keywords: Mapping[str, tuple[Any, Any]]
) -> None:
    with ambient(server):
        requests = run(server, name, how, session, **{target: value for target, (value, _) in keywords.items()})
    sent: dict[str, Any] = {key: value for _, fields in keywords.values() for key, value in fields.items()}
    assert_all(requests, lambda r: {key: r.body.get(key) for key in sent} == sent)


@EVERY_WAY
@EVERY_ROW
def test_all_lm_keywords(server: RecordingLM, session: SessionContext, name: str, how: str) -> None:
    assert_keywords(server, session, name, how, KEYWORDS)


@pytest.mark.parametrize("name", ["Predict", "Composite"])
@pytest.mark.parametrize("target", KEYWORDS)
def test_a_lone_lm_keyword(server: RecordingLM, session: SessionContext, name: str, target: str) -> None:
    assert_keywords(server, session, name, "acall", {target: KEYWORDS[target]})


@EVERY_WAY
@EVERY_ROW
def test_the_token_limit_of_a_reasoning_model(
    server: RecordingLM, session: SessionContext, name: str, how: str
) -> None:
    with ambient(server, "openai/gpt-5", max_tokens=20_000):
        requests = run(server, name, how, session, max_tokens=777)
    assert_all(requests, lambda r: r.body["max_completion_tokens"] == 777 and "max_tokens" not in r.body)


@EVERY_WAY
@EVERY_ROW
def test_n(server: RecordingLM, session: SessionContext, name: str, how: str) -> None:
    """The native engine sends n requests for each question; DSPy raises their temperature, lest they be the same."""
    with ambient(server):
        once = len(run(server, name, how, session))
        requests = run(server, name, how, session, n=2)
    assert len(requests) == 2 * once
    assert_all(requests, lambda r: r.temperature in (0.7, 1.0))


# ---------------------------------------------------------------- model, adapter: in every request


@EVERY_WAY
@EVERY_ROW
@pytest.mark.parametrize("target", ["model", "lm"])
def test_the_model(server: RecordingLM, session: SessionContext, name: str, target: str, how: str) -> None:
    with ambient(server):
        requests = run(server, name, how, session, **{target: "openai/other"})
    assert_all(requests, lambda r: r.model == "other")


@EVERY_WAY
@EVERY_ROW
def test_the_adapter(server: RecordingLM, session: SessionContext, name: str, how: str) -> None:
    adapter = ROWS[name].adapter
    with ambient(server):
        requests = run(server, name, how, session, adapter=adapter)
    assert_all(requests, lambda r: r.ask.layout.style == adapter)


# ---------------------------------------------------------------- prompts


def refused(name: str, target: str, session: SessionContext) -> bool:
    """Check whether a module lacks a target; then check that binding it is refused with what can be bound."""
    if target not in ROWS[name].lacks:
        return False
    module = ROWS[name].build(session)
    session.blocking.set_variable("v", "value")
    with pytest.raises(BindingError) as refusal:
        module.bind_to_variable_sync(target, "v")
    assert list(refusal.value.available) == bindable(module)
    return True


@EVERY_WAY
@EVERY_ROW
def test_the_instructions(server: RecordingLM, session: SessionContext, name: str, how: str) -> None:
    if refused(name, "instructions", session):
        return
    with ambient(server):
        requests = run(server, name, how, session, instructions="Answer like a pirate.")
    assert_all([r for r in requests if asks_the_user(r)], lambda r: "Answer like a pirate." in r.system)


@EVERY_WAY
@EVERY_ROW
def test_a_field_description(server: RecordingLM, session: SessionContext, name: str, how: str) -> None:
    target = ROWS[name].described
    if refused(name, target, session):
        return
    with ambient(server):
        requests = run(server, name, how, session, **{target: "as a haiku"})
    described = target.removeprefix("desc.")
    concerned = [r for r in requests if asks_the_user(r) and (described in r.outputs or described in r.inputs)]
    assert_all(concerned, lambda r: "as a haiku" in r.system)


@EVERY_WAY
@EVERY_ROW
def test_demos(server: RecordingLM, session: SessionContext, name: str, how: str) -> None:
    if refused(name, "demos", session):
        return
    demos = json.dumps([{"question": "What came first?", "answer": "The egg."}])
    if name == "ReActV2":  # its predictor answers with tool calls
        demos = json.dumps([{"question": "What came first?", "next_thought": "The egg."}])
    with ambient(server):
        requests = run(server, name, how, session, demos=demos)
    questions = [r for r in requests if asks_the_user(r)]
    assert_all(questions, lambda r: "What came first?" in str(r.body) and "The egg." in str(r.body))


# ---------------------------------------------------------------- what is peculiar to some modules


def _broken_code(ask: AskedQuestion) -> dict[str, Any]:
    answer = default_answer(ask)
    if "generated_code" in answer:
        answer |= {"generated_code": "```python\nraise ValueError('broken')\n```"}
    return answer | ({"finished": False} if "finished" in answer else {})


def _asking_code(ask: AskedQuestion) -> dict[str, Any]:
    answer = default_answer(ask)
    return answer | ({"code": "print(llm_query('Who asks?'))"} if "code" in answer else {})


def _printing_code(ask: AskedQuestion) -> dict[str, Any]:
    answer = default_answer(ask)
    return answer | ({"code": "print('x' * 5000)"} if "code" in answer else {})


def _ever_searching(ask: AskedQuestion) -> dict[str, Any]:
    return default_answer(ask) | {"tool_calls": {"tool_calls": [{"name": "search", "args": {"query": "why"}}]}}


def _mentions(word: str, without: str = "") -> Callable[[list[Recorded]], bool]:
    def says(requests: list[Recorded]) -> bool:
        first = str(requests[0].body["messages"])
        return word in first and (not without or without not in first)

    return says


def _count(expected: int) -> Callable[[list[Recorded]], bool]:
    return lambda requests: len(requests) == expected


def _ran_counted(requests: list[Recorded]) -> bool:
    return Counted.count == 1 and bool(requests)


@dataclass(frozen=True)
class Cell:
    """One module, one target of its own, the value, and what the requests must then be."""

    module: str
    target: str
    value: Any
    says: Callable[[list[Recorded]], bool]
    answerer: Callable[[AskedQuestion], Any] = default_answer
    fails: type[Exception] | None = None
    arguments: tuple[Any, ...] | None = None


TWO_ATTEMPTS = ([{"reasoning": "because", "answer": "blue"}] * 2,)

CELLS = [
    Cell("ReAct", "max_iters", 1, _count(2)),
    Cell("ReActV2", "max_iters", 2, _count(3), _ever_searching, ValueError),  # the third one is asked to submit
    Cell("ProgramOfThought", "max_iters", 2, _count(2), _broken_code, RuntimeError),
    Cell("CodeAct", "max_iters", 2, _count(3), _broken_code),
    Cell("RLM", "max_iters", 3, _count(4)),
    Cell("ReAct", "tools", "lookup", _mentions("Look a word up", "Search the library")),
    Cell("ReActV2", "tools", "lookup", _mentions("Look a word up", "Search the library")),
    Cell("CodeAct", "tools", "lookup", _mentions("Look a word up", "Search the library")),
    Cell("RLM", "tools", "lookup", _mentions("Look a word up")),
    Cell("Flex", "tools", "lookup", _mentions("Look a word up")),
    Cell(
        "MultiChainComparison", "M", 2, _mentions("reasoning_attempt_2", "reasoning_attempt_3"), arguments=TWO_ATTEMPTS
    ),
    Cell("BestOfN", "N", 3, _count(3)),
    Cell("BestOfN", "threshold", -1, _count(1)),
    Cell("BestOfN", "reward_fn", "always", _count(1)),
    Cell("Refine", "N", 3, _count(5)),  # advice is asked for between the attempts
    Cell("Refine", "threshold", -1.0, _count(1)),
    Cell("Refine", "reward_fn", "always", _count(1)),
    Cell("Ensemble", "size", 1, _count(1)),
    Cell("KNNFewShot", "knn.k", 1, _count(2)),
    Cell("KNNFewShot", "student.temperature", 0.33, lambda rs: {r.temperature for r in rs} == {0.33}),
    Cell("KNNFewShot", "student.model", "other", lambda rs: {r.model for r in rs} == {"other"}),
    Cell("RLM", "sub_lm", "openai/sub", lambda rs: {r.model for r in rs} == {"demo", "sub"}, _asking_code),
    Cell("RLM", "model", "openai/other", lambda rs: {r.model for r in rs} == {"other"}, _asking_code),
    Cell("RLM", "temperature", 0.33, lambda rs: {r.temperature for r in rs} == {0.33}, _asking_code),
    Cell("RLM", "max_llm_calls", 7, _mentions(" 7 sub-LLM calls")),
    Cell("RLM", "max_output_chars", 100, lambda rs: "x" * 101 not in str(rs[1].body), _printing_code),
    Cell("ProgramOfThought", "interpreter", "counted", _ran_counted),
    Cell("CodeAct", "interpreter", "counted", _ran_counted),
    Cell("RLM", "interpreter", "counted", _ran_counted),
    Cell("Flex", "interpreter", "counted", _ran_counted),
    Cell("ReAct", "extract.temperature", 0.33, lambda rs: [r.temperature for r in rs] == [None, None, 0.33]),
    Cell("ProgramOfThought", "code_generate.model", "other", lambda rs: [r.model for r in rs] == ["other", "demo"]),
    Cell("BestOfN", "module.temperature", 0.33, lambda rs: {r.temperature for r in rs} == {0.33}),
    Cell("Refine", "module.temperature", 0.33, lambda rs: [r.temperature for r in rs] == [0.33, None, 0.33]),
    Cell("Composite", "reasoner.temperature", 0.33, lambda rs: [r.temperature for r in rs] == [0.33, None, None]),
    Cell(
        "Composite", "steps[0].adapter", "json", lambda rs: [r.ask.layout.style for r in rs] == ["chat", "json", "chat"]
    ),
    Cell("Composite", "by_name[last].model", "other", lambda rs: [r.model for r in rs] == ["demo", "demo", "other"]),
    Cell("NativeComposite", "steps[0].adapter", "json", lambda rs: rs[1].ask.layout.style == "json"),
    Cell("NativeComposite", "reasoner.instructions", "Be kind.", lambda rs: rs[0].instructions == "Be kind."),
]


@EVERY_WAY
@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: f"{cell.module}-{cell.target}")
def test_a_target_of_its_own(session: SessionContext, cell: Cell, how: str) -> None:
    Counted.count = 0
    module = ROWS[cell.module].build(session)
    session.blocking.set_variable("v", cell.value)
    arguments = ROWS[cell.module].arguments if cell.arguments is None else cell.arguments
    with RecordingLM(cell.answerer) as server, ambient(server):
        module.bind_to_variable_sync(cell.target, "v")
        if cell.fails is not None:
            with pytest.raises(cell.fails):
                WAYS[how](module, *arguments)
        else:
            WAYS[how](module, *arguments)
        assert cell.says(server.requests), [r.body for r in server.requests]


TWICE = """class TwiceModule(dspy.Module):
    def __init__(self):
        super().__init__()
        self.ask = dspy.Predict("question -> answer")

    def forward(self, **inputs):
        self.ask(**inputs)
        return dspy.Prediction(answer=self.ask(**inputs).answer)
"""


@EVERY_WAY
def test_flex_makes_no_more_predictor_calls_than_it_may(server: RecordingLM, session: SessionContext, how: str) -> None:
    module = ROWS["Flex"].build(session)
    module._bind_code(TWICE)
    session.blocking.set_variable("v", 1)
    with ambient(server):
        server.clear()
        WAYS[how](module)
        assert len(server.requests) == 2
        module.bind_to_variable_sync("max_predictor_calls", "v")
        server.clear()
        with pytest.raises(Exception, match="(?i)predictor"):
            WAYS[how](module)
        assert len(server.requests) == 1


@EVERY_ROW
def test_every_row_is_an_aware_module(name: str, session: SessionContext) -> None:
    module = ROWS[name].build(session)
    assert isinstance(module, VariableAwareMixin)
    assert not set(ROWS[name].lacks) & set(bindable(module))

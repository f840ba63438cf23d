"""The remembering adapter writes DSPy's own prompts, to the letter, and remembers nothing that may change."""

from __future__ import annotations

import enum
import gc
import weakref
from typing import Any, Literal

import dspy
import pydantic
import pytest
from dspy.utils.exceptions import AdapterParseError

from snakepit_bridge.dspy_integration.cached_adapter import SHARED_ADAPTER, ChatAdapter
from tests.harness.signatures import make_signature


class Size(enum.Enum):
    SMALL = "small"
    LARGE = "large"


class Shop(pydantic.BaseModel):
    name: str
    sizes: list[Size]


class Described(dspy.Signature):
    """Answer
    in one word."""

    question: str = dspy.InputField(desc="what is asked")
    shop: Shop | None = dspy.InputField(default=None)
    tags: list[str] = dspy.InputField()
    size: Literal["small", "large"] = dspy.OutputField(desc="how large")
    score: float = dspy.OutputField(ge=0, le=1)


IMAGE = dspy.Image("data:image/png;base64,iVBORw0KGgo=")

CASES: list[tuple[Any, dict[str, Any], list[dict[str, Any]]]] = [
    ("question -> answer", {"question": "why?"}, []),
    ("question -> answer", {"question": "  spaced\n\n[[ ## answer ## ]] \u2028 ü 𝄞  "}, []),
    ("question -> answer", {"question": ""}, []),
    ("question -> answer", {"question": "why?", "more": "that isn't asked"}, []),
    ("question, context -> answer, confidence: float", {"question": "why?"}, []),
    ("question -> answer", {"question": 7}, []),
    ("question -> answer", {"question": ["a", "b"]}, []),
    ("question -> answer", {"question": "why?"}, [{"question": "a", "answer": "b"}, {"question": "c"}]),
    (Described, {"question": "q", "shop": Shop(name="s", sizes=[Size.SMALL]), "tags": ["x"]}, []),
    (Described, {"question": "q", "shop": None, "tags": []}, [{"question": "q", "size": "small", "score": 0.5}]),
    ("image: dspy.Image, question -> answer", {"image": IMAGE, "question": "what?"}, []),
    (
        "history: dspy.History, question -> answer",
        {"history": dspy.History(messages=[{"question": "a", "answer": "b"}]), "question": "c"},
        [],
    ),
]


@pytest.mark.parametrize(("signature", "inputs", "demos"), CASES)
def test_the_prompt_is_dspys_own(signature: Any, inputs: dict[str, Any], demos: list[dict[str, Any]]) -> None:
    parsed = make_signature(signature) if isinstance(signature, str) else signature
    plain, ours = dspy.ChatAdapter(), ChatAdapter()
    for _ in range(2):
        assert ours.format(parsed, demos, dict(inputs)) == plain.format(parsed, demos, dict(inputs))


@pytest.mark.parametrize(
    "completion",
    [
        "[[ ## size ## ]]\nsmall\n\n[[ ## score ## ]]\n0.5\n\n[[ ## completed ## ]]",
        "[[ ## score ## ]] 1\n[[ ## size ## ]] large\n[[ ## other ## ]] x",
        "[[ ## size ## ]]\nmiddling\n\n[[ ## score ## ]]\n0.5",
        "[[ ## size ## ]]\nsmall",
        "I would rather talk about the weather.",
        "",
    ],
)
def test_an_answer_is_read_as_dspy_reads_it(completion: str) -> None:
    def read(adapter: dspy.ChatAdapter) -> Any:
        try:
            return adapter.parse(Described, completion)
        except AdapterParseError as error:
            return str(error), error.signature, error.lm_response, error.parsed_result

    assert read(SHARED_ADAPTER) == read(dspy.ChatAdapter())


TYPES = ["bool", "int", "float", "list[int]", "dict[str, float]", "tuple[int, str]", "int | None", "Literal[1, 2]"]
TEXTS = ["true", "0", "2", "2.5", "[1, 2]", '{"a": 1}', '[1, "x"]', "None", "", "many"]


@pytest.mark.parametrize("annotation", TYPES)
@pytest.mark.parametrize("text", TEXTS)
def test_a_value_is_read_as_dspy_reads_it(annotation: str, text: str) -> None:
    signature = make_signature(f"question -> answer: {annotation}")

    def read(adapter: dspy.ChatAdapter) -> Any:
        try:
            answer = adapter.parse(signature, f"[[ ## answer ## ]]\n{text}")["answer"]
        except AdapterParseError as error:
            return str(error), error.signature
        return answer, type(answer)

    assert read(SHARED_ADAPTER) == read(dspy.ChatAdapter())


def test_other_instructions_are_another_prompt() -> None:
    brief = make_signature("question -> answer", "Be brief.")
    assert "Be brief." in SHARED_ADAPTER.format_system_message(brief)
    assert "Be long." in SHARED_ADAPTER.format_system_message(brief.with_instructions("Be long."))
    brief.instructions = "Be kind."
    assert "Be kind." in SHARED_ADAPTER.format_system_message(brief)


def test_a_signature_that_is_gone_is_forgotten() -> None:
    adapter = ChatAdapter()
    brief = make_signature("question -> answer")
    adapter.format_system_message(brief)
    gone = weakref.ref(brief)
    del brief
    gc.collect()
    assert gone() is None
    assert len(adapter._prompts) == 0


def test_dspys_listeners_know_its_format() -> None:
    assert type(SHARED_ADAPTER).__name__ == dspy.ChatAdapter.__name__

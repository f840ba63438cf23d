"""Field names against names of DSPy's and of ours: every other name works, and what can't is refused."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import dspy
import pytest

from snakepit_bridge.client.fleet_prediction import FleetPrediction
from snakepit_bridge.dspy_integration.field_names import EVERYWHERE, reserved_names
from snakepit_bridge.exceptions import ProgramSpecError
from snakepit_bridge.programs.build import build_module
from snakepit_bridge.programs.codec import encode_completions, encode_outputs
from snakepit_bridge.programs.imports import AllowedImports
from snakepit_bridge.programs.inputs import ProgramInputs
from snakepit_bridge.programs.spec import ProgramSpec
from snakepit_bridge.protocol.messages import Result
from snakepit_bridge.protocol.provenance import Provenance
from tests.unit.programs import sample
from tests.unit.protocol.test_provenance import SAMPLE

pytestmark = pytest.mark.filterwarnings("ignore:Field name")

CLASSES = (
    dspy.Prediction,
    dspy.Example,
    dspy.Module,
    dspy.Predict,
    dspy.ChainOfThought,
    dspy.Signature,
    FleetPrediction,
)
OURS = (
    "base", "provenance", "trajectory", "completions", "usage", "task_id", "answer", "session", "program", "version",
    "token", "value", "result", "outputs", "inputs", "status", "stream", "schema", "dspy_x", "instance", "self", "cls",
    "func", "args", "kwargs", "callbacks", "reasoning", "rationale", "next_thought", "hint", "score", "history",
    "tools", "text", "class", "type", "session_context", "auto_sync", "signature", "fields", "instructions", "config",
    "demos", "lm",
)  # fmt: skip
NAMES = sorted({name for kind in CLASSES for name in dir(kind) if not name.startswith("_")} | set(OURS))


class _Answering(dspy.BaseLM):
    """Answers each field with its own name, and keeps the prompts."""

    def __init__(self, outputs: list[str]) -> None:
        super().__init__(model="answering")
        self.outputs = outputs
        self.prompts: list[str] = []

    def forward(self, prompt: Any = None, messages: Any = None, **_: Any) -> Any:
        self.prompts.append(str(messages))
        text = "\n\n".join(f"[[ ## {name} ## ]]\nvalue of {name}" for name in [*self.outputs, "completed"])
        message = SimpleNamespace(content=text, tool_calls=None, reasoning_content=None)
        choice = SimpleNamespace(message=message, finish_reason="stop", logprobs=None)
        return SimpleNamespace(choices=[choice], usage={}, model="answering")

    async def aforward(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward(*args, **kwargs)


def built(module: str, signature: str, **more: Any) -> Any:
    spec = ProgramSpec.parse({"module": module, "signature": signature, **more}, program="p")
    return build_module(spec, module, AllowedImports(("tests.unit.programs.sample",)), program="p")


def run(module: Any, inputs: dict[str, Any], outputs: list[str]) -> tuple[Any, str]:
    lm = _Answering(["reasoning", *outputs])
    args, kwargs = ProgramInputs.of(module).to_arguments(ProgramInputs.of(module).decode("p", inputs))
    with dspy.context(lm=lm, adapter=dspy.ChatAdapter()):
        return asyncio.run(module.acall(*args, **kwargs)), lm.prompts[0]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("module", ["Predict", "ChainOfThought"])
def test_an_input_of_any_other_name_reaches_the_prompt(module: str, name: str) -> None:
    if name in reserved_names(module).inputs:
        with pytest.raises(ProgramSpecError, match=f"a field can't be named '{name}': .* can't be any of: "):
            built(module, f"{name}, q -> a")
        return
    prediction, prompt = run(built(module, f"{name}, q -> a"), {name: "unmistakable", "q": "Q"}, ["a"])
    assert "unmistakable" in prompt
    assert prediction["a"] == "value of a"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("module", ["Predict", "ChainOfThought"])
def test_an_output_of_any_other_name_comes_back(module: str, name: str) -> None:
    if name in reserved_names(module).outputs:
        with pytest.raises(ProgramSpecError, match=f"a field can't be named '{name}': .* can't be any of: "):
            built(module, f"q -> {name}, a")
        return
    prediction, _ = run(built(module, f"q -> {name}, a"), {"q": "Q"}, [name, "a"])
    outputs = encode_outputs("p", prediction)
    assert outputs[name] == f"value of {name}"
    # What the client makes of it.
    assert encode_completions("p", prediction) == []
    back = FleetPrediction.from_result(Result(outputs, provenance(), {}, []))
    assert back[name] == f"value of {name}"
    assert back["a"] == "value of a"
    assert isinstance(back.provenance, Provenance)
    assert dict(back.items(include_dspy=True)) == outputs
    several = FleetPrediction.from_result(Result(outputs, provenance(), {}, [outputs, {**outputs, name: "second"}]))
    assert several[name] == f"value of {name}"
    assert several.completions[1][name] == "second"


def provenance() -> Any:
    return SAMPLE.encode()


@pytest.mark.parametrize(
    ("module", "signature", "more"),
    [
        ("ReAct", "question -> trajectory", {"tools": ["tests.unit.programs.sample:lookup"]}),
        ("ReAct", "trajectory -> answer", {"tools": ["tests.unit.programs.sample:lookup"]}),
        ("ReAct", "max_iters -> answer", {"tools": ["tests.unit.programs.sample:lookup"]}),
        ("ReAct", "next_tool_name -> answer", {"tools": []}),
        ("ReActV2", "history -> answer", {"tools": []}),
        ("ReActV2", "question -> history", {"tools": []}),
        ("CodeAct", "question -> trajectory", {"tools": ["tests.unit.programs.sample:lookup"]}),
        ("ProgramOfThought", "error -> answer", {}),
        ("RLM", "question -> trajectory", {}),
        ("ChainOfThought", "reasoning -> answer", {}),
        ("MultiChainComparison", "reasoning_attempt_1 -> answer", {}),
    ],
)
def test_what_a_module_needs_for_itself_is_refused_before_anything_is_paid(
    module: str, signature: str, more: dict[str, Any]
) -> None:
    with pytest.raises(ProgramSpecError, match=f"{module} means something else by it") as refused:
        built(module, signature, **more)
    assert refused.value.args[1].startswith("signature.")


def test_what_is_reserved_truly_cant_work() -> None:
    """Each name that is refused everywhere fails in DSPy itself, so that no name is refused without need."""
    for name in sorted(EVERYWHERE.inputs):
        signature = _signature({name: dspy.InputField(), "a": dspy.OutputField()})
        assert signature is None or not _works(signature, {name: "unmistakable"}), name
    for name in sorted(EVERYWHERE.outputs - {"input_fields", "output_fields"}):
        signature = _signature({"q": dspy.InputField(), name: dspy.OutputField()})
        assert signature is None or not _works(signature, {"q": "unmistakable"}), name


def _signature(fields: dict[str, Any]) -> Any:
    try:
        make: Any = dspy.Signature
        return make({name: (str, info) for name, info in fields.items()})
    except Exception:  # noqa: BLE001 (whatever DSPy and pydantic raise for what they can't build)
        return None


def _works(signature: Any, inputs: dict[str, Any]) -> bool:
    try:
        lm = _Answering(list(signature.output_fields))
        with dspy.context(lm=lm, adapter=dspy.ChatAdapter()):
            prediction = dspy.Predict(signature)(**inputs)
        return "unmistakable" in lm.prompts[0] and all(name in prediction for name in signature.output_fields)
    except Exception:  # noqa: BLE001 (the same)
        return False


def test_the_samples_are_there() -> None:
    assert callable(sample.lookup)

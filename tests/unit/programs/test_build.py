"""From a module to its spec and back: the module that a worker builds asks the LM the very same."""

from __future__ import annotations

import json
import sys
from typing import Any, Literal

import dspy
import numpy as np
import pytest

from snakepit_bridge.dspy_integration import (
    ChainOfThoughtWithHint,
    Ensemble,
    KNNFewShot,
    VariableAwareBestOfN,
    VariableAwareChainOfThought,
    VariableAwareMixin,
    VariableAwarePredict,
)
from snakepit_bridge.dspy_integration.knn_few_shot import Vectorizer
from snakepit_bridge.dspy_integration.module_tree import predictors
from snakepit_bridge.dspy_integration.registry import TOOLS, register_tool
from snakepit_bridge.exceptions import ProgramSpecError, UnknownModuleError
from snakepit_bridge.programs.build import build_module, check_spec, serialize_module
from snakepit_bridge.programs.imports import AllowedImports
from snakepit_bridge.programs.spec import ProgramSpec
from tests.harness.preloaded import run_preloaded
from tests.harness.signatures import make_signature, signature_of
from tests.harness.waiting import PATIENCE_S
from tests.unit.programs import sample

ALLOWED = AllowedImports(("tests.unit.programs.sample",))


class Rich(dspy.Signature):
    """Judge the person.

    Be fair.
    """

    person: sample.Person = dspy.InputField(desc="who it is about")
    colours: list[sample.Colour] = dspy.InputField()
    verdict: Literal["good", "bad"] = dspy.OutputField()
    score: float = dspy.OutputField(ge=0, le=1)


def with_demos(module: Any) -> Any:
    for _, predictor in predictors(module):
        signature = signature_of(predictor)
        names = [*signature.input_fields, *signature.output_fields]
        predictor.demos = [dspy.Example(**dict.fromkeys(names, "shown"), augmented=True)]
    return module


def with_config(module: Any) -> Any:
    for number, (_, predictor) in enumerate(predictors(module)):
        predictor.config = {"temperature": number / 10, "max_tokens": 100 + number}
    return module


def instructed(module: Any) -> Any:
    for _, predictor in predictors(module):
        signature = signature_of(predictor)
        predictor.signature = signature.with_instructions(f"Optimised: {signature.instructions}")
    return module


SIGNATURE = make_signature("question -> answer: float", "Answer with a number.")

MODULES: dict[str, Any] = {
    "Predict": lambda: dspy.Predict("question -> answer"),
    "Predict, typed": lambda: dspy.Predict(Rich),
    "Predict, demos": lambda: with_demos(dspy.Predict("question -> answer")),
    "Predict, config": lambda: dspy.Predict("question -> answer", temperature=0.5, stop=["x"]),
    "ChainOfThought": lambda: dspy.ChainOfThought(Rich),
    "ChainOfThought, demos": lambda: with_demos(dspy.ChainOfThought("question -> answer")),
    "ChainOfThought, instructed": lambda: instructed(dspy.ChainOfThought(Rich)),
    "ChainOfThoughtWithHint": lambda: ChainOfThoughtWithHint("question -> answer: float"),
    "ReAct": lambda: dspy.ReAct(make_signature("question -> answer"), tools=[sample.lookup, sample.count], max_iters=3),
    "ReAct, demos and config": lambda: with_config(with_demos(dspy.ReAct(Rich, tools=[sample.lookup]))),
    "ReAct, instructed": lambda: instructed(dspy.ReAct(make_signature("question -> answer"), tools=[sample.seek])),
    "ProgramOfThought": lambda: dspy.ProgramOfThought("question -> answer: float", max_iters=2),
    "ProgramOfThought, demos": lambda: with_demos(dspy.ProgramOfThought("question -> answer: float")),
    "ReActV2": lambda: with_config(dspy.ReActV2(SIGNATURE, tools=[sample.lookup, sample.count], max_iters=4)),
    "CodeAct": lambda: with_demos(dspy.CodeAct("question -> answer", tools=[sample.lookup], max_iters=2)),
    "MultiChainComparison": lambda: with_demos(dspy.MultiChainComparison(Rich, M=2, temperature=0.4)),
    "BestOfN": lambda: dspy.BestOfN(
        with_config(dspy.ChainOfThought(Rich)), N=2, reward_fn=sample.brevity, threshold=0.5
    ),
    "BestOfN, demos within": lambda: dspy.BestOfN(
        with_demos(dspy.ReAct(make_signature("question -> answer"), tools=[sample.lookup])),
        N=2,
        reward_fn=sample.brevity,
        threshold=0.5,
    ),
    "Refine": lambda: dspy.Refine(dspy.Predict(Rich), N=3, reward_fn=sample.brevity, threshold=0.9, fail_count=1),
    "RLM": lambda: dspy.RLM("question -> answer", max_iters=5, max_llm_calls=7, tools=[sample.lookup]),
    "Flex": lambda: dspy.Flex(SIGNATURE, tools=[sample.lookup], max_predictor_calls=9),
    "Ensemble": lambda: Ensemble(
        [with_demos(dspy.Predict("question -> answer")), dspy.ChainOfThought(Rich)], reduce_fn=sample.first, size=1
    ),
    "Ensemble of refined": lambda: Ensemble(
        [dspy.Refine(dspy.Predict(Rich), N=3, reward_fn=sample.brevity, threshold=0.9)], reduce_fn=dspy.majority
    ),
    "KNNFewShot": lambda: KNNFewShot(
        with_config(dspy.ChainOfThought("question -> answer")),
        k=1,
        trainset=[dspy.Example(question="Why?", tags=("a", "b"), answer="x").with_inputs("question")],
        vectors=np.array(sample.embed(["question: Why?"]), dtype=np.float32),
        vectorizer=Vectorizer(sample.embed),
        teacher=with_demos(dspy.ChainOfThought("question -> answer")),
        metric=sample.matches,
        teacher_lm="large",
        max_rounds=2,
    ),
    "Parallel": lambda: dspy.Parallel(num_threads=3, timeout=7),
    "one's own": lambda: with_config(with_demos(sample.Summarize())),
}

SCRIPT = """
import json, sys
from snakepit_bridge.programs.imports import AllowedImports
from snakepit_bridge.programs.build import build_module
from snakepit_bridge.programs.spec import ProgramSpec
from tests.unit.programs.test_build import ALLOWED, requests_of

for line in sys.stdin:
    spec = ProgramSpec.parse(line.encode(), program="qa")
    print(json.dumps(requests_of(build_module(spec, spec.module_names[0], ALLOWED, program="qa")), sort_keys=True))
"""


def requests_of(module: Any) -> dict[str, Any]:
    """What each predictor would send: its messages and its config."""
    adapter = dspy.ChatAdapter()
    return {
        path: {"messages": adapter.format(signature_of(p), p.demos, inputs_of(p)), "config": p.config}
        for path, p in predictors(module)
    }


def inputs_of(predictor: Any) -> dict[str, Any]:
    values = {
        "person": sample.Person(name="Ada", age=36),
        "colours": [sample.Colour.RED],
        "history": dspy.History(messages=[]),
    }
    return {name: values.get(name, f"the {name}") for name in predictor.signature.input_fields}


def sent(module: Any, **options: Any) -> ProgramSpec:
    """The module's spec after a trip through JSON."""
    return ProgramSpec.parse(serialize_module(module, program="qa", **options).encode(), program="qa")


def rebuilt(module: Any, **options: Any) -> Any:
    spec = sent(module, **options)
    return build_module(spec, spec.module_names[0], ALLOWED, program="qa")


@pytest.mark.parametrize("kind", MODULES)
def test_a_rebuilt_module_asks_the_same(kind: str) -> None:
    module = MODULES[kind]()

    assert requests_of(rebuilt(module)) == requests_of(module)


def test_a_module_rebuilt_in_another_process_asks_the_same_to_the_byte() -> None:
    modules = {kind: build() for kind, build in MODULES.items()}
    lines = "\n".join(sent(module).encode().decode() for module in modules.values())
    other_process = run_preloaded([sys.executable, "-c", SCRIPT], input=lines, timeout=PATIENCE_S)

    for (kind, module), line in zip(modules.items(), other_process.stdout.splitlines(), strict=True):
        assert line == json.dumps(requests_of(module), sort_keys=True), kind


@pytest.mark.parametrize("kind", MODULES)
def test_the_spec_of_a_rebuilt_module_is_the_same_spec(kind: str) -> None:
    spec = sent(MODULES[kind]())
    again = build_module(spec, spec.module_names[0], ALLOWED, program="qa")

    assert serialize_module(again, program="qa").encode() == spec.encode()


@pytest.mark.parametrize("kind", MODULES)
def test_a_rebuilt_module_is_variable_aware_and_of_the_same_class(kind: str) -> None:
    module = MODULES[kind]()
    again = rebuilt(module)

    assert isinstance(again, VariableAwareMixin)
    assert isinstance(again, type(module))


def test_an_aware_module_is_described_as_the_plain_one_with_its_bindings() -> None:
    module = VariableAwareChainOfThought("question -> answer")
    module._variable_bindings = {"temperature": "llm_temperature"}

    assert serialize_module(module, program="qa") == serialize_module(
        dspy.ChainOfThought("question -> answer"), program="qa", bindings={"temperature": "llm_temperature"}
    )
    assert rebuilt(module).get_bindings() == {"temperature": "llm_temperature"}


def test_live_arguments_come_back() -> None:
    assert rebuilt(dspy.ReAct(make_signature("question -> answer"), tools=[sample.lookup], max_iters=3)).max_iters == 3
    assert rebuilt(dspy.ProgramOfThought("question -> answer", max_iters=7)).max_iters == 7


def test_ones_own_module_takes_the_arguments_that_were_named() -> None:
    again = rebuilt(sample.Summarize(tone="warm", steps=1), arguments={"tone": "warm", "steps": 1})

    assert (again.tone, again.steps) == ("warm", 1)


def test_what_a_module_was_built_with_comes_back() -> None:
    best = rebuilt(MODULES["Refine"]())
    assert (best.N, best.threshold, best.fail_count) == (3, 0.9, 1)
    assert best.reward_fn({}, "x") == sample.brevity({}, "x")  # type: ignore[arg-type]
    ensemble = rebuilt(MODULES["Ensemble"]())
    assert (ensemble.reduce_fn, ensemble.size, len(ensemble.programs)) == (sample.first, 1, 2)
    assert rebuilt(MODULES["Ensemble of refined"]()).reduce_fn is dspy.majority
    assert rebuilt(MODULES["MultiChainComparison"]()).M == 2
    assert rebuilt(MODULES["RLM"]()).max_llm_calls == 7
    assert rebuilt(MODULES["Flex"]())._max_predictor_calls == 9
    assert rebuilt(MODULES["Parallel"]()).num_threads == 3


def test_the_examples_and_vectors_of_few_shots_come_back_as_they_were() -> None:
    own, again = MODULES["KNNFewShot"](), rebuilt(MODULES["KNNFewShot"]())
    assert [example.toDict() for example in again.knn.trainset] == [example.toDict() for example in own.knn.trainset]
    assert again.knn.trainset[0].inputs().toDict() == {"question": "Why?"}
    assert again.knn.trainset_vectors.tolist() == own.knn.trainset_vectors.tolist()
    assert (again.metric, again.teacher_lm, again.few_shot["max_rounds"]) == (sample.matches, "large", 2)
    assert build_module(ProgramSpec.model_validate(FEW_SHOT), "KNNFewShot", ALLOWED, program="qa").knn.k == 1


def test_an_interpreter_comes_back_and_the_default_is_the_sandbox() -> None:
    own = rebuilt(dspy.ProgramOfThought("question -> answer", interpreter_factory=sample.sandbox))

    assert own._interpreter_factory is sample.sandbox
    assert rebuilt(MODULES["ProgramOfThought"]())._interpreter_factory is dspy.PythonInterpreter


def test_the_unsafe_interpreter_does_not_travel_unless_it_was_registered() -> None:
    module = dspy.ProgramOfThought("question -> answer", interpreter_factory=dspy.LocalInterpreter)

    with pytest.raises(ProgramSpecError, match="can't be imported by its name") as refused:
        serialize_module(module, program="qa")
    assert refused.value.where == "functions.interpreter_factory"


def test_bindings_of_a_module_within_stand_in_the_whole_program_under_its_path() -> None:
    inner = VariableAwareChainOfThought("question -> answer")
    inner._variable_bindings = {"temperature": "t"}
    spec = sent(VariableAwareBestOfN(inner, N=2, reward_fn=sample.brevity, threshold=0.5))

    assert spec.bindings == {"module.temperature": "t"}
    assert build_module(spec, "BestOfN", ALLOWED, program="qa").get_bindings() == {"module.temperature": "t"}


def test_a_registered_tool_goes_by_its_name_where_it_has_words_of_its_own() -> None:
    tool = dspy.Tool(sample.lookup, name="glossary", desc="Look into the glossary.")
    register_tool(tool)
    try:
        spec = sent(dspy.ReAct(make_signature("question -> answer"), tools=[tool]))
        assert spec.tools == ("glossary",)
        assert requests_of(build_module(spec, "ReAct", ALLOWED, program="qa")) == requests_of(
            dspy.ReAct(make_signature("question -> answer"), tools=[tool])
        )
    finally:
        TOOLS.unregister("glossary")
    with pytest.raises(ProgramSpecError, match="neither an import path nor a registered name"):
        check_spec(spec, ALLOWED, program="qa")


def test_code_that_an_optimizer_wrote_does_not_travel() -> None:
    flex = dspy.Flex("question -> answer")
    flex._bind_code(flex._baseline_src() + "\n# rewritten\n")

    with pytest.raises(ProgramSpecError, match="code can't travel"):
        serialize_module(flex, program="qa")


def test_a_class_that_only_shares_a_name_with_dspys_goes_by_its_import_path() -> None:
    assert serialize_module(sample.ReAct(), program="qa").module == "tests.unit.programs.sample:ReAct"
    assert isinstance(rebuilt(sample.ReAct()), sample.ReAct)


def test_tools_come_back_as_the_functions_themselves() -> None:
    again = rebuilt(dspy.ReAct(make_signature("question -> answer"), tools=[sample.lookup, sample.count]))

    assert again.tools["lookup"].func is sample.lookup
    assert again.tools["count"].func is sample.count


@pytest.mark.parametrize("agent", [dspy.ReAct, dspy.CodeAct], ids=lambda agent: agent.__name__)
def test_an_agent_without_tools_comes_back(agent: Any) -> None:
    """DSPy's agents ask for tools and take none of them."""
    built = rebuilt(agent("question -> answer", tools=[]))
    assert requests_of(built) == requests_of(agent("question -> answer", tools=[]))


def test_one_set_of_arguments_serves_every_module_that_a_variable_may_choose() -> None:
    spec = ProgramSpec.parse(
        {
            "module": {"variable": "strategy", "allowed": ["Predict", "COT", "ReAct", "ProgramOfThought"]},
            "signature": "question -> answer",
            "arguments": {"max_iters": 4, "temperature": 0.3},
            "tools": ["tests.unit.programs.sample:lookup"],
            "bindings": {"temperature": "t"},
        },
        program="qa",
    )
    check_spec(spec, ALLOWED, program="qa")

    for name in spec.module_names:
        below = predictors(build_module(spec, name, ALLOWED, program="qa"))
        assert below
        assert all(predictor.config["temperature"] == 0.3 for _, predictor in below), name
    assert build_module(spec, "ReAct", ALLOWED, program="qa").max_iters == 4


def test_choosing_by_a_variable_keeps_the_signature_and_drops_no_demo_silently() -> None:
    spec = sent(dspy.Predict(Rich), choose_by="strategy", among=("Predict", "ChainOfThought"))

    assert spec.module_names == ("Predict", "ChainOfThought")
    with pytest.raises(ProgramSpecError, match="demos fit one module type"):
        serialize_module(with_demos(dspy.Predict(Rich)), program="qa", choose_by="strategy")


def test_no_lm_and_no_trace_travel_with_the_state() -> None:
    module = with_demos(dspy.Predict("question -> answer"))
    module.lm = dspy.LM("openai/demo", api_base="http://elsewhere", api_key="sk-secret")
    module.traces = [{"secret": "trace"}]

    encoded = sent(module).encode().decode()

    assert "sk-secret" not in encoded
    assert "elsewhere" not in encoded
    assert "trace" not in encoded.replace('"traces"', "")


@pytest.mark.parametrize(
    ("tool", "problem"),
    [
        (lambda word: word, "can't be imported by its name"),
        (dspy.Tool(sample.lookup, name="other"), "a name or description of its own"),
        (dspy.Tool(sample.lookup, desc="Other words."), "a name or description of its own"),
    ],
)
def test_a_tool_that_cannot_travel_is_refused(tool: Any, problem: str) -> None:
    with pytest.raises(ProgramSpecError, match=problem) as refused:
        serialize_module(dspy.ReAct(make_signature("question -> answer"), tools=[tool]), program="qa")

    assert refused.value.where == "tools"


def test_a_config_that_names_an_endpoint_is_refused_when_it_is_registered() -> None:
    spec = serialize_module(dspy.Predict("question -> answer", api_base="http://elsewhere"), program="qa")

    with pytest.raises(ProgramSpecError, match="api_base"):
        check_spec(spec, ALLOWED, program="qa")


def test_a_config_that_is_no_json_is_refused() -> None:
    with pytest.raises(ProgramSpecError) as refused:
        serialize_module(dspy.Predict("question -> answer", response_format=sample.Person), program="qa")

    assert refused.value.where.startswith("config.self.response_format")


QA: dict[str, Any] = {"module": "Predict", "signature": "question -> answer"}
BEST: dict[str, Any] = {
    "module": "BestOfN",
    "signature": None,
    "arguments": {"N": 2, "threshold": 0.5},
    "functions": {"reward_fn": "tests.unit.programs.sample:brevity"},
    "modules": {"module": QA},
}
VECTOR = "AABgQQAAgD8="  # 14 and 1
FEW_SHOT: dict[str, Any] = {
    "module": "KNNFewShot",
    "signature": None,
    "arguments": {"k": 1, "trainset": [{"example": {"question": "Why?"}, "inputs": ["question"]}], "vectors": [VECTOR]},
    "functions": {"vectorizer": "tests.unit.programs.sample:embed"},
    "modules": {"student": QA},
}
BAD: list[tuple[dict[str, Any], str]] = [
    ({"module": "tests.unit.programs.sample:lookup"}, "module"),
    ({"module": "tests.unit.programs.sample:Person"}, "module"),
    ({"module": "os:system"}, "module"),
    ({"module": "tests.unit.programs.sample:Explodes", "signature": None}, "arguments of tests"),
    ({"module": "tests.unit.programs.sample:Summarize"}, "signature"),
    ({"arguments": {"nonsense": 1}}, "arguments of Predict"),
    ({"module": "tests.unit.programs.sample:Explodes"}, "signature"),
    ({"module": "ReAct"}, "arguments of ReAct"),
    ({"module": "ReAct", "tools": ["tests.unit.programs.sample:VALUE"]}, "tools"),
    ({"module": "ReAct", "tools": ["os:system"]}, "tools"),
    ({"module": "ReAct", "tools": ["tests.unit.programs.sample:missing"]}, "tools"),
    ({"signature": "x: tests.unit.programs.sample.lookup -> y"}, "signature.x"),
    ({"config": {"nowhere": {"n": 1}}}, "config.nowhere"),
    ({"functions": {"reward_fn": "tests.unit.programs.sample:VALUE"}}, "functions.reward_fn"),
    ({"functions": {"reward_fn": "nowhere"}}, "functions.reward_fn"),
    ({"functions": {"nonsense": "tests.unit.programs.sample:brevity"}}, "arguments of Predict"),
    ({"functions": {"interpreter_factory": "dspy:LocalInterpreter"}}, "functions.interpreter_factory"),
    ({"module": "KNN", "signature": None, "arguments": {"k": 1, "trainset": ["x"]}}, "arguments.trainset"),
    ({"module": "KNN", "signature": None, "arguments": {"k": 1}}, "arguments.trainset"),
    ({"module": "KNN", "signature": None, "arguments": {"k": 1, "trainset": []}}, "arguments of KNN"),
    ({**BEST, "functions": {}}, "arguments of BestOfN"),
    ({**BEST, "modules": {}}, "arguments of BestOfN"),
    ({**BEST, "modules": {"module": {"module": "os:system"}}}, "modules.module.module"),
    ({**BEST, "modules": {"module": {**QA, "config": {"nowhere": {"n": 1}}}}}, "modules.module.config.nowhere"),
    ({**BEST, "modules": {"module": []}}, "modules.module"),
    ({**BEST, "modules": {"module": [QA]}}, "modules.module"),
    ({**BEST, "module": "Refine", "modules": {"module": [QA]}}, "modules.module"),
    ({"module": "Ensemble", "signature": None, "modules": {"programs": QA}}, "modules.programs"),
    (FEW_SHOT | {"modules": {"student": [QA]}}, "modules.student"),
    (FEW_SHOT | {"arguments": {**FEW_SHOT["arguments"], "embedder": "small"}}, "arguments.embedder"),
    (FEW_SHOT | {"functions": {}}, "arguments.embedder"),
    (FEW_SHOT | {"arguments": {**FEW_SHOT["arguments"], "k": 2}}, "arguments of KNNFewShot"),
    (FEW_SHOT | {"arguments": {**FEW_SHOT["arguments"], "trainset": ["x"]}}, "arguments.trainset"),
    (FEW_SHOT | {"arguments": {**FEW_SHOT["arguments"], "vectors": [VECTOR, VECTOR]}}, "arguments of KNNFewShot"),
    (FEW_SHOT | {"arguments": {**FEW_SHOT["arguments"], "vectors": ["no base64"]}}, "arguments.vectors"),
    (FEW_SHOT | {"functions": {**FEW_SHOT["functions"], "metric": "os:system"}}, "functions.metric"),
    ({"bindings": {"temprature": "t"}}, "bindings.temprature"),
    ({"bindings": {"nowhere.temperature": "t"}}, "bindings.nowhere.temperature"),
    ({"bindings": {"temperature": ""}}, "bindings.temperature"),
    ({"bindings": {"temperature": "t" * 513}}, "bindings.temperature"),
    ({"module": {"variable": " "}}, "module.variable"),
    ({"state": {"nowhere": {}}}, "state."),
    ({"state": {"self": {"demos": []}}}, "state"),
    ({"state": {"self": {"demos": [], "lm": None, "signature": {"instructions": "x", "fields": []}}}}, "state.self"),
]


@pytest.mark.parametrize(("changed", "where"), BAD, ids=[str(changed) for changed, _ in BAD])
def test_a_spec_that_does_not_fit_is_refused_at_the_part(changed: dict[str, Any], where: str) -> None:
    spec = ProgramSpec.parse({"module": "Predict", "signature": "question -> answer", **changed}, program="qa")

    with pytest.raises(ProgramSpecError) as refused:
        check_spec(spec, ALLOWED, program="qa")

    assert refused.value.program == "qa"
    assert refused.value.where.startswith(where)


def test_a_name_that_no_variable_can_have_is_shown_and_its_stored_binding_stays_readable() -> None:
    spec = ProgramSpec.parse({**QA, "bindings": {"temperature": " "}}, program="qa")

    with pytest.raises(
        ProgramSpecError, match=r"bindings\.temperature: A variable's name is text of 1 to .* got ' '\."
    ):
        check_spec(spec, ALLOWED, program="qa")

    assert ProgramSpec.parse(spec.encode(), program="qa") == spec
    assert build_module(spec, "Predict", ALLOWED, program="qa").get_bindings() == {"temperature": " "}


def test_a_module_that_a_nameless_variable_is_to_choose_is_refused() -> None:
    spec = serialize_module(dspy.Predict("question -> answer"), program="qa", choose_by="")

    with pytest.raises(ProgramSpecError, match=r"module\.variable.*got ''"):
        check_spec(spec, ALLOWED, program="qa")


def test_the_error_says_what_a_constructor_raised() -> None:
    spec = ProgramSpec.parse({"module": "tests.unit.programs.sample:Explodes"}, program="qa")

    with pytest.raises(ProgramSpecError, match="RuntimeError: it went off"):
        check_spec(spec, ALLOWED, program="qa")


def test_every_module_that_a_variable_may_choose_is_checked() -> None:
    spec = ProgramSpec.parse(
        {"module": {"variable": "s", "allowed": ["Predict", "ReAct"]}, "signature": "question -> answer"}, program="qa"
    )

    with pytest.raises(ProgramSpecError) as refused:
        check_spec(spec, ALLOWED, program="qa")

    assert refused.value.where == "arguments of ReAct"


def test_an_unknown_module_type_names_the_closest() -> None:
    spec = ProgramSpec.parse({"module": "ChainOfThougt", "signature": "question -> answer"}, program="qa")

    with pytest.raises(UnknownModuleError, match="Did you mean 'ChainOfThought'"):
        check_spec(spec, ALLOWED, program="qa")


def test_a_module_type_is_found_whatever_its_case() -> None:
    spec = ProgramSpec.parse({"module": "predict", "signature": "question -> answer"}, program="qa")

    assert isinstance(build_module(spec, "predict", ALLOWED, program="qa"), VariableAwarePredict)

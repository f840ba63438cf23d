"""What can be bound on which part, what values each target takes, and where it puts them."""

from __future__ import annotations

from typing import Any

import dspy
import pytest

from snakepit_bridge.dspy_integration import variable_aware
from snakepit_bridge.dspy_integration.binding import (
    BoundValue,
    LMScope,
    bind_values,
    bindable,
    check_bindable,
    split_attribute,
)
from snakepit_bridge.dspy_integration.ensemble import Ensemble
from snakepit_bridge.dspy_integration.module_tree import predictors
from snakepit_bridge.dspy_integration.registry import INTERPRETERS, REWARDS, TOOLS
from snakepit_bridge.dspy_integration.targets.keywords import ALLOWED, REFUSED
from snakepit_bridge.exceptions import BindingError, ValidationError
from snakepit_bridge.lm.profiles import LMProfile, LMProfiles
from tests.harness.signatures import make_signature, signature_of

SCOPE = LMScope(ambient=dspy.LM("openai/demo", api_key="x"))


def search(query: str) -> str:
    """Search the library."""
    return query


def lookup(query: str) -> str:
    """Look a word up."""
    return query


def longest(args: dict[str, Any], prediction: Any) -> float:
    return float(len(prediction.answer))


def first(outputs: list[Any]) -> Any:
    return outputs[0]


class Pipeline(dspy.Module):
    """A composite of the user's own."""

    def __init__(self) -> None:
        super().__init__()
        self.retries = 2
        self.reasoner = dspy.ChainOfThought("question -> answer")
        self.steps = [dspy.Predict("answer -> summary")]
        self.by_name = {"judge": dspy.Predict("summary -> verdict: bool")}

    def forward(self, question: str) -> Any:
        return self.reasoner(question=question)


def bind(module: Any, scope: LMScope = SCOPE, **values: Any) -> Any:
    bound = {name.replace("__", "."): BoundValue("v", value) for name, value in values.items()}
    return bind_values(module, bound, scope)


def configs(module: Any) -> list[dict[str, Any]]:
    return [predictor.config for _, predictor in predictors(module)]


# ---------------------------------------------------------------- names and paths


@pytest.mark.parametrize(
    ("attribute", "parts"),
    [
        ("temperature", ("", "temperature")),
        ("reasoner.temperature", ("reasoner", "temperature")),
        ("reasoner.predict.top_p", ("reasoner.predict", "top_p")),
        ("desc.answer", ("", "desc.answer")),
        ("reasoner.desc.answer", ("reasoner", "desc.answer")),
        ("steps[0].config.safety", ("steps[0]", "config.safety")),
    ],
)
def test_an_attribute_is_a_path_and_a_target(attribute: str, parts: tuple[str, str]) -> None:
    assert split_attribute(attribute) == parts


@pytest.mark.parametrize("path", ["reasoner", "reasoner.predict", "steps[0]", "by_name[judge]", "by_name['judge']"])
def test_a_path_steers_one_part_and_leaves_the_others(path: str) -> None:
    twin = bind_values(Pipeline(), {f"{path}.temperature": BoundValue("v", 0.1)}, SCOPE)
    assert configs(twin).count({"temperature": 0.1}) == 1
    assert configs(twin).count({}) == 2


def test_the_nearer_binding_wins() -> None:
    twin = bind(Pipeline(), temperature=0.1, reasoner__temperature=0.9)
    assert {path: p.config["temperature"] for path, p in predictors(twin)} == {
        "reasoner.predict": 0.9,
        "steps[0]": 0.1,
        "by_name[judge]": 0.1,
    }


def test_a_compiled_part_is_steered_too() -> None:
    pipeline = Pipeline()
    pipeline.reasoner._compiled = True
    assert configs(bind(pipeline, temperature=0.1)) == [{"temperature": 0.1}] * 3


def test_the_module_itself_stays_as_it_is() -> None:
    pipeline = Pipeline()
    before = pipeline.dump_state()
    bind(pipeline, temperature=0.1, retries=5, reasoner__instructions="x", reasoner__desc__answer="y")
    assert pipeline.dump_state() == before
    assert configs(pipeline) == [{}, {}, {}]
    assert pipeline.retries == 2


# ---------------------------------------------------------------- what can't be bound


@pytest.mark.parametrize(
    ("module", "attribute", "says"),
    [
        (dspy.Predict("q -> a"), "temprature", "would ignore it"),
        (dspy.Predict("q -> a"), "max_iters", "would ignore it"),
        (dspy.Predict("q -> a"), "stage", "would ignore it"),
        (dspy.Predict("q -> a"), "tools", "would ignore it"),
        (dspy.Predict("q -> a"), "desc.nothing", "would ignore it"),
        (dspy.Predict("q -> a"), "predict.temperature", "no part 'predict'"),
        (dspy.Predict("q -> a"), "config.api_key", "where a request goes"),
        (dspy.Predict("q -> a"), "config.base_url", "where a request goes"),
        (dspy.Predict("q -> a"), "api_base", "would ignore it"),
        (dspy.Predict("q -> a"), "signature", "would ignore it"),
        (dspy.ReAct(make_signature("q -> a"), [search]), "max_iterations", "would ignore it"),
        (dspy.ReAct(make_signature("q -> a"), [search]), "demos", "react.demos"),
        (dspy.MultiChainComparison("q -> a"), "last_key", "would ignore it"),
        (Pipeline(), "instructions", "reasoner.predict.instructions"),
        (Pipeline(), "retires", "would ignore it"),
        (dspy.Parallel(), "temperature", "would ignore it"),
        (dspy.Parallel(), "error_count", "would ignore it"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_takes_no_effect_is_refused_with_what_does(module: Any, attribute: str, says: str) -> None:
    with pytest.raises(BindingError, match=says) as refused:
        check_bindable(module, attribute)
    if "no part" not in says:
        assert list(refused.value.available) == bindable(module)
        assert all(name in str(refused.value) for name in bindable(module))


def test_everything_that_is_listed_can_be_bound() -> None:
    refused: list[str] = []
    for module in (Pipeline(), dspy.ReAct(make_signature("q -> a"), [search]), dspy.RLM("q -> a"), dspy.Flex("q -> a")):
        for attribute in bindable(module):
            try:
                check_bindable(module, attribute.replace("<LM keyword>", "thinking"))
            except BindingError as exc:
                refused.append(str(exc))
    assert refused == []


def test_inside_best_of_n_one_predictor_can_not_have_a_model_of_its_own() -> None:
    best = dspy.BestOfN(Pipeline(), N=2, reward_fn=longest, threshold=1.0)
    with pytest.raises(BindingError, match="all its predictors on one LM"):
        check_bindable(best, "module.reasoner.model")
    check_bindable(best, "module.model")
    check_bindable(best, "module.reasoner.temperature")


def test_inside_refine_no_part_can_have_an_adapter_of_its_own() -> None:
    refine = dspy.Refine(dspy.ChainOfThought("q -> answer"), N=2, reward_fn=longest, threshold=1.0)
    with pytest.raises(BindingError, match="advice"):
        check_bindable(refine, "module.adapter")
    check_bindable(refine, "adapter")


# ---------------------------------------------------------------- LM keywords


@pytest.mark.parametrize(
    ("target", "value", "put"),
    [
        ("temperature", 0, 0),
        ("temperature", 1.9, 1.9),
        ("top_p", 0.5, 0.5),
        ("max_tokens", 12, 12),
        ("n", 3, 3),
        ("stop", "END", "END"),
        ("stop", '["END", "STOP"]', ["END", "STOP"]),
        ("stop", "[END]", "[END]"),
        ("seed", -7, -7),
        ("logprobs", True, True),
        ("logit_bias", '{"50256": -100}', {"50256": -100}),
        ("parallel_tool_calls", False, False),
    ],
)
def test_an_lm_keyword_becomes_config(target: str, value: Any, put: Any) -> None:
    assert configs(bind(dspy.Predict("q -> a"), **{target: value})) == [{target: put}]


@pytest.mark.parametrize(
    ("target", "value"),
    [
        ("temperature", 5),
        ("temperature", -0.1),
        ("temperature", "0.5"),
        ("temperature", True),
        ("temperature", float("nan")),
        ("top_p", 1.5),
        ("max_tokens", "12"),
        ("max_tokens", 0),
        ("max_tokens", 1.5),
        ("n", 0),
        ("stop", ""),
        ("stop", "[]"),
        ("stop", 7),
        ("seed", 0.5),
        ("frequency_penalty", 2.5),
        ("logit_bias", "[1]"),
        ("user", " "),
    ],
)
def test_a_value_out_of_range_never_reaches_dspy(target: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=f"(?s)'v' can't be.*bound to {target}"):
        bind(dspy.Predict("q -> a"), **{target: value})


def test_a_keyword_without_a_rule_goes_by_config() -> None:
    twin = bind_values(dspy.Predict("q -> a"), {"config.thinking": BoundValue("v", '{"type": "enabled"}')}, SCOPE)
    assert configs(twin) == [{"thinking": {"type": "enabled"}}]


UNSAFE = [
    *(
        "default_headers",
        "extra_headers",
        "headers",
        "api_base",
        "base_url",
        "api_type",
    ),
    *(
        "mock_response",
        "http_client",
        "mock_testing_fallbacks",
        "organization",
        "API_BASE",
        "logger_fn",
    ),
    *(
        "callbacks",
        "success_callback",
        "metadata",
        "litellm_params",
        "input_cost_per_token",
        "fallbacks",
    ),
    *(
        "caching",
        "ssl_verify",
        "aws_access_key_id",
        "vertex_project",
        "azure_ad_token",
        "drop_params",
    ),
    *(
        "allowed_openai_params",
        "safety",
        "organization ",
        " api_base",
        "",
    ),
]


@pytest.mark.parametrize(
    "keyword",
    UNSAFE,
)
def test_no_other_keyword_is_bound_whatever_it_is_called(keyword: str) -> None:
    """Names are let through by an exact list, since nobody knows all that a library reads."""
    with pytest.raises(BindingError):
        check_bindable(dspy.Predict("q -> a"), f"config.{keyword}")


def test_the_lists_hold_nothing_that_says_where_a_request_goes() -> None:
    for engine, names in ALLOWED.items():
        assert not names & REFUSED, engine
        assert all(name == name.strip().casefold() for name in names)


def test_a_keyword_is_refused_by_the_engine_that_would_read_it_otherwise() -> None:
    profiles = LMProfiles([LMProfile("own", "openai/a"), LMProfile("other", "openai/b", engine="litellm")])
    bound = {"config.enable_thinking": BoundValue("v", True)}
    for name in profiles.choose("own"), profiles.choose("other"):
        scope = LMScope(profiles, name.lm)
        if name.profile == "own":
            bind_values(dspy.Predict("q -> a"), bound, scope)
        else:
            with pytest.raises(ValidationError, match="may not set on the engine of 'openai/b'"):
                bind_values(dspy.Predict("q -> a"), bound, scope)


def test_a_bound_keyword_replaces_the_constructors_and_leaves_the_rest() -> None:
    chosen = dspy.MultiChainComparison("q -> a", temperature=0.7, top_p=0.4)
    assert configs(bind(chosen, temperature=0.1)) == [{"temperature": 0.1, "top_p": 0.4}]


@pytest.mark.parametrize(
    ("model", "spelling"), [("openai/gpt-5", "max_completion_tokens"), ("openai/gpt-4o", "max_tokens")]
)
def test_the_token_limit_has_the_name_that_the_model_reads(model: str, spelling: str) -> None:
    ambient = LMScope(ambient=dspy.LM(model, api_key="x"))
    assert configs(bind(dspy.Predict("q -> a"), ambient, max_tokens=500)) == [{spelling: 500}]


def test_the_token_limit_follows_a_model_that_is_bound_beside_it() -> None:
    twin = bind(dspy.Predict("q -> a"), max_tokens=500, model="openai/o3")
    assert configs(twin) == [{"max_completion_tokens": 500}]


def test_a_flex_with_an_lm_of_its_own_asks_a_copy_of_it() -> None:
    flex = dspy.Flex("q -> a")
    flex.lm = dspy.LM("openai/gpt-5", api_key="x")
    twin = bind(flex, max_tokens=500)
    assert twin.lm.kwargs["max_completion_tokens"] == 500
    assert flex.lm.kwargs.get("max_completion_tokens") is None


# ---------------------------------------------------------------- model, adapter


def test_a_model_reaches_every_predictor() -> None:
    twin = bind(Pipeline(), model="other")
    assert {p.lm.model for _, p in predictors(twin)} == {"openai/other"}


def test_profiles_decide_what_a_model_may_be() -> None:
    scope = LMScope(LMProfiles([LMProfile("fast", "openai/small", models=("openai/large",))]))
    assert bind(dspy.Predict("q -> a"), scope, model="fast").lm.model == "openai/small"
    assert bind(dspy.Predict("q -> a"), scope, lm="openai/large").lm.model == "openai/large"
    with pytest.raises(ValidationError, match="fast"):
        bind(dspy.Predict("q -> a"), scope, model="slow")


@pytest.mark.parametrize("value", [7, "", "anthropic/claude", "nowhere"])
def test_an_adapter_that_is_not_registered_is_refused(value: Any) -> None:
    with pytest.raises(ValidationError, match="registered adapter.*chat, json, xml"):
        bind(dspy.Predict("q -> a"), adapter=value)


def test_another_provider_needs_a_profile() -> None:
    with pytest.raises(ValidationError, match="current provider 'openai'"):
        bind(dspy.Predict("q -> a"), model="anthropic/claude")


# ---------------------------------------------------------------- prompts


def description(signature: type[dspy.Signature], field: str) -> str:
    extra: Any = signature.fields[field].json_schema_extra
    return extra["desc"]


def test_instructions_replace_the_users_words_and_keep_the_modules() -> None:
    agent = dspy.ReAct(make_signature("q -> a", "Old words."), [search])
    twin = bind(agent, instructions="New words.")
    react, extract = (signature_of(p).instructions for _, p in predictors(twin))
    assert react.startswith("New words.\n")
    assert "Old words" not in react
    assert "search" in react
    assert extract == "New words."


def test_instructions_reach_both_prompts_of_an_rlm() -> None:
    twin = bind(dspy.RLM(make_signature("q -> a", "Old words.")), instructions="New words.")
    for _, predictor in predictors(twin):
        assert "New words." in signature_of(predictor).instructions
        assert "Old words." not in signature_of(predictor).instructions


def test_program_of_thought_which_sends_no_instructions_gets_them() -> None:
    twin = bind(dspy.ProgramOfThought(make_signature("q -> a", "Never sent.")), instructions="Sent.")
    assert all(signature_of(p).instructions.startswith("Sent.\n\n") for _, p in predictors(twin))


def test_instructions_do_not_pile_up() -> None:
    module = twin = dspy.ChainOfThought("q -> a")
    for at in range(300):
        twin = bind(module, instructions=f"Text {at}.", desc__a=f"Field {at}.")
    assert signature_of(twin.predict).instructions == "Text 299."
    assert description(signature_of(twin.predict), "a") == "Field 299."


@pytest.mark.parametrize("value", ["", "  ", 7])
def test_instructions_must_be_a_text(value: Any) -> None:
    with pytest.raises(ValidationError, match="bound to instructions"):
        bind(dspy.Predict("q -> a"), instructions=value)


def test_a_description_changes_its_field_wherever_it_is() -> None:
    twin = bind(dspy.ReAct(make_signature("question -> answer"), [search]), desc__question="What they ask.")
    for _, predictor in predictors(twin):
        assert description(signature_of(predictor), "question") == "What they ask."


def test_demos_are_a_json_list() -> None:
    twin = bind(dspy.ChainOfThought("q -> a"), demos='[{"q": "1+1", "a": "2"}]')
    assert [dict(demo) for demo in twin.predict.demos] == [{"q": "1+1", "a": "2"}]


@pytest.mark.parametrize("value", ["text", "{}", '["q"]', '[{"x": 1}]', "[{}]", 7])
def test_other_demos_are_refused(value: Any) -> None:
    with pytest.raises(ValidationError, match="JSON list of objects with fields of: q, reasoning, a"):
        bind(dspy.ChainOfThought("q -> a"), demos=value)


# ---------------------------------------------------------------- what is peculiar to some modules


@pytest.mark.parametrize(
    "module",
    [
        dspy.ReAct(make_signature("q -> a"), [search]),
        dspy.ReActV2(make_signature("q -> a"), [search]),
        dspy.RLM("q -> a"),
    ],
)
def test_max_iters_counts_from_one(module: Any) -> None:
    assert bind(module, max_iters=4).max_iters == 4
    with pytest.raises(ValidationError, match="whole number from 1"):
        bind(module, max_iters=0)


@pytest.mark.parametrize("wanted", [1, 2, 3, 5])
def test_m_is_the_number_of_attempts(wanted: int) -> None:
    twin = bind(dspy.MultiChainComparison("question -> answer"), M=wanted)
    plain = dspy.MultiChainComparison("question -> answer", M=wanted)
    assert twin.predict.signature.equals(plain.predict.signature)
    assert wanted == twin.M


@pytest.mark.parametrize("kind", [dspy.BestOfN, dspy.Refine])
def test_n_threshold_and_reward(kind: Any) -> None:
    module = kind(dspy.Predict("q -> answer"), N=2, reward_fn=longest, threshold=1.0)
    twin = bind(module, N=5, threshold=3)
    assert (twin.N, twin.threshold, twin.fail_count) == (5, 3, 5)
    assert (module.N, module.threshold, module.fail_count) == (2, 1.0, 2)
    REWARDS.register(longest)
    try:
        assert bind(module, reward_fn="longest").reward_fn is longest
        with pytest.raises(ValidationError, match="reward function: longest"):
            bind(module, reward_fn="shortest")
    finally:
        REWARDS.unregister("longest")


def test_an_ensembles_size_and_reduce_function() -> None:
    ensemble = Ensemble([dspy.Predict("q -> a"), dspy.Predict("q -> a")], reduce_fn=first)
    twin = bind(ensemble, size=1, reduce_fn="majority")
    assert (twin.size, twin.reduce_fn) == (1, dspy.majority)
    with pytest.raises(ValidationError, match="there are 2 programs"):
        bind(ensemble, size=3)


def test_parallels_threads() -> None:
    assert bind(dspy.Parallel(num_threads=2), num_threads=7).num_threads == 7
    with pytest.raises(ValidationError, match="whole number from 1"):
        bind(dspy.Parallel(), num_threads=0)


def test_a_composites_own_plain_attributes_keep_their_type() -> None:
    assert bind(Pipeline(), retries=5).retries == 5
    with pytest.raises(ValidationError, match="of type int"):
        bind(Pipeline(), retries="5")


@pytest.mark.parametrize(
    "module",
    [dspy.ProgramOfThought("q -> a"), dspy.CodeAct("q -> a", [search]), dspy.RLM("q -> a"), dspy.Flex("q -> a")],
    ids=lambda module: type(module).__name__,
)
def test_an_interpreter_goes_by_its_registered_name(module: Any) -> None:
    assert bind(module, interpreter="sandbox")._interpreter_factory is INTERPRETERS.find("sandbox", "v")
    with pytest.raises(ValidationError, match="registered interpreter: sandbox"):
        bind(module, interpreter="local")


def test_an_unsafe_interpreter_must_be_registered_by_code() -> None:
    INTERPRETERS.register(dspy.LocalInterpreter, "local")
    try:
        twin = bind(dspy.Flex("q -> a"), interpreter="local")
        assert twin._bridge._factory is dspy.LocalInterpreter
        assert twin._bridge._flex is twin
    finally:
        INTERPRETERS.unregister("local")


def test_a_name_stands_for_one_thing() -> None:
    TOOLS.register(search)
    try:
        assert TOOLS.register(search) is search
        with pytest.raises(ValueError, match="Another tool is called 'search'"):
            TOOLS.register(lookup, "search")
    finally:
        TOOLS.unregister("search")


def test_an_aware_class_offers_what_its_plain_class_does() -> None:
    for kind in (dspy.Predict, dspy.ChainOfThought):
        assert bindable(variable_aware(kind)("q -> a")) == bindable(kind("q -> a"))

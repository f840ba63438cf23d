"""Bindings, syncs and callbacks of an aware module, and what becomes of it when it is copied, saved or optimized."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
import weakref
from pathlib import Path
from typing import Any

import cloudpickle
import dspy
import pytest

from snakepit_bridge.dspy_integration import VariableAwareChainOfThought, VariableAwareMixin, VariableAwarePredict
from snakepit_bridge.dspy_integration.modules import VariableAwareReAct
from snakepit_bridge.exceptions import (
    BindingError,
    StoreUnavailableError,
    ValidationError,
    VariableNotFoundError,
)
from snakepit_bridge.session_context import SessionContext
from snakepit_bridge.snapshots import MemoryStore, RedisStore
from snakepit_bridge.snapshots.snapshot import Snapshot
from snakepit_bridge.testing import RecordingLM
from tests.harness.signatures import make_signature, signature_of


def search(query: str) -> str:
    """Search the library."""
    return query


def predictor(session: SessionContext | None, **bindings: str) -> VariableAwarePredict:
    module = VariableAwarePredict("question -> answer", session_context=session)
    for attribute, variable in bindings.items():
        module.bind_to_variable_sync(attribute, variable)
    return module


class CountingStore(MemoryStore):
    reads = 0

    async def read(self, session: str, have: Snapshot | None = None) -> Snapshot:
        self.reads += 1
        return await super().read(session, have)


class Pipeline(VariableAwareMixin, dspy.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.retries = 2
        self.draft = VariableAwarePredict("question -> draft", session_context=options.get("session_context"))
        self.final = dspy.Predict("draft -> answer")

    def forward(self, question: str) -> Any:
        return self.final(draft=self.draft(question=question).draft)


# ---------------------------------------------------------------- binding


def test_a_bound_value_can_be_read_on_the_module(session: SessionContext) -> None:
    module = VariableAwareReAct("question -> answer", [search], session_context=session)
    session.blocking.set_variables({"iters": 3, "tools": "search"})
    bound = {
        "temperature": "temp",
        "model": "llm",
        "instructions": "text",
        "max_iters": "iters",
        "extract.temperature": "temp",
        "tools": "tools",
        "desc.answer": "text",
    }
    with dspy.context(lm=dspy.LM("openai/demo", api_key="x")):
        for attribute, variable in bound.items():
            module.bind_to_variable_sync(attribute, variable)
    assert (module.temperature, module.model, module.instructions) == (0.3, "openai/other", "Be brief.")
    assert (module.max_iters, module.extract.temperature) == (3, 0.3)
    assert list(module.tools) == ["search", "finish"], "DSPy's own objects are not lain over"
    assert module.bound_values["tools"] == "search"
    assert module.bound_values["desc.answer"] == "Be brief."
    assert module.get_bindings() == bound


def test_an_unbound_attribute_is_what_it_was(session: SessionContext, lm: RecordingLM) -> None:
    session.blocking.set_variable("iters", 3)
    module = VariableAwareReAct("question -> answer", [search], max_iters=9, session_context=session)
    module.bind_to_variable_sync("max_iters", "iters")
    module.bind_to_variable_sync("temperature", "temp")
    module(question="Why?")
    module.unbind_variable("max_iters")
    module.unbind_variable("temperature")
    module.unbind_variable("never bound")
    assert module.max_iters == 9
    assert not hasattr(module, "temperature")
    assert module.get_bindings() == {} == module.bound_values


def test_a_refused_binding_changes_nothing(session: SessionContext) -> None:
    session.blocking.set_variable("temp", 5.0)
    module = predictor(session, max_tokens="limit")
    before = dict(vars(module))
    for attribute, variable, error in [
        ("temperature", "temp", ValidationError),
        ("temperature", "tempp", VariableNotFoundError),
        ("tempreature", "temp", BindingError),
        ("temperature", "", BindingError),
    ]:
        with pytest.raises(error):
            module.bind_to_variable_sync(attribute, variable)
    assert vars(module) == before


def test_a_missing_variable_names_the_likely_one(session: SessionContext) -> None:
    with pytest.raises(ValueError, match="not found: temps.*Did you mean 'temp'"):
        predictor(session, temperature="temps")


def test_a_name_that_no_variable_can_have_is_refused(session: SessionContext) -> None:
    with pytest.raises(
        BindingError, match=r"Can't bind 'temperature' .* 1 to 512 characters .*; got ' '\. Give it one"
    ):
        predictor(session, temperature=" ")


def test_binding_without_a_session_says_what_to_do() -> None:
    with pytest.raises(RuntimeError, match="give VariableAwarePredict a session_context="):
        predictor(None, temperature="temp")


def test_a_value_that_fits_only_beside_another_binding(session: SessionContext) -> None:
    session.blocking.set_variable("llm", "openai/o3")
    with dspy.context(lm=dspy.LM("openai/demo", api_key="x")):
        module = predictor(session, model="llm", max_tokens="limit")
    assert module.max_tokens == 77


async def test_the_bound_variables_present_value(session: SessionContext) -> None:
    module = VariableAwarePredict("question -> answer", session_context=session)
    await module.bind_to_variable("temperature", "temp")
    await session.set_variable("temp", 0.9)
    assert await module.get_bound_variable("temperature") == 0.9
    assert module.temperature == 0.3
    with pytest.raises(ValueError, match="max_tokens.*not bound"):
        await module.get_bound_variable("max_tokens")


# ---------------------------------------------------------------- sync


async def test_a_sync_returns_what_changed_and_takes_one_round_trip() -> None:
    store = CountingStore()
    session = SessionContext("s", store)
    await session.set_variables({"temp": 0.3, "limit": 77, "nucleus": 0.5})
    module = VariableAwarePredict("question -> answer", session_context=session)
    for attribute, variable in {"temperature": "temp", "max_tokens": "limit", "top_p": "nucleus"}.items():
        await module.bind_to_variable(attribute, variable)
    await session.set_variables({"temp": 0.9, "limit": 99})
    store.reads = 0
    assert await module.sync_variables() == {"temperature": (0.3, 0.9), "max_tokens": (77, 99)}
    assert store.reads == 1
    assert await module.sync_variables() == {}
    assert (module.temperature, module.max_tokens, module.top_p) == (0.9, 99, 0.5)


async def test_a_call_takes_one_round_trip(lm: RecordingLM) -> None:
    store = CountingStore()
    session = SessionContext("s", store)
    await session.set_variables({"temp": 0.3})
    pipeline = Pipeline(session_context=session)
    await pipeline.bind_to_variable("temperature", "temp")
    await pipeline.draft.bind_to_variable("top_p", "temp")
    store.reads = 0
    await pipeline.acall(question="Why?")
    pipeline(question="Why?")
    assert store.reads == 2


def test_the_blocking_sync_is_the_same(session: SessionContext) -> None:
    module = predictor(session, temperature="temp")
    session.blocking.set_variable("temp", 0.9)
    assert module.sync_variables_sync() == {"temperature": (0.3, 0.9)}


def test_a_module_with_nothing_bound_has_nothing_to_sync() -> None:
    assert predictor(None).sync_variables_sync() == {}
    assert asyncio.run(predictor(SessionContext("nobody-published")).sync_variables()) == {}


def test_without_auto_sync_calls_use_the_last_syncs_values(session: SessionContext, lm: RecordingLM) -> None:
    module = VariableAwarePredict("question -> answer", session_context=session, auto_sync=False)
    module.bind_to_variable_sync("temperature", "temp")
    session.blocking.set_variable("temp", 0.9)
    module(question="Why?")
    module.sync_variables_sync()
    module(question="Why?")
    assert [r.temperature for r in lm.requests] == [0.3, 0.9]


# ---------------------------------------------------------------- no silent stale run


@pytest.mark.parametrize("how", ["call", "acall", "sync"])
def test_a_vanished_variable_stops_the_call(session: SessionContext, lm: RecordingLM, how: str) -> None:
    module = predictor(session, temperature="temp")
    session.blocking.delete_variable("temp")
    with pytest.raises(VariableNotFoundError, match="temp"):
        run(module, how)
    assert lm.requests == []


@pytest.mark.parametrize("how", ["call", "acall", "sync"])
def test_a_value_out_of_range_stops_the_call_and_nothing_is_taken(
    session: SessionContext, lm: RecordingLM, how: str
) -> None:
    module = predictor(session, temperature="temp", max_tokens="limit")
    session.blocking.set_variables({"temp": 5.0, "limit": 99})
    with pytest.raises(ValidationError, match="'temp' can't be 5.0.*bound to temperature"):
        run(module, how)
    assert lm.requests == []
    assert (module.temperature, module.max_tokens) == (0.3, 77)


@pytest.mark.parametrize("how", ["call", "acall", "sync"])
def test_a_dead_store_stops_the_call(lm: RecordingLM, how: str) -> None:
    session = SessionContext("s")
    session.blocking.set_variables({"temp": 0.3})
    module = predictor(session, temperature="temp")
    session.store = RedisStore("redis://127.0.0.1:1/0")
    with pytest.raises(StoreUnavailableError):
        run(module, how)
    assert lm.requests == []


def test_a_restored_module_without_auto_sync_must_be_synced_first(session: SessionContext, lm: RecordingLM) -> None:
    state = predictor(session, temperature="temp").dump_state()
    module = VariableAwarePredict("question -> answer", session_context=session, auto_sync=False)
    module.load_state(state)
    with pytest.raises(BindingError, match="never synced"):
        module(question="Why?")
    module.sync_variables_sync()
    module(question="Why?")
    lm.assert_all_sent(temperature=0.3)


def run(module: Any, how: str) -> Any:
    if how == "sync":
        return module.sync_variables_sync()
    return module(question="Why?") if how == "call" else asyncio.run(module.acall(question="Why?"))


# ---------------------------------------------------------------- callbacks


def test_a_callback_hears_of_its_own_attribute_only(session: SessionContext) -> None:
    heard: list[tuple[str, Any, Any]] = []
    module = predictor(session, max_tokens="limit")
    module.bind_to_variable_sync("temperature", "temp", lambda *change: heard.append(change))
    session.blocking.set_variables({"temp": 0.9, "limit": 99})
    module.sync_variables_sync()
    module.sync_variables_sync()
    assert heard == [("temperature", 0.3, 0.9)]


def test_on_change_hears_until_it_is_unbound(session: SessionContext, lm: RecordingLM) -> None:
    heard: list[tuple[str, Any, Any]] = []
    module = predictor(session, temperature="temp")
    module.on_change("temperature", lambda *change: heard.append(change))
    session.blocking.set_variable("temp", 0.9)
    module(question="Why?")
    module.unbind_variable("temperature")
    module.bind_to_variable_sync("temperature", "temp")
    session.blocking.set_variable("temp", 0.5)
    module(question="Why?")
    assert heard == [("temperature", 0.3, 0.9)]
    with pytest.raises(BindingError, match="max_tokens.*bind it first, bound is: temperature"):
        module.on_change("max_tokens", print)


def test_a_callback_for_every_attribute(session: SessionContext) -> None:
    heard: list[str] = []
    module = predictor(session, temperature="temp", max_tokens="limit")
    module._sync_callbacks.append(lambda attribute, old, new: heard.append(attribute))
    session.blocking.set_variables({"temp": 0.9, "limit": 99})
    module.sync_variables_sync()
    assert heard == ["temperature", "max_tokens"]


def test_binding_tells_of_a_change_only_where_there_was_a_value(session: SessionContext) -> None:
    heard: list[tuple[str, Any, Any]] = []
    module = predictor(session)
    module.bind_to_variable_sync("temperature", "temp", lambda *change: heard.append(change))
    assert heard == []
    session.blocking.set_variable("warm", 1.0)
    module.bind_to_variable_sync("temperature", "warm", lambda *change: heard.append(change))
    assert heard == [("temperature", 0.3, 1.0)]


def test_a_failing_callback_neither_hides_nor_undoes(session: SessionContext) -> None:
    heard: list[Any] = []

    def fail(*change: Any) -> None:
        raise LookupError("from the callback")

    module = predictor(session, temperature="temp", max_tokens="limit")
    module.on_change("temperature", fail)
    module.on_change("max_tokens", lambda *change: heard.append(change))
    session.blocking.set_variables({"temp": 0.9, "limit": 99})
    with pytest.raises(LookupError, match="from the callback"):
        module.sync_variables_sync()
    assert module.temperature == 0.9
    assert heard == [("max_tokens", 77, 99)]
    assert module.sync_variables_sync() == {}
    session.blocking.set_variable("fresh", 5)
    with pytest.raises(LookupError):
        module.bind_to_variable_sync("max_tokens", "fresh", fail)
    assert module.get_bindings()["max_tokens"] == "fresh"
    assert module.max_tokens == 5


def test_several_failing_callbacks_are_all_shown(session: SessionContext) -> None:
    def fail(*change: Any) -> None:
        raise LookupError(change[0])

    module = predictor(session, temperature="temp", max_tokens="limit")
    module.on_change("temperature", fail)
    module.on_change("max_tokens", fail)
    session.blocking.set_variables({"temp": 0.9, "limit": 99})
    with pytest.raises(ExceptionGroup) as raised:
        module.sync_variables_sync()
    assert [str(fault) for fault in raised.value.exceptions] == ["temperature", "max_tokens"]


def test_an_older_snapshot_does_not_undo_a_newer_one(session: SessionContext) -> None:
    module = predictor(session, temperature="temp")
    older = session.blocking.snapshot()
    session.blocking.set_variable("temp", 0.9)
    module.sync_variables_sync()
    assert module._sync(older) == {}
    assert module.temperature == 0.9


def test_bind_unbind_and_sync_at_the_same_time(session: SessionContext) -> None:
    module = predictor(session, temperature="temp")
    faults: list[BaseException] = []
    done = threading.Event()

    def churn() -> None:
        try:
            while not done.is_set():
                module.bind_to_variable_sync("max_tokens", "limit")
                module.unbind_variable("max_tokens")
        except BaseException as fault:  # noqa: BLE001
            faults.append(fault)

    threads = [threading.Thread(target=churn) for _ in range(3)]
    for thread in threads:
        thread.start()
    for at in range(100):
        session.blocking.set_variable("temp", at / 100)
        module.sync_variables_sync()
    done.set()
    for thread in threads:
        thread.join()
    assert faults == []
    assert module.temperature == 0.99


# ---------------------------------------------------------------- copies


def test_a_deepcopy_obeys_the_same_session_on_its_own(session: SessionContext, lm: RecordingLM) -> None:
    heard: list[Any] = []
    module = predictor(session, temperature="temp")
    module.on_change("temperature", lambda *change: heard.append(change))
    twin = module.deepcopy()
    assert twin.session_context is session
    twin.unbind_variable("temperature")
    assert module.get_bindings() == {"temperature": "temp"}
    again = module.deepcopy()
    session.blocking.set_variable("temp", 0.9)
    again(question="Why?")
    lm.assert_all_sent(temperature=0.9)
    assert heard == [("temperature", 0.3, 0.9)]
    assert module.temperature == 0.3


def test_a_reset_copy_keeps_the_bindings(session: SessionContext, lm: RecordingLM) -> None:
    module = predictor(session, temperature="temp")
    module.demos = [dspy.Example(question="q", answer="a")]
    fresh = module.reset_copy()
    assert fresh.demos == []
    fresh(question="Why?")
    lm.assert_all_sent(temperature=0.3)


def test_session_and_modules_are_freed() -> None:
    session = SessionContext("s")
    session.blocking.set_variable("temp", 0.3)
    module = predictor(session, temperature="temp")
    assert list(session.modules) == [module]
    dead = [weakref.ref(session), weakref.ref(module)]
    del module
    gc.collect()
    assert list(session.modules) == []
    del session
    gc.collect()
    assert [each() for each in dead] == [None, None]


def test_a_module_keeps_its_session() -> None:
    module = predictor(None)
    module.session_context = SessionContext("s")
    gc.collect()
    assert module.session_context is not None


# ---------------------------------------------------------------- saved state


def test_the_state_is_the_plain_ones_and_the_bindings(session: SessionContext) -> None:
    plain = dspy.Predict("question -> answer")
    module = predictor(session, temperature="temp")
    state = module.dump_state()
    assert state.pop("variable_bindings") == {"": {"temperature": "temp"}}
    assert state == plain.dump_state()
    assert predictor(session).dump_state() == plain.dump_state()
    json.dumps(module.dump_state())


def test_plain_and_aware_states_load_into_each_other(session: SessionContext, lm: RecordingLM) -> None:
    plain = dspy.ChainOfThought("question -> answer")
    plain.predict.demos = [dspy.Example(question="q", reasoning="r", answer="a")]
    aware = VariableAwareChainOfThought("question -> answer", session_context=session)
    aware.bind_to_variable_sync("temperature", "temp")
    aware.load_state(plain.dump_state())
    assert aware.get_bindings() == {"temperature": "temp"}
    back = dspy.ChainOfThought("question -> answer")
    back.load_state(aware.dump_state())
    assert [dict(demo) for demo in back.predict.demos] == [dict(demo) for demo in plain.predict.demos]
    aware(question="Why?")
    lm.assert_all_sent(temperature=0.3)


@pytest.mark.parametrize("suffix", [".json", ".pkl"])
def test_bindings_survive_save_and_load(session: SessionContext, lm: RecordingLM, tmp_path: Path, suffix: str) -> None:
    pipeline = Pipeline(session_context=session)
    pipeline.bind_to_variable_sync("temperature", "temp")
    pipeline.draft.bind_to_variable_sync("max_tokens", "limit")
    pipeline.save(tmp_path / f"pipeline{suffix}")
    loaded = Pipeline(session_context=session)
    loaded.bind_to_variable_sync("top_p", "temp")
    loaded.load(tmp_path / f"pipeline{suffix}", allow_pickle=True)
    assert loaded.get_bindings() == {"temperature": "temp"}
    assert loaded.draft.get_bindings() == {"max_tokens": "limit"}
    loaded(question="Why?")
    assert [(r.temperature, r.max_tokens, r.top_p) for r in lm.requests] == [(0.3, 77, None), (0.3, None, None)]


def test_bindings_that_do_not_fit_are_refused_before_anything_is_loaded(session: SessionContext) -> None:
    module = predictor(session)
    for bindings, says in [({"": {"max_iters": "v"}}, "max_iters"), ({"gone": {"temperature": "v"}}, "gone")]:
        state = {**dspy.Predict(make_signature("question -> answer", "Other words.")).dump_state()}
        with pytest.raises(BindingError, match=says):
            module.load_state({**state, "variable_bindings": bindings})
    assert "Other words" not in signature_of(module).instructions


def test_a_pickle_carries_no_session_and_no_values(session: SessionContext, lm: RecordingLM) -> None:
    module = VariableAwareReAct("question -> answer", [search], max_iters=9, session_context=session)
    session.blocking.set_variable("iters", 2)
    module.bind_to_variable_sync("max_iters", "iters")
    module.bind_to_variable_sync("temperature", "temp")
    back = cloudpickle.loads(cloudpickle.dumps(module))
    assert back.session_context is None
    assert back.max_iters == 9
    assert not hasattr(back, "temperature")
    assert back.bound_values == {}
    assert back.get_bindings() == module.get_bindings()


def test_without_its_session_a_module_is_the_plain_one_again(session: SessionContext, lm: RecordingLM) -> None:
    module = predictor(session, temperature="temp")
    module.session_context = None
    module(question="Why?")
    assert lm.requests[0].temperature is None
    assert not hasattr(module, "temperature")
    module.session_context = session
    module(question="Why?")
    assert lm.requests[1].temperature == 0.3


# ---------------------------------------------------------------- DSPy's own tools


def test_named_predictors_are_the_plain_modules(session: SessionContext) -> None:
    aware = VariableAwareReAct("question -> answer", [search], session_context=session)
    aware.bind_to_variable_sync("temperature", "temp")
    plain = dspy.ReAct(make_signature("question -> answer"), [search])
    assert [name for name, _ in aware.named_predictors()] == [name for name, _ in plain.named_predictors()]


def exact(example: Any, prediction: Any, trace: Any = None) -> bool:
    return bool(prediction.answer)


EXAMPLES = [dspy.Example(question=f"q{at}", answer=f"a{at}").with_inputs("question") for at in range(4)]


@pytest.mark.parametrize("threads", [1, 3])
def test_evaluate_runs_it_like_any_module(session: SessionContext, lm: RecordingLM, threads: int) -> None:
    module = predictor(session, temperature="temp")
    evaluate = dspy.Evaluate(devset=EXAMPLES, metric=exact, num_threads=threads, display_progress=False)
    assert evaluate(module).score == 100.0
    assert len(lm.requests) == 4
    lm.assert_all_sent(temperature=0.3)


def test_bootstrap_few_shot_compiles_it(session: SessionContext, lm: RecordingLM) -> None:
    module = VariableAwareChainOfThought("question -> answer", session_context=session)
    module.bind_to_variable_sync("temperature", "temp")
    module.bind_to_variable_sync("instructions", "text")
    optimizer = dspy.BootstrapFewShot(metric=exact, max_bootstrapped_demos=2, max_labeled_demos=0)
    compiled = optimizer.compile(module, trainset=EXAMPLES)
    assert len(compiled.predict.demos) == 2
    assert module.predict.demos == []
    assert "Be brief" not in compiled.predict.signature.instructions, "the bound text is not saved into the program"
    lm.clear()
    session.blocking.set_variable("temp", 0.9)
    compiled(question="Why?")
    lm.assert_all_sent(temperature=0.9, instructions="Be brief.")
    assert len(lm.requests[0].body["messages"]) > 4, "the demos are sent"


def test_mipro_compiles_it(session: SessionContext, lm: RecordingLM) -> None:
    pytest.importorskip("optuna", reason="MIPROv2 searches with optuna, one of DSPy's extras")
    pytest.importorskip("numpy", reason="MIPROv2 computes with numpy, one of DSPy's extras")
    module = predictor(session, temperature="temp")
    optimizer = dspy.MIPROv2(metric=exact, auto=None, num_candidates=2, max_bootstrapped_demos=1, max_labeled_demos=1)
    compiled = optimizer.compile(
        module, trainset=EXAMPLES[:2], valset=EXAMPLES[2:], num_trials=2, minibatch=False, program_aware_proposer=False
    )
    assert compiled.get_bindings() == {"temperature": "temp"}
    lm.clear()
    session.blocking.set_variable("temp", 0.9)
    compiled(question="Why?")
    lm.assert_all_sent(temperature=0.9)


@pytest.mark.parametrize("natively", [True, False])
async def test_it_streams_to_its_listeners(session: SessionContext, lm: RecordingLM, natively: bool) -> None:
    module = VariableAwareChainOfThought("question -> answer", session_context=session)
    await module.bind_to_variable("temperature", "temp")
    listener = dspy.streaming.StreamListener(signature_field_name="answer")
    streaming: Any = dspy.streamify(module, stream_listeners=[listener], is_async_program=natively)
    chunks = [chunk async for chunk in streaming(question="Why?")]
    text = "".join(chunk.chunk for chunk in chunks[:-1])
    assert text == chunks[-1].answer
    lm.assert_all_sent(temperature=0.3)


def test_a_batch_runs_it_like_any_module(session: SessionContext, lm: RecordingLM) -> None:
    module = predictor(session, temperature="temp")
    assert len(module.batch(EXAMPLES, num_threads=2, disable_progress_bar=True)) == 4
    lm.assert_all_sent(temperature=0.3)

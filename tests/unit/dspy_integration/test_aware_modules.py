"""Variable-aware classes: DSPy's own, the user's composites, and what else has a mixin before it."""

from __future__ import annotations

import asyncio
import contextvars
import pickle
import threading
from pathlib import Path
from typing import Any

import cloudpickle
import dspy
import pytest

from snakepit_bridge.dspy_integration import (
    ChainOfThoughtWithHint,
    VariableAwareMixin,
    VariableAwarePredict,
    modules,
    variable_aware,
)
from snakepit_bridge.dspy_integration.ensemble import Ensemble
from snakepit_bridge.dspy_integration.module_tree import is_user_class, runs_natively
from snakepit_bridge.dspy_integration.modules import plain_class_name
from snakepit_bridge.exceptions import BindingError
from snakepit_bridge.session_context import SessionContext
from snakepit_bridge.testing import RecordingLM
from tests.harness.signatures import signature_of
from tests.harness.waiting import PATIENCE_S


# A signature made of a string can't be pickled, in DSPy either.
class Drafting(dspy.Signature):
    question: str = dspy.InputField()
    draft: str = dspy.OutputField()


class Answering(dspy.Signature):
    draft: str = dspy.InputField()
    answer: str = dspy.OutputField()


class Asking(dspy.Signature):
    question: str = dspy.InputField()
    answer: str = dspy.OutputField()


class Both(dspy.Module):
    """Asks twice, one part after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.first = dspy.Predict(Drafting)
        self.second = dspy.Predict(Answering)

    def forward(self, question: str) -> Any:
        return self.second(draft=self.first(question=question).draft)


AwareBoth = variable_aware(Both)


@variable_aware
class Decorated(Both):
    """Made aware where it is defined."""

    async def aforward(self, question: str) -> Any:
        draft = (await self.first.acall(question=question)).draft
        return await self.second.acall(draft=draft)


class Own(VariableAwareMixin, dspy.Module):
    """The document's way: the mixin in the class statement, and a forward of its own."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.ask = dspy.Predict(Asking)

    def forward(self, question: str) -> Any:
        """Ask."""
        return self.ask(question=question)


class OwnAsync(Own):
    async def aforward(self, question: str) -> Any:
        return await self.ask.acall(question=question)


CALLS: dict[str, Any] = {
    "call": lambda module, **inputs: module(**inputs),
    "forward": lambda module, **inputs: module.forward(**inputs),
    "acall": lambda module, **inputs: asyncio.run(module.acall(**inputs)),
    "aforward": lambda module, **inputs: asyncio.run(module.aforward(**inputs)),
    "forward_async": lambda module, **inputs: asyncio.run(module.forward_async(**inputs)),
}
EVERY_CALL = pytest.mark.parametrize("how", CALLS)
EVERY_KIND = pytest.mark.parametrize("kind", [AwareBoth, Decorated, Own, OwnAsync], ids=lambda kind: kind.__name__)


# ---------------------------------------------------------------- every way of calling


@EVERY_CALL
@EVERY_KIND
def test_every_way_of_calling_syncs_first(lm: RecordingLM, session: SessionContext, kind: Any, how: str) -> None:
    module = kind(session_context=session)
    module.bind_to_variable_sync("temperature", "temp")
    session.blocking.set_variable("temp", 0.9)
    prediction = CALLS[how](module, question="Why?")
    assert prediction.answer
    lm.assert_all_sent(temperature=0.9)
    assert module.temperature == 0.9


@EVERY_CALL
def test_a_module_without_a_session_is_the_plain_one(lm: RecordingLM, how: str) -> None:
    assert CALLS[how](AwareBoth(), question="Why?").answer == Both()(question="Why?").answer
    assert lm.requests[0].body == lm.requests[2].body


@EVERY_CALL
def test_a_module_with_nothing_bound_reads_nothing(lm: RecordingLM, how: str) -> None:
    assert CALLS[how](Own(session_context=SessionContext("nobody-published")), question="Why?").answer


async def test_a_blocking_call_works_where_a_loop_is_running(lm: RecordingLM, session: SessionContext) -> None:
    module = VariableAwarePredict("question -> answer", session_context=session)
    module.bind_to_variable_sync("temperature", "temp")
    module(question="Why?")
    lm.assert_all_sent(temperature=0.3)
    assert module.sync_variables_sync() == {}


@pytest.mark.parametrize("kind", [AwareBoth, OwnAsync], ids=["in a thread", "natively"])
async def test_no_context_variable_gets_lost(lm: RecordingLM, session: SessionContext, kind: Any) -> None:
    seen: list[str] = []
    tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant")

    class Watching(dspy.ChatAdapter):
        def format(self, *args: Any, **kwargs: Any) -> Any:
            seen.append(tenant.get())
            return super().format(*args, **kwargs)

    module = kind(session_context=session)
    await module.bind_to_variable("temperature", "temp")
    tenant.set("acme")
    with dspy.context(adapter=Watching()):
        await module.acall(question="Why?")
    assert seen
    assert set(seen) == {"acme"}


async def test_the_loop_stays_free_where_dspy_blocks_it(lm: RecordingLM, session: SessionContext) -> None:
    module = AwareBoth(session_context=session)
    await module.bind_to_variable("temperature", "temp")
    lm.delay(0.2)
    try:
        beats = 0
        call = asyncio.create_task(module.acall(question="Why?"))
        while not call.done():
            beats += 1
            await asyncio.sleep(0.01)
        assert (await call).answer
        assert beats > 5
    finally:
        lm.delay(0)


@pytest.mark.parametrize("how", ["call", "acall"])
def test_usage_history_and_callbacks_are_kept(lm: RecordingLM, session: SessionContext, how: str) -> None:
    class Seen(dspy.utils.callback.BaseCallback):
        def __init__(self) -> None:
            self.started: list[str] = []

        def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
            self.started.append(plain_class_name(instance))

    seen = Seen()
    module = VariableAwarePredict("question -> answer", session_context=session)
    module.bind_to_variable_sync("temperature", "temp")
    with dspy.context(track_usage=True, callbacks=[seen]):
        prediction = CALLS[how](module, question="Why?")
    assert prediction.get_lm_usage()
    assert len(module.history) == 1
    assert seen.started == ["Predict"]


# ---------------------------------------------------------------- one snapshot for the whole call


class Changing(dspy.Module):
    """Publishes another value between its two questions."""

    def __init__(self, session: SessionContext, part: Any) -> None:
        super().__init__()
        self.session, self.part = session, part

    def forward(self, question: str) -> Any:
        self.part(question=question)
        self.session.blocking.set_variable("temp", 0.9)
        return self.part(question=question)


AwareChanging = variable_aware(Changing)


@pytest.mark.parametrize("how", ["call", "acall"])
def test_a_change_in_the_middle_of_a_call_waits_for_the_next(
    lm: RecordingLM, session: SessionContext, how: str
) -> None:
    inner = VariableAwarePredict("question -> answer", session_context=session)
    outer = AwareChanging(session, inner, session_context=session)
    inner.bind_to_variable_sync("temperature", "temp")
    CALLS[how](outer, question="Why?")
    assert [r.temperature for r in lm.requests] == [0.3, 0.3]
    CALLS[how](outer, question="Why?")
    assert [r.temperature for r in lm.requests][2:] == [0.9, 0.9]


@pytest.mark.parametrize("threads", [1, 4])
def test_aware_modules_that_a_call_gets_from_elsewhere_see_its_snapshot(
    lm: RecordingLM, session: SessionContext, threads: int
) -> None:
    elsewhere = VariableAwarePredict("question -> answer", session_context=session)
    elsewhere.bind_to_variable_sync("temperature", "temp")

    class Scattering(VariableAwareMixin, dspy.Module):
        def forward(self, question: str) -> Any:
            elsewhere(question=question)
            session.blocking.set_variable("temp", 0.9)
            pairs = [(elsewhere, {"question": f"{question}{at}"}) for at in range(4)]
            return dspy.Parallel(num_threads=threads, disable_progress_bar=True)(pairs)

    Scattering(session_context=session)(question="Why?")
    assert [r.temperature for r in lm.requests] == [0.3] * 5


async def test_a_task_that_outlives_the_call_reads_anew(lm: RecordingLM, session: SessionContext) -> None:
    later: list[asyncio.Task[Any]] = []
    release = asyncio.Event()
    background = VariableAwarePredict("question -> answer", session_context=session)
    await background.bind_to_variable("temperature", "temp")

    class Leaving(VariableAwareMixin, dspy.Module):
        async def aforward(self, question: str) -> Any:
            async def after() -> Any:
                await release.wait()
                return await background.acall(question=question)

            later.append(asyncio.create_task(after()))
            return await background.acall(question=question)

    await Leaving(session_context=session).acall(question="Why?")
    await session.set_variable("temp", 0.9)
    release.set()
    await later[0]
    assert [r.temperature for r in lm.requests] == [0.3, 0.9]


def test_parts_may_obey_other_sessions(lm: RecordingLM, session: SessionContext) -> None:
    other = SessionContext("another")
    other.blocking.set_variable("temp", 1.5)
    outer = Own(session_context=session)
    outer.ask = VariableAwarePredict("question -> answer", session_context=other)
    outer.ask.bind_to_variable_sync("temperature", "temp")
    outer.bind_to_variable_sync("max_tokens", "limit")
    outer(question="Why?")
    lm.assert_all_sent(temperature=1.5, max_tokens=77)


def judge(args: dict[str, Any], prediction: Any) -> float:
    return 0.0


@pytest.mark.parametrize("kind", [dspy.BestOfN, dspy.Refine])
@pytest.mark.parametrize("aware", [True, False], ids=["aware", "plain"])
def test_an_aware_module_obeys_inside_what_copies_it(
    lm: RecordingLM, session: SessionContext, kind: Any, aware: bool
) -> None:
    inner = VariableAwarePredict("question -> answer", session_context=session)
    inner.bind_to_variable_sync("temperature", "temp")
    outer = (variable_aware(kind) if aware else kind)(inner, N=2, reward_fn=judge, threshold=1.0)
    for temperature in (0.3, 0.9):
        session.blocking.set_variable("temp", temperature)
        lm.clear()
        outer(question="Why?")
        own = [request for request in lm.requests if "advice" not in request.outputs]
        assert [request.temperature for request in own] == [temperature] * 2
    assert [module is inner for module in session.modules].count(True) == 1


# ---------------------------------------------------------------- classes


def test_every_module_of_dspy_has_its_twin() -> None:
    names = (
        "Predict ChainOfThought ReAct ReActV2 ProgramOfThought CodeAct MultiChainComparison BestOfN Refine RLM Flex"
        " Parallel KNN Ensemble"
    )
    for name in names.split():
        twin = variable_aware(getattr(dspy, name))
        assert twin.__name__ == f"VariableAware{name}"
        assert getattr(modules, twin.__name__) is twin


def test_the_twin_of_a_class_is_made_once() -> None:
    assert variable_aware(Both) is AwareBoth
    assert variable_aware(AwareBoth) is AwareBoth
    assert issubclass(AwareBoth, Both)
    assert AwareBoth.__name__ == "Both"
    assert AwareBoth.__doc__ == Both.__doc__


@pytest.mark.parametrize(
    ("kind", "natively"),
    [
        (modules.VariableAwarePredict, True),
        (modules.VariableAwareChainOfThought, True),
        (modules.VariableAwareReAct, True),
        (modules.VariableAwareReActV2, True),
        (modules.VariableAwareEnsemble, True),
        (modules.VariableAwareProgramOfThought, False),
        (modules.VariableAwareCodeAct, False),
        (modules.VariableAwareMultiChainComparison, False),
        (modules.VariableAwareBestOfN, False),
        (modules.VariableAwareRefine, False),
        (modules.VariableAwareRLM, False),
        (modules.VariableAwareFlex, False),
        (modules.VariableAwareParallel, False),
        (AwareBoth, False),
        (Decorated, True),
        (Own, False),
        (OwnAsync, True),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_a_class_is_awaited_natively_where_its_aforward_goes_with_its_forward(kind: type, natively: bool) -> None:
    assert runs_natively(kind) is natively


def test_a_hint_is_an_optional_input(lm: RecordingLM) -> None:
    module = ChainOfThoughtWithHint("question -> answer")
    assert module(question="Why?", hint="It is blue.").answer
    assert module(question="Why?").answer
    assert [r.inputs["hint"] for r in lm.requests] == ["It is blue.", ""]
    assert list(signature_of(ChainOfThoughtWithHint("hint -> answer").predict).input_fields) == ["hint"]


@pytest.mark.parametrize("how", ["call", "acall"])
def test_an_ensemble_runs_its_programs(lm: RecordingLM, session: SessionContext, how: str) -> None:
    programs = [dspy.Predict("question -> answer"), dspy.ChainOfThought("question -> answer")]
    ensemble = modules.VariableAwareEnsemble(reduce_fn=len, session_context=session).compile(programs)
    ensemble.bind_to_variable_sync("temperature", "temp")
    assert CALLS[how](ensemble, question="Why?") == 2
    lm.assert_all_sent(temperature=0.3)
    assert len(CALLS[how](Ensemble(programs, size=1), question="Why?")) == 1


@pytest.mark.parametrize("how", ["call", "forward", "acall"])
def test_parallel_obeys_its_threads(session: SessionContext, how: str) -> None:
    session.blocking.set_variable("threads", 3)
    parallel = modules.VariableAwareParallel(num_threads=1, disable_progress_bar=True, session_context=session)
    parallel.bind_to_variable_sync("num_threads", "threads")
    together = threading.Barrier(3)

    class Meeting(dspy.Module):
        def forward(self, at: int) -> int:
            together.wait(PATIENCE_S)  # three threads at once, or it breaks
            return at

    pairs = [(Meeting(), {"at": at}) for at in range(3)]
    call = {"call": parallel, "forward": parallel.forward, "acall": lambda p: asyncio.run(parallel.acall(p))}[how]
    assert call(pairs) == [0, 1, 2]


def test_knn_obeys_its_k(session: SessionContext) -> None:
    np = pytest.importorskip("numpy", reason="dspy.KNN computes with numpy, one of DSPy's extras")
    trainset = [dspy.Example(number=str(at)).with_inputs("number") for at in range(5)]

    def embed(texts: list[str]) -> Any:
        return np.array([[1.0, float(text[-1])] for text in texts])

    knn = modules.VariableAwareKNN(1, trainset, embed, session_context=session)
    session.blocking.set_variable("near", 2)
    knn.bind_to_variable_sync("k", "near")
    assert [example.number for example in knn(number="3")] == ["4", "3"]
    session.blocking.set_variable("near", 3)
    assert len(asyncio.run(knn.acall(number="3"))) == 3
    assert len(knn.forward(number="3")) == 3
    with pytest.raises(BindingError, match="k"):
        knn.bind_to_variable_sync("temperature", "temp")


# ---------------------------------------------------------------- what the code-executing ones need


def test_nothing_runs_code_outside_the_sandbox_by_default() -> None:
    for module in (dspy.ProgramOfThought("q -> a"), dspy.RLM("q -> a"), dspy.Flex("q -> a")):
        assert module._interpreter_factory is dspy.PythonInterpreter


# ---------------------------------------------------------------- pickles of classes made aside


@pytest.mark.parametrize("kind", [AwareBoth, Decorated, Own, VariableAwarePredict], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("codec", [pickle, cloudpickle], ids=["pickle", "cloudpickle"])
def test_an_instance_survives_a_pickle(session: SessionContext, kind: Any, codec: Any) -> None:
    arguments = [Asking] if kind is VariableAwarePredict else []
    module = kind(*arguments, session_context=session)
    module.bind_to_variable_sync("temperature", "temp")
    back = codec.loads(codec.dumps(module))
    assert type(back) is kind
    assert back.get_bindings() == {"temperature": "temp"}
    assert back.session_context is None


def test_a_whole_program_survives_dspys_save(session: SessionContext, lm: RecordingLM, tmp_path: Path) -> None:
    module = AwareBoth(session_context=session)
    module.bind_to_variable_sync("temperature", "temp")
    module.save(tmp_path / "program", save_program=True)
    back: Any = dspy.load(str(tmp_path / "program"), allow_pickle=True)
    back.session_context = session
    back(question="Why?")
    lm.assert_all_sent(temperature=0.3)


@pytest.mark.parametrize(
    ("kind", "is_users"),
    [(dspy.Predict, False), (VariableAwarePredict, False), (Own, True), (variable_aware(Own), True)],
)
def test_a_variable_aware_class_is_the_users_only_where_the_plain_one_is(kind: type, is_users: bool) -> None:
    assert is_user_class(kind) is is_users

"""DSPy's optimizers on a fleet: they find what they find locally, within a budget, and after a kill for free."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dspy
import pytest

from snakepit_bridge.client import Fleet
from snakepit_bridge.client.handle import Handle
from snakepit_bridge.client.optimization.budget import Budget
from snakepit_bridge.dspy_integration.knn_few_shot import Vectorizer
from snakepit_bridge.exceptions import (
    OptimizationError,
    ProgramNotFoundError,
    StoreUnavailableError,
    ValidationError,
)
from snakepit_bridge.lm.fleet_lm import FleetLM
from snakepit_bridge.testing import AskedQuestion
from tests.harness import embedders, metrics
from tests.harness.servers import await_log_written
from tests.harness.stage import LM_KEY, Stage, fresh, stage
from tests.harness.waiting import PATIENCE_S
from workers.dev.redis_server import EmbeddedRedis

NUMBERS = {f"{a} plus {b}?": str(a + b) for a in range(5) for b in range(3)}
EXAMPLES = [
    dspy.Example(question=question, answer=answer).with_inputs("question") for question, answer in NUMBERS.items()
]
TRAINSET, VALSET = EXAMPLES[:8], EXAMPLES[8:]


def answer(ask: AskedQuestion) -> Mapping[str, Any]:
    """Answer a sum rightly for some prompts and wrongly for others, always the same for the same prompt."""
    if ask.layout.style == "plain":
        return {"answer": "```\nAdd both numbers, and answer with the sum.\n```"}
    question = ask.inputs.get("question", "")
    if question not in NUMBERS:
        return {}
    prompt = json.dumps(ask.body["messages"], sort_keys=True)
    is_right = hashlib.sha256(prompt.encode()).digest()[0] % 3 > 0
    return {"reasoning": f"about {question}", "answer": NUMBERS[question] if is_right else "no idea"}


def exact(example: Any, prediction: Any, trace: Any = None) -> float:
    return float(example.answer == prediction.answer)


def exact_with_feedback(
    gold: Any, pred: Any, trace: Any = None, pred_name: Any = None, pred_trace: Any = None
) -> dspy.Prediction:
    score = exact(gold, pred)
    return dspy.Prediction(score=score, feedback=f"The answer is {gold.answer}.")


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stage]:
    settings: dict[str, Any] = {"more_profiles": embedders.PROFILE, "DSPEX_ALLOWED_PACKAGES": "tests"}
    with stage(tmp_path_factory.mktemp("optimization"), answer=answer, **settings) as playing:
        playing.fleet.register("qa", program())
        yield playing


def program() -> Any:
    return dspy.ChainOfThought("question -> answer")


@pytest.fixture
def local_lm(play: Stage) -> dspy.LM:
    """The LM that optimizers ask in this process, and local programs as well."""
    return dspy.LM("openai/demo", api_base=play.lm.url, api_key=LM_KEY, cache=False, num_retries=0)


OPTIMIZERS: dict[str, tuple[dict[str, Any], dict[str, Any], bool]] = {
    "BootstrapFewShot": ({"max_bootstrapped_demos": 2, "max_labeled_demos": 3, "max_rounds": 2}, {}, False),
    "BootstrapFewShotWithRandomSearch": (
        {"max_bootstrapped_demos": 2, "max_labeled_demos": 2, "num_candidate_programs": 2}, {}, True,
    ),
    "COPRO": ({"breadth": 2, "depth": 1}, {}, False),
    "MIPROv2": (
        {"auto": None, "num_candidates": 2, "max_bootstrapped_demos": 1, "max_labeled_demos": 1, "verbose": False},
        {"num_trials": 2, "minibatch": False}, True,
    ),
    "SIMBA": ({"bsize": 4, "num_candidates": 2, "max_steps": 1, "max_demos": 1}, {}, False),
    "GEPA": ({"max_metric_calls": 30}, {}, True),
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_finds_the_program_that_it_finds_locally(play: Stage, local_lm: dspy.LM, name: str) -> None:
    options, compile_options, validates = OPTIMIZERS[name]
    metric = exact_with_feedback if name == "GEPA" else exact
    if name == "GEPA":
        options = {**options, "reflection_lm": local_lm}
    valset = VALSET if validates else None
    with dspy.context(lm=local_lm):
        found = play.fleet.optimize(
            "qa:1", TRAINSET, metric, optimizer=name, options=options, compile_options=compile_options, valset=valset,
            in_flight=4, label=None,
        )  # fmt: skip
        local = compile_locally(name, metric, options, compile_options, valset)
    assert found.module.dump_state() == local.dump_state()
    assert found.predictions
    assert found.stopped == ""
    assert type(found.module).__mro__[1:] == type(play.fleet).__mro__[1:] or isinstance(
        found.module, dspy.ChainOfThought
    )


def compile_locally(name: str, metric: Any, options: Any, compile_options: Any, valset: Any) -> Any:
    optimizer = getattr(dspy, name)(metric=metric, **options)
    further = {"valset": valset} if valset is not None else {}
    if name == "COPRO":
        further["eval_kwargs"] = {"num_threads": 4, "display_progress": False}
    if hasattr(optimizer, "num_threads"):
        optimizer.num_threads = 4
    return optimizer.compile(program(), trainset=list(TRAINSET), **further, **compile_options)


def test_instructions_and_demos_that_are_bound_are_tuned_and_published_as_a_revision(
    play: Stage, local_lm: dspy.LM
) -> None:
    name, session = fresh("tuned"), fresh("session")
    play.fleet.register(name, program(), bindings={"demos": "shots", "instructions": "style", "temperature": "warmth"})
    context = play.fleet.session(session).blocking
    context.set_variables({"shots": "[]", "style": "Sum both.", "warmth": 0.5})
    options = {"max_bootstrapped_demos": 2, "max_labeled_demos": 0}

    def tune(**further: Any) -> Any:
        return play.fleet.optimize(
            f"{name}:1", TRAINSET, exact, optimizer="BootstrapFewShot", options=options, session=session, run_id=name,
            **further,
        )  # fmt: skip

    found = tune(label=None)
    token = found.publish(play.fleet.session(session))
    assert token == context.snapshot().token
    assert len(json.loads(context.get_variable("shots"))) == len(found.module.predict.demos) == 2
    question = VALSET[0].question
    [published] = record_requests(
        play, lambda text: play.fleet.submit(f"{name}:1", {"question": text}, session=session).get(PATIENCE_S), question
    )
    with dspy.context(lm=local_lm):
        [local] = record_requests(play, lambda text: found.module(question=text), question)
    assert published == {**local, "temperature": 0.5}
    assert "Sum both." in published["messages"][0]["content"]

    context.set_variables({"shots": "[]"})
    registered = tune().registered
    assert registered is not None
    assert (registered.version, registered.spec.bindings) == (2, {"temperature": "warmth"})
    [again] = record_requests(
        play, lambda text: play.fleet.submit(f"{name}:2", {"question": text}, session=session).get(PATIENCE_S), question
    )
    assert again == published
    unbound = play.fleet.optimize("qa:1", TRAINSET, exact, optimizer="BootstrapFewShot", options=options, label=None)
    with pytest.raises(OptimizationError, match="more than variables hold"):
        unbound.publish(play.fleet.session(session))


EMBEDDERS: dict[str, Callable[[], Any]] = {
    "function": lambda: dspy.Embedder(embedders.embed, caching=False),
    # What a dspy.Embedder of that model would ask the same endpoint for; DSPy loads litellm for that.
    "model": lambda: Vectorizer(embedders.embed, model="openai/embedder"),
}


@pytest.mark.parametrize("kind", EMBEDDERS)
def test_the_program_of_knn_few_shot_asks_on_workers_what_it_asks_locally(
    play: Stage, local_lm: dspy.LM, kind: str
) -> None:
    options: dict[str, Any] = {"k": 4, "max_bootstrapped_demos": 2, "max_labeled_demos": 3, "max_rounds": 2}
    options["metric"] = metrics.exact
    optimizer = dspy.KNNFewShot(trainset=TRAINSET, vectorizer=EMBEDDERS[kind](), **options)
    local = optimizer.compile(program())
    found = play.fleet.optimize("qa:1", TRAINSET, metrics.exact, optimizer=optimizer, label=None)
    assert found.registered is not None
    reference = f"qa:{found.registered.version}"
    handles: list[Handle] = []

    def predict(question: str) -> Any:
        handles.append(play.fleet.submit(reference, {"question": question}))
        return handles[-1].get(PATIENCE_S)

    with dspy.context(lm=local_lm):
        fleet_requests = [record_requests(play, predict, example.question) for example in VALSET[:3]]
        for call in (local, found.module):
            local_requests = [
                record_requests(play, lambda question: call(question=question), example.question)  # noqa: B023
                for example in VALSET[:3]
            ]
            assert local_requests == fleet_requests
        local_scores = [exact(example, local(**example.inputs())) for example in VALSET[:3]]
    assert any(demo for requests in fleet_requests for demo in requests if len(demo["messages"]) > 2)
    evaluation = play.fleet.evaluate(reference, VALSET[:3], "tests.harness.metrics:exact")
    assert evaluation.score == pytest.approx(sum(local_scores) / len(local_scores) * 100, abs=0.01)
    provenance = handles[0].get(PATIENCE_S).provenance
    assert provenance.answered == {"demo": len(fleet_requests[0]), **({"embedder": 1} if kind == "model" else {})}
    lineage = play.fleet.lineage(reference)
    assert lineage is not None
    assert (lineage.parent, lineage.optimizer, lineage.metric) == ("qa:1", "KNNFewShot", "exact")


def test_variables_reach_the_bootstraps_of_knn_few_shot_and_an_embedding_that_fails_is_repeated(
    play: Stage, local_lm: dspy.LM
) -> None:
    name, session = fresh("bound"), fresh("session")
    bindings = {"temperature": "warmth", "instructions": "style", "model": "llm", "predict.max_tokens": "length"}
    play.fleet.register(name, program(), bindings=bindings)
    variables = {"warmth": 0.25, "style": "Be brief.", "llm": "openai/other", "length": 99}
    token = play.fleet.session(session).blocking.set_variables(variables)
    options = {"k": 2, "vectorizer": EMBEDDERS["model"]()}
    with dspy.context(lm=local_lm):
        found = play.fleet.optimize(
            name, TRAINSET, metrics.exact, optimizer="KNNFewShot", options=options, session=session
        )
    assert found.registered is not None
    assert found.registered.spec.bindings == {
        "student.temperature": "warmth", "student.instructions": "style", "model": "llm",
        "student.predict.max_tokens": "length",
    }  # fmt: skip
    before, question = len(play.lm.requests), VALSET[-1].question
    play.lm.fail(containing=f"question: {question}")
    prediction = play.fleet.submit(
        f"{name}@candidate", {"question": question}, session=session, at_least=token, trace=True
    ).get(PATIENCE_S)
    requests = play.lm.requests[before:]
    assert len(requests) == 3  # two bootstraps and the prediction
    for request in requests:
        assert (request.temperature, request.instructions, request.model) == (0.25, "Be brief.", "other")
        assert request.max_tokens == 99
    statuses = [each.status for each in play.lm.embedded if each.texts == (f"question: {question}",)]
    assert statuses == [503, 200]
    assert prediction.provenance.lm_usage.keys() == {"demo", "embedder"}
    assert [step.predictor for step in prediction.trace] == ["student.predict"]


def test_what_no_worker_can_bind_is_not_registered(play: Stage, local_lm: dspy.LM) -> None:
    count, versions = len(play.lm.requests), play.fleet.versions("qa")
    unknown = Vectorizer(embedders.embed, model="openai/nowhere")
    function = EMBEDDERS["function"]()
    for problem, options in (
        ("'openai/nowhere'.*it must be an LM profile or an allowed model", {"vectorizer": unknown}),
        (
            "'nowhere'.*it must be an LM profile",
            {"vectorizer": function, "teacher_settings": {"lm": FleetLM("nowhere")}},
        ),
    ):
        with dspy.context(lm=local_lm), pytest.raises(ValidationError, match=problem):
            play.fleet.optimize("qa:1", TRAINSET, metrics.exact, optimizer="KNNFewShot", options={"k": 2, **options})
    assert (len(play.lm.requests), play.fleet.versions("qa")) == (count, versions)


def record_requests(play: Stage, call: Callable[[str], Any], question: str) -> list[dict[str, Any]]:
    """Call a program, and return what it asked the LM."""
    before = len(play.lm.requests)
    call(question)
    return [
        {"messages": request.body["messages"], "temperature": request.temperature}
        for request in play.lm.requests[before:]
    ]


def test_a_run_that_is_started_again_pays_nothing_twice(play: Stage) -> None:
    options = {"max_bootstrapped_demos": 2, "max_labeled_demos": 2}

    def run() -> Any:
        return play.fleet.optimize(
            "qa:1", TRAINSET, exact, optimizer="BootstrapFewShot", options=options, run_id="again", label=None
        )

    first, count_before = run(), len(play.lm.requests)
    second = run()
    assert len(play.lm.requests) == count_before
    assert second.module.dump_state() == first.module.dump_state()
    assert second.registered == first.registered


def test_a_run_that_ended_in_the_middle_goes_on_where_it_was(play: Stage) -> None:
    options = {"max_bootstrapped_demos": 2, "max_labeled_demos": 2}

    def count_requests(run_id: str, **further: Any) -> int:
        before = len(play.lm.requests)
        play.fleet.optimize(
            "qa:1", TRAINSET, exact, optimizer="BootstrapFewShot", options=options, run_id=run_id, label=None, **further
        )
        return len(play.lm.requests) - before

    whole = count_requests("whole")
    begun = count_requests("in-two-parts", budget=Budget(max_predictions=2))
    assert (begun, begun + count_requests("in-two-parts")) == (2, whole)


def test_a_restart_of_redis_in_the_middle_changes_nothing_that_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An example that can't be sent isn't one that the program gets wrong."""
    with (
        EmbeddedRedis.start(tmp_path / "redis", aof=True) as server,
        stage(tmp_path, answer=answer, url=server.url) as own,
    ):
        own.fleet.register("qa", program())
        sends = Sends(own.fleet.submit, server)
        monkeypatch.setattr(own.fleet, "submit", sends)
        with ThreadPoolExecutor(1) as threads:
            running = threads.submit(bootstrap, own.fleet)
            assert sends.failed.wait(PATIENCE_S)
            server.restart()
            found = running.result(120)
        count = len(own.lm.requests)
        again = bootstrap(own.fleet)
    assert found.module.dump_state() == again.module.dump_state()
    assert len(own.lm.requests) == count  # the second run found every prediction of the first


@dataclass
class Sends:
    """Submits predictions, ends the server before the third, and notes that one couldn't be sent."""

    submit: Callable[..., Handle]
    server: EmbeddedRedis
    count: int = 0
    failed: threading.Event = field(default_factory=threading.Event)

    def __call__(self, *args: Any, **options: Any) -> Handle:
        self.count += 1
        if self.count == 3:
            await_log_written(self.server.url)
            self.server.kill()
        try:
            return self.submit(*args, **options)
        except StoreUnavailableError:
            self.failed.set()
            raise


def bootstrap(fleet: Fleet) -> Any:
    options = {"max_bootstrapped_demos": 6, "max_labeled_demos": 0}
    return fleet.optimize(
        "qa:1", TRAINSET, exact, optimizer="BootstrapFewShot", options=options, run_id="restart", label=None
    )


def test_what_is_found_is_a_version_with_a_label_and_says_where_it_comes_from(play: Stage) -> None:
    found = play.fleet.optimize(
        "qa:1", TRAINSET, exact, optimizer=dspy.BootstrapFewShotWithRandomSearch,
        options={"max_bootstrapped_demos": 2, "max_labeled_demos": 2, "num_candidate_programs": 1}, valset=VALSET,
        author="ann",
    )  # fmt: skip
    assert found.registered is not None
    assert play.fleet.submit("qa@candidate", {"question": "1 plus 1?"}).get(PATIENCE_S).provenance.digest == (
        found.registered.digest
    )
    lineage = play.fleet.lineage(f"qa:{found.registered.version}")
    assert lineage is not None
    assert (lineage.parent, lineage.optimizer, lineage.author) == ("qa:1", "BootstrapFewShotWithRandomSearch", "ann")
    assert (lineage.metric, lineage.score) == ("exact", found.score)
    assert lineage.score == max(trial.mean for trial in found.trials if len(trial.scores) == len(VALSET))
    assert play.fleet.lineage("qa:1") is None


def test_at_the_end_of_its_budget_the_best_program_so_far_is_returned(play: Stage) -> None:
    found = play.fleet.optimize(
        "qa:1", TRAINSET, exact, optimizer="BootstrapFewShotWithRandomSearch", valset=VALSET,
        options={"max_bootstrapped_demos": 2, "max_labeled_demos": 2, "num_candidate_programs": 9},
        budget=Budget(max_predictions=20), in_flight=2, label=None,
    )  # fmt: skip
    assert found.predictions == 20
    assert found.stopped == "20 predictions were made"
    scored = [trial for trial in found.trials if 2 * len(trial.scores) > len(VALSET)]
    assert found.score == max(trial.mean for trial in scored)
    spent = play.fleet.optimize(
        "qa:1", TRAINSET, exact, optimizer="BootstrapFewShot", budget=Budget(max_usd=0.5), label=None
    )
    assert "of 0.5 USD were spent" in spent.stopped


def test_a_program_without_inputs_is_optimized_as_locally(play: Stage, local_lm: dspy.LM) -> None:
    jokes = [dspy.Example(joke=f"joke {number}").with_inputs() for number in range(4)]
    options: dict[str, Any] = {"max_bootstrapped_demos": 1, "max_labeled_demos": 2}
    play.fleet.register("joke", dspy.Predict("-> joke"))

    def is_told(example: Any, prediction: Any, trace: Any = None) -> bool:
        return bool(prediction.joke)

    with dspy.context(lm=local_lm):
        found = play.fleet.optimize("joke:1", jokes, is_told, optimizer="BootstrapFewShot", options=options, label=None)
        local: Any = dspy.BootstrapFewShot(metric=is_told, **options)
        compiled = local.compile(dspy.Predict("-> joke"), trainset=jokes)
    assert found.module.demos
    assert found.module.dump_state() == compiled.dump_state()


def test_an_input_with_a_default_may_be_left_out(play: Stage) -> None:
    class Sum(dspy.Signature):
        question: str = dspy.InputField()
        tone: str = dspy.InputField(default="plain")
        answer: str = dspy.OutputField()

    play.fleet.register("toned", dspy.Predict(Sum))
    options = {"max_bootstrapped_demos": 1, "max_labeled_demos": 1}
    found = play.fleet.optimize(
        "toned:1", TRAINSET[:3], exact, optimizer="BootstrapFewShot", options=options, label=None
    )
    assert found.module.demos


def test_what_can_not_run_on_the_fleet_is_said_before_the_first_call(play: Stage) -> None:
    count_before = len(play.lm.requests)
    unmarked = [dspy.Example(question="?", answer="!")]
    other = [dspy.Example(text="?", answer="!").with_inputs("text")]
    for problem, trainset, changed in (
        ("trainset: it is empty", [], {}),
        (r"trainset\[0\]: it must be a dspy.Example whose inputs are marked", unmarked, {}),
        (r"trainset\[0\]: its inputs are text, and the program's are question", other, {}),
        (r"trainset\[0\]: its inputs are none, and the program's are question", [unmarked[0].with_inputs()], {}),
        ("BootstrapFinetune: it trains weights", TRAINSET, {"optimizer": "BootstrapFinetune"}),
        ("'Nobody': it must be a dspy Teleprompter", TRAINSET, {"optimizer": "Nobody"}),
        ("it can't be constructed: .*surprise", TRAINSET, {"options": {"surprise": 1}}),
        ("valset: BootstrapFewShot takes none", TRAINSET, {"valset": VALSET}),
    ):
        given: dict[str, Any] = {"optimizer": "BootstrapFewShot", **changed}
        with pytest.raises(OptimizationError, match=problem):
            play.fleet.optimize("qa:1", trainset, exact, **given)
    with pytest.raises(ProgramNotFoundError):
        play.fleet.optimize("nobody", TRAINSET, exact, optimizer="BootstrapFewShot")
    with pytest.raises(ValueError, match="max_usd is above 0"):
        Budget(max_usd=0.0)
    assert len(play.lm.requests) == count_before


def test_an_optimizer_that_asks_an_lm_itself_says_where_to_get_it(play: Stage) -> None:
    with pytest.raises(Exception, match="stands for one of the fleet's"):
        play.fleet.optimize("qa:1", TRAINSET, exact, optimizer="COPRO", options={"breadth": 2, "depth": 1}, label=None)


def test_a_teacher_on_an_lm_that_is_not_the_fleets_is_refused_by_name(play: Stage, local_lm: dspy.LM) -> None:
    settings = {"lm": dspy.LM("openai/elsewhere", api_base=play.lm.url, api_key=LM_KEY)}
    options = {"max_bootstrapped_demos": 1, "teacher_settings": settings, "max_errors": 1}
    with dspy.context(lm=local_lm), pytest.raises(OptimizationError, match=r"FleetLM\('PROFILE'\)"):
        play.fleet.optimize("qa:1", TRAINSET, exact, optimizer="BootstrapFewShot", options=options)

"""Modules as users write them: each prediction ends by its own named end, and none sees what another did."""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any

import pytest

from snakepit_bridge.exceptions import BridgeError, InputError, PredictionTimeoutError, ProgramSpecError
from tests.harness import odd_programs
from tests.harness.stage import Stage, fresh, stage
from tests.harness.waiting import PATIENCE_S

PACKAGES = ("tests.harness.odd_programs", "tests.harness.configures", "tests.harness.configures_too")
WAIT_S = PATIENCE_S

# What a program can't return, and what each comes to.
NONSENSE = (
    "none", "dict", "text", "example", "list", "type", "object", "function", "lock", "cycle", "deep", "generator",
    "coroutine",
)  # fmt: skip
SENSE = ("keys", "bytes", "surrogate", "nan", "big")


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stage]:
    allowed: dict[str, Any] = {"DSPEX_ALLOWED_PACKAGES": ",".join(PACKAGES)}
    with stage(tmp_path_factory.mktemp("stage"), **allowed) as play:
        for kind in ("Rag", "Chat", "Returns", "Raises", "RaisesAsync", "Threads"):
            register(play, kind)
        yield play


def register(play: Stage, kind: str, module: str = "odd_programs") -> str:
    """Register a class by its path, which imports nothing here, as a gateway would."""
    from snakepit_bridge.client import Fleet

    name = f"{module}-{kind}"
    Fleet(play.url, allowed_packages=PACKAGES).register(name, {"module": f"tests.harness.{module}:{kind}"})
    return name


def ask(play: Stage, program: str, inputs: dict[str, Any], **options: Any) -> Any:
    return play.fleet.submit(program, inputs, **options).get(WAIT_S)


def test_a_module_takes_what_its_forward_takes(play: Stage) -> None:
    """What the predictor inside asks for is the module's own business."""
    question = fresh("rag")
    assert ask(play, "odd_programs-Rag", {"question": question}).response
    assert f"a document about {question}" in play.requests_with(question)[0].inputs["context"]
    with pytest.raises(InputError, match="'context': it has no such input"):
        ask(play, "odd_programs-Rag", {"question": question, "context": []})
    with pytest.raises(InputError, match="'question': it is missing"):
        ask(play, "odd_programs-Rag", {})


def test_no_prediction_sees_what_another_kept(play: Stage) -> None:
    """Lists, dicts, sets, deques, objects, class attributes, defaults, demos and instructions."""
    secrets = [fresh("secret") for _ in range(6)]
    for secret in secrets[:3]:
        play.fleet.session(secret).blocking.set_variables({"any": 1})
    first = [ask(play, "odd_programs-Chat", {"question": secret}, session=secret) for secret in secrets[:3]]
    batch = play.fleet.submit_batch("odd_programs-Chat", [{"question": secret} for secret in secrets[3:]])
    answers = [*first, *(handle.get(WAIT_S) for handle in batch)]
    for answer in answers:
        assert "secret" not in answer.past
    for number, secret in enumerate(secrets):
        for request in play.requests_with(secret):
            assert not [other for other in secrets if other != secret and other in json.dumps(request.body)], number


def test_what_cant_be_copied_is_refused_when_it_is_registered(play: Stage) -> None:
    """Or registration refuses, with the attribute and what to do."""
    with pytest.raises(ProgramSpecError, match=r"attribute rows.*generator.*shared_attributes = \('rows',\)"):
        register(play, "Holds")


def test_an_import_that_configures_dspy_changes_nobodys_prompt(play: Stage) -> None:
    """Also from another thread, in a constructor, in a forward, and in a second package."""
    before, after = fresh("before"), fresh("after")
    play.fleet.register("plain", {"module": "Predict", "signature": "question -> answer"})
    ask(play, "plain", {"question": before})
    # Only the worker imports these: a client that registers by path would import them here.
    for module in ("configures", "configures_too"):
        _put(play, module, {"module": f"tests.harness.{module}:Asks"})
    assert ask(play, "configures", {"question": fresh("own")}).adapter == "JSONAdapter"
    assert ask(play, "configures_too", {"question": fresh("second")}).answer
    assert ask(play, "configures", {"question": fresh("again")}).answer
    ask(play, "plain", {"question": after})
    [first_request], [second_request] = play.requests_with(before), play.requests_with(after)
    assert json.dumps(first_request.body).replace(before, "") == json.dumps(second_request.body).replace(after, "")
    log = play.worker.logs()
    assert "tests.harness.configures had no effect" in log
    assert "tests.harness.configures_too had no effect" in log


@pytest.mark.parametrize("kind", [*NONSENSE, *SENSE])
def test_whatever_a_program_returns_it_ends_by_name(play: Stage, kind: str) -> None:
    if kind in NONSENSE:
        with pytest.raises(BridgeError, match="odd_programs-Returns"):
            ask(play, "odd_programs-Returns", {"kind": kind})
    else:
        try:
            assert "answer" in ask(play, "odd_programs-Returns", {"kind": kind}).keys()  # noqa: SIM118
        except BridgeError as exc:
            assert "odd_programs-Returns" in str(exc)  # noqa: PT017


@pytest.mark.parametrize("kind", odd_programs.RAISED)
@pytest.mark.parametrize("program", ["odd_programs-Raises", "odd_programs-RaisesAsync"])
def test_whatever_a_program_raises_it_ends_by_name(play: Stage, program: str, kind: str) -> None:
    with pytest.raises(BridgeError) as ended:
        ask(play, program, {"kind": kind})
    assert not isinstance(ended.value, PredictionTimeoutError)
    assert len(str(ended.value)) < 5_000


def test_a_program_may_use_threads(play: Stage) -> None:
    question = fresh("threads")
    assert ask(play, "odd_programs-Threads", {"question": question}).answer == f"answer of {question}"


def test_the_worker_is_well_after_all_of_that(play: Stage) -> None:
    question = fresh("well")
    assert ask(play, "odd_programs-Threads", {"question": question}).answer == f"answer of {question}"
    assert len(play.workers) == 1


def _put(play: Stage, name: str, spec: dict[str, Any]) -> None:
    """Register a spec past the checks of a client, which would import the package."""
    from snakepit_bridge.process.home_loop import run_blocking
    from snakepit_bridge.programs.registry import ProgramRegistry
    from snakepit_bridge.programs.spec import ProgramSpec

    registry = ProgramRegistry(play.fleet.connection, namespace=play.fleet.namespace)
    run_blocking(registry.register(name, ProgramSpec.parse(spec, program=name)))

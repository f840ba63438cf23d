"""Bad input through the client: each gives one named error that says what was found and what to do, in bounded time."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dspy
import pytest

from snakepit_bridge.client import Fleet
from snakepit_bridge.exceptions import (
    BindingError,
    BridgeError,
    ConfigurationError,
    InputError,
    LMAnswerError,
    LMRefusedError,
    LMUnavailableError,
    PredictionCancelledError,
    PredictionFailedError,
    ProgramNotFoundError,
    ProgramSpecError,
    RevisionLostError,
    RevisionNotReachedError,
    SessionNotFoundError,
    StoreUnavailableError,
    UnknownModuleError,
    ValidationError,
    VariableNotFoundError,
)
from snakepit_bridge.process.home_loop import run_blocking
from snakepit_bridge.programs.registry import ProgramRegistry
from snakepit_bridge.programs.spec import ProgramSpec
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.redis.connection import RedisConnection
from tests.conftest import wait_until
from tests.harness.containers import local_redis
from tests.harness.stage import Stage, fresh, stage
from tests.harness.waiting import PATIENCE_S, within

# Longer than any bound that the stage's settings add up to, and far from a hang.
SOON_S = 8.0


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stage]:
    with stage(tmp_path_factory.mktemp("stage")) as play:
        fleet = play.fleet
        fleet.register("qa", dspy.Predict("question -> answer"))
        fleet.register("warm", dspy.Predict("question -> answer"), bindings={"temperature": "temp"})
        fleet.register("number", dspy.Predict("count: int, tags: list[str] -> answer"))
        fleet.register("steered", dspy.Predict("question -> answer"), bindings={"model": "llm"})
        for profile in ("down", "locked", "hasty", "undeclared"):
            fleet.register(f"on-{profile}", dspy.Predict("question -> answer"), lm=profile)
        strategy = {"variable": "strategy", "allowed": ["Predict", "ChainOfThought"]}
        fleet.register("chosen", {"module": strategy, "signature": "question -> answer"})
        yield play


@pytest.fixture(autouse=True)
def undisturbed(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "play" in request.fixturenames:
        request.getfixturevalue("play").lm.faults.clear()


def refused(
    play: Stage, program: str, kind: type[BridgeError], says: str, inputs: Any = None, **options: Any
) -> BridgeError:
    """Assert that a prediction ends with just this kind of error, soon and readably, and return it."""
    given = {"question": "why?"} if inputs is None else inputs
    with within(SOON_S), pytest.raises(BridgeError) as raised:
        play.fleet.submit(program, given, **options).get(SOON_S)
    return readable(raised.value, kind, says)


def readable(error: BaseException, kind: type[BridgeError], says: str) -> BridgeError:
    assert type(error) is kind, f"{error!r} {error}"
    assert re.search(says, str(error)), str(error)
    assert "\n" not in str(error)
    assert isinstance(error, BridgeError)
    return error


# ---------------------------------------------------------------- programs


def test_an_unknown_program(play: Stage) -> None:
    refused(play, "warmm", ProgramNotFoundError, r"not found: warmm\. Did you mean 'warm'\? Registered: .*qa.*register")


@pytest.mark.parametrize("reference", ["qa:99", "qa@prod"])
def test_an_unknown_version_or_label(play: Stage, reference: str) -> None:
    refused(play, reference, ProgramNotFoundError, rf"not found: {reference}.*Registered: qa, qa:1")


@pytest.mark.parametrize("reference", ["", "q a", "qa:x", "../qa", "x" * 500])
def test_a_reference_that_can_name_nothing(play: Stage, reference: str) -> None:
    refused(play, reference, ProgramNotFoundError, r"Program not found: ")


def test_a_label_on_a_version_that_there_is_not(play: Stage) -> None:
    with pytest.raises(ProgramNotFoundError, match=r"qa:7"):
        play.fleet.label("qa", "prod", 7)


# ---------------------------------------------------------------- sessions, variables, revisions


def test_an_unknown_session(play: Stage) -> None:
    refused(play, "qa", SessionNotFoundError, r"not found: nobodys\..*dspex-fleet publish nobodys", session="nobodys")


def test_an_unknown_variable(play: Stage) -> None:
    session = fresh("s")
    play.fleet.session(session).blocking.set_variables({"tempp": 0.5})
    says = rf"not found: temp in session '{session}', which has: tempp\. Did you mean 'tempp'"
    refused(play, "warm", VariableNotFoundError, says, session=session)
    with pytest.raises(VariableNotFoundError, match=says):
        play.fleet.session(session).blocking.get_variable("temp")


def test_a_revision_that_nobody_published(play: Stage) -> None:
    session = fresh("s")
    token = play.fleet.session(session).blocking.set_variables({"temp": 0.5})
    ahead = Token(token.epoch, token.revision + 5)
    says = rf"is at {token} and did not reach {ahead} in .* s\. Check that the token comes from a publish"
    for requirement in ("at_least", "exactly"):
        error = refused(play, "warm", RevisionNotReachedError, says, session=session, **{requirement: ahead})
        assert isinstance(error, RevisionNotReachedError)
        assert error.waited_s < 2


def test_a_revision_of_another_epoch(play: Stage) -> None:
    session = fresh("s")
    play.fleet.session(session).blocking.set_variables({"temp": 0.5})
    with within(SOON_S), pytest.raises((RevisionLostError, RevisionNotReachedError), match=r"7\.3"):
        play.fleet.submit("warm", {"question": "why?"}, session=session, exactly="7.3").get(SOON_S)


def test_a_token_or_priority_that_is_none(play: Stage) -> None:
    with pytest.raises(ValueError, match=r"reads epoch\.revision, like .*; got 'newest'"):
        play.fleet.submit("qa", {"question": "why?"}, at_least="newest")
    with pytest.raises(ValueError, match=r"Give at_least= or exactly=, not both"):
        play.fleet.submit("qa", {"question": "why?"}, at_least="1.1", exactly="1.1")
    with pytest.raises(ValueError, match=r"A priority is 0 to 9, the most urgent; got 10"):
        play.fleet.submit("qa", {"question": "why?"}, priority=10)


# ---------------------------------------------------------------- inputs


def test_an_input_field_that_the_program_does_not_have(play: Stage) -> None:
    says = r"can't take input 'quesion': it has no such input\. The program takes: question\."
    refused(play, "qa", InputError, says, inputs={"quesion": "why?"})


def test_an_input_field_that_is_missing(play: Stage) -> None:
    refused(play, "number", InputError, r"can't take input 'tags': it is missing", inputs={"count": 1})


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ({"count": "many", "tags": []}, r"input 'count': .*valid integer"),
        ({"count": None, "tags": []}, r"input 'count': .*valid integer"),
        ({"count": 1, "tags": ["a", 2]}, r"input 'tags': 1: .*valid string"),
        ({"count": 1, "tags": {"a": 1}}, r"input 'tags': .*valid list"),
    ],
)
def test_an_input_of_another_type(play: Stage, inputs: dict[str, Any], says: str) -> None:
    before = len(play.lm.requests)
    refused(play, "number", InputError, says, inputs=inputs)
    assert len(play.lm.requests) == before, "the LM must not be asked"


@pytest.mark.parametrize("inputs", ["why?", ["why?"], 7, None])
def test_inputs_that_are_no_mapping(play: Stage, inputs: Any) -> None:
    with pytest.raises(InputError, match=r"must be a mapping of input field to value, not "):
        play.fleet.submit("qa", inputs)


@pytest.mark.parametrize("key", [None, "key"])
def test_inputs_that_are_not_json(play: Stage, key: str | None) -> None:
    with (
        within(SOON_S),
        pytest.raises(InputError, match=r"'qa' can't take input 'question': a value of type object has no JSON form"),
    ):
        play.fleet.submit("qa", {"question": object()}, idempotency_key=key)


# ---------------------------------------------------------------- values


def test_a_value_that_breaks_its_constraint_changes_nothing(play: Stage) -> None:
    session = play.fleet.session(fresh("s")).blocking
    token = session.register_variable("temp", "float", 0.5, {"min": 0.0, "max": 1.0})
    with pytest.raises(ValidationError, match=r"Variable 'temp' can't be 7\.0: .*1.*Publish a value that fits"):
        session.set_variables({"temp": 7.0, "other": 1})
    assert session.snapshot().token == token
    assert session.get_variables() == {"temp": 0.5}


@pytest.mark.parametrize(
    ("value", "says"), [(5.0, r"from 0 to 2"), ("hot", r"must be a number"), (float("nan"), "nan")]
)
def test_a_value_that_the_lm_could_not_take(play: Stage, value: Any, says: str) -> None:
    session, before = fresh("s"), len(play.lm.requests)
    play.fleet.session(session).blocking.set_variables({"temp": value})
    refused(play, "warm", ValidationError, says, session=session)
    assert len(play.lm.requests) == before


def test_a_model_that_no_profile_allows(play: Stage) -> None:
    session = fresh("s")
    play.fleet.session(session).blocking.set_variables({"llm": "openai/expensive"})
    says = r"'llm' can't be 'openai/expensive': it must be an LM profile or an allowed model: .*demo.*openai/other"
    refused(play, "steered", ValidationError, says, session=session)


def test_a_profile_that_the_workers_do_not_declare(play: Stage) -> None:
    refused(play, "on-undeclared", ValidationError, r"'lm of program on-undeclared' can't be 'undeclared'.*demo")


# ---------------------------------------------------------------- modules and specs


def test_a_module_variable_that_names_no_module(play: Stage) -> None:
    session = fresh("s")
    play.fleet.session(session).blocking.set_variables({"strategy": "Predct"})
    says = r"Unknown module type: Predct\. Did you mean 'Predict'\? Available: ChainOfThought, Predict"
    refused(play, "chosen", UnknownModuleError, says, session=session)


def test_a_module_variable_that_names_a_module_which_the_program_does_not_allow(play: Stage) -> None:
    session = fresh("s")
    play.fleet.session(session).blocking.set_variables({"strategy": "ProgramOfThought"})
    refused(play, "chosen", UnknownModuleError, r"Unknown module type: ProgramOfThought", session=session)


@pytest.mark.parametrize(
    ("spec", "kind", "says"),
    [
        ({"module": "Predct", "signature": "a -> b"}, UnknownModuleError, r"Predct\. Did you mean 'Predict'"),
        (
            {"module": "os:system"},
            ProgramSpecError,
            r"refused at module: 'os:system' isn't in an allowed package \(none\)",
        ),
        ({"module": "Predict", "signature": "a -> "}, ProgramSpecError, r"refused at signature: .*needs a field after"),
        ({"module": "Predict", "signature": "a: os.PathLike -> b"}, ProgramSpecError, r"refused at signature"),
        (
            {"module": "Predict", "signature": "a -> b", "bindings": {"temprature": "t"}},
            ProgramSpecError,
            r"temprature",
        ),
        ({"module": "ReAct", "signature": "a -> b", "tools": ["os:system"]}, ProgramSpecError, r"refused at tools"),
        ({"module": "Predict", "signature": "a -> b", "pickle": "gASV"}, ProgramSpecError, r"refused at pickle"),
        ("{not json", ProgramSpecError, r"refused at the whole: it isn't JSON"),
        ({}, ProgramSpecError, r"refused at module"),
    ],
)
def test_a_spec_that_is_refused_stores_nothing(play: Stage, spec: Any, kind: type[BridgeError], says: str) -> None:
    name = fresh("p")
    with within(SOON_S), pytest.raises(BridgeError) as raised:
        play.fleet.register(name, spec)
    readable(raised.value, kind, says)
    assert name not in {program.name for program in play.fleet.programs()}


@pytest.mark.parametrize("name", ["", "a b", "a:b", "../up", "x" * 200])
def test_a_name_that_no_program_can_have(play: Stage, name: str) -> None:
    with pytest.raises(ProgramSpecError, match=r"refused at the name: it must be 1 to 100 letters"):
        play.fleet.register(name, dspy.Predict("a -> b"))


def test_a_binding_that_could_not_take_effect(play: Stage) -> None:
    with pytest.raises((ProgramSpecError, BindingError), match=r"temprature.*temperature"):
        play.fleet.register(fresh("p"), dspy.Predict("a -> b"), bindings={"temprature": "t"})


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"module": "os:system"}, r"refused at module: 'os:system' isn't in an allowed package"),
        ({"module": "subprocess:Popen"}, r"isn't in an allowed package"),
        ({"module": "ReAct", "signature": "question -> answer", "tools": ["os:system"]}, r"refused at tools"),
    ],
)
def test_a_worker_refuses_what_a_careless_client_stored(play: Stage, spec: dict[str, Any], says: str) -> None:
    name = fresh("p")
    unchecked = ProgramSpec.parse(spec, program=name)
    run_blocking(ProgramRegistry(RedisConnection(play.url)).register(name, unchecked))
    refused(play, name, ProgramSpecError, says)


# ---------------------------------------------------------------- the LM


def test_an_lm_that_is_down(play: Stage) -> None:
    error = refused(play, "on-down", LMUnavailableError, r"LM 'openai/down' failed with .*api_base answers")
    assert isinstance(error, LMUnavailableError)
    assert error.model == "openai/down"


def test_an_overloaded_lm_is_tried_again_and_then_named(play: Stage) -> None:
    question = fresh("q")
    play.lm.fail(None, status=503, containing=question)
    says = r"LM '(openai/)?demo' failed with .* \(HTTP 503\).*dspex-fleet doctor"
    error = refused(play, "qa", LMUnavailableError, says, inputs={"question": question})
    assert isinstance(error, LMUnavailableError)
    assert error.status == 503
    assert [sent.status for sent in play.requests_with(question)] == [503] * 3


def test_an_lm_that_recovers_gives_a_result_of_a_later_try(play: Stage) -> None:
    question = fresh("q")
    play.lm.fail(2, status=429, retry_after_s=0.1, containing=question)
    prediction = play.fleet.submit("qa", {"question": question}).get(SOON_S)
    assert prediction.answer == f"answer of {question}"
    assert prediction.provenance.failed_tries == 2


def test_a_prediction_that_waits_for_its_next_try_can_be_cancelled(play: Stage) -> None:
    question = fresh("q")
    play.lm.fail(None, status=429, retry_after_s=2.0, containing=question)
    handle = play.fleet.submit("qa", {"question": question})
    play.await_asked(question)
    assert handle.cancel()
    with within(1), pytest.raises(BridgeError, match="was cancelled"):
        handle.get(1)


def test_an_lm_that_refuses_the_key_is_not_asked_again(play: Stage) -> None:
    question = fresh("q")
    says = r"LM '(openai/)?locked' failed with .* \(HTTP 401\).*Check the profile's key"
    error = refused(play, "on-locked", LMRefusedError, says, inputs={"question": question})
    assert isinstance(error, LMRefusedError)
    assert (error.status, error.retry_after_s) == (401, 0.0)
    assert len(play.requests_with(question)) == 1
    assert "wrong" not in str(error)


def test_an_lm_that_refuses_the_request_is_not_asked_again(play: Stage) -> None:
    question = fresh("q")
    play.lm.fail(None, status=400, containing=question)
    refused(play, "qa", LMRefusedError, r"\(HTTP 400\)", inputs={"question": question})
    assert len(play.requests_with(question)) == 1


def test_an_lm_that_never_answers(play: Stage) -> None:
    question = fresh("q")
    play.lm.hang(None, containing=question)
    refused(play, "on-hasty", LMUnavailableError, r"LM '(openai/)?hasty' failed with", inputs={"question": question})
    assert len(play.requests_with(question)) == 3


def test_an_lm_that_breaks_off(play: Stage) -> None:
    question = fresh("q")
    play.lm.drop(None, containing=question)
    refused(play, "qa", LMUnavailableError, r"LM '(openai/)?demo' failed with", inputs={"question": question})


def test_an_answer_that_cannot_be_parsed(play: Stage) -> None:
    question = fresh("q")
    play.lm.garble(None, containing=question)
    refused(
        play, "qa", LMAnswerError, r"LM '(openai/)?demo' failed with .*Try a stronger model", {"question": question}
    )


# ---------------------------------------------------------------- Redis


CALLS: dict[str, Callable[[Fleet], Any]] = {
    "submit": lambda fleet: fleet.submit("qa", {"question": "why?"}),
    "submit with a key": lambda fleet: fleet.submit("qa", {"question": "why?"}, idempotency_key="key"),
    "get": lambda fleet: fleet.handle("some-task").get(PATIENCE_S),
    "status": lambda fleet: fleet.handle("some-task").status,
    "ready": lambda fleet: fleet.handle("some-task").ready(),
    "cancel": lambda fleet: fleet.handle("some-task").cancel(),
    "publish": lambda fleet: fleet.session("s").blocking.set_variables({"temp": 0.5}),
    "variables": lambda fleet: fleet.session("s").blocking.get_variables(),
    "register": lambda fleet: fleet.register("qa", dspy.Predict("question -> answer")),
    "label": lambda fleet: fleet.label("qa", "prod", 1),
    "programs": lambda fleet: fleet.programs(),
    "map": lambda fleet: list(fleet.map("qa", [{"question": "why?"}])),
    "a fleet's program": lambda fleet: fleet.program("qa")(question="why?"),
}


@pytest.fixture(scope="module")
def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def mute_port() -> Generator[int]:
    """A port that takes every connection and never says a word."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(128)
        yield listening.getsockname()[1]


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_redis_is_down(closed_port: int, call: Callable[[Fleet], Any]) -> None:
    fleet = Fleet(f"redis://user:sesame@127.0.0.1:{closed_port}/0", timeout_s=0.5)
    with within(SOON_S), pytest.raises(BridgeError) as raised:
        call(fleet)
    says = (
        rf"Redis at redis://\S*127\.0\.0\.1:{closed_port}/0 is away: .*Start it, or name another one with --redis-url"
    )
    readable(raised.value, StoreUnavailableError, says)
    assert "sesame" not in f"{raised.value!r} {raised.value} {fleet!r}"


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_redis_does_not_answer(mute_port: int, call: Callable[[Fleet], Any]) -> None:
    fleet = Fleet(f"redis://127.0.0.1:{mute_port}/0", timeout_s=0.2)
    with within(SOON_S), pytest.raises(BridgeError) as raised:
        call(fleet)
    readable(raised.value, StoreUnavailableError, rf"Redis at redis://127\.0\.0\.1:{mute_port}/0 is away")


async def test_redis_is_down_for_one_who_awaits(closed_port: int) -> None:
    with within(SOON_S), pytest.raises(StoreUnavailableError):
        await Fleet(f"redis://127.0.0.1:{closed_port}/0", timeout_s=0.5).handle("some-task")


def test_redis_goes_down_while_somebody_waits_and_comes_back() -> None:
    """Who waits hears of an outage only if it is longer than the wait."""
    with local_redis() as server, ThreadPoolExecutor(2) as pool:
        fleet = Fleet(server.celeryconfig["host_url"], timeout_s=0.5)
        handle = fleet.submit("qa", {"question": "why?"})
        short, waiter = pool.submit(handle.get, 3), pool.submit(handle.get, 60)
        wait_until(lambda: server.server.cli("PUBSUB", "CHANNELS", "dspex:replies:*"), "the client's subscription")
        server.server.kill()
        assert isinstance(short.exception(timeout=PATIENCE_S), StoreUnavailableError)
        server.server.restart()
        assert not waiter.done()
        assert handle.status == "PENDING"
        assert handle.cancel()
        assert isinstance(waiter.exception(timeout=PATIENCE_S), PredictionCancelledError)
        assert fleet.submit("qa", {"question": "why?"}).id != handle.id


@pytest.mark.parametrize("url", ["http://localhost", "localhost:6379", "redis://host:port"])
def test_a_url_that_names_no_redis(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"Can't read the Redis URL"):
        Fleet(url)


def test_a_task_that_is_no_prediction_is_named_as_such(play: Stage) -> None:
    task_id = fresh("task")
    play.fleet.app.backend.store_result(task_id, 42, "SUCCESS")
    with pytest.raises(PredictionFailedError, match=rf"task {task_id} is no prediction: its result is 42"):
        play.fleet.handle(task_id).get(1)


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        (dspy.Predict("a -> b"), {"key": object()}),
        ({"module": "Predict", "signature": "a -> b"}, {"key": object()}),
        (dspy.Predict("a -> b", temperature=print), None),
    ],
    ids=["an instance's argument", "a spec's argument", "config"],
)
def test_a_part_of_a_module_that_is_not_json(play: Stage, module: Any, arguments: Any) -> None:
    with pytest.raises(ProgramSpecError, match=r"refused at (arguments|config)\S*: .*JSON"):
        play.fleet.register(fresh("p"), module, arguments=arguments)

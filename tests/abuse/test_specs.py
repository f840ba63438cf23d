"""Whatever spec a stranger writes: its predictions end, or it is refused by name; and its neighbours live on."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import dspy
import httpx
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from snakepit_bridge.client import Fleet
from snakepit_bridge.exceptions import BridgeError, InputError
from snakepit_bridge.process.home_loop import get_home_loop
from tests.harness.spec_fields import TEXTS
from tests.harness.spec_mutations import MUTATIONS, mutants
from tests.harness.spec_strategies import EXECUTE_CODE, KINDS, VARIABLES, Drawn, programs
from tests.harness.stage import Stage, fresh, stage
from tests.harness.waiting import PATIENCE_S
from tests.integration.gateway_clients import gateway

WAIT_S = PATIENCE_S
CAREFUL: Any = {"deadline": None, "suppress_health_check": list(HealthCheck), "print_blob": True}


class Doors:
    """The stage, and the two doors by which a program is registered."""

    def __init__(self, play: Stage, client: httpx.Client) -> None:
        self.play = play
        self.client = client
        self.fleet = Fleet(play.url, allowed_packages=("tests",), wait_s=WAIT_S)
        self.session = fresh("s")
        play.fleet.session(self.session).blocking.set_variables(VARIABLES)
        self.pid = self.neighbour()
        self.ends: Counter[str] = Counter()

    def neighbour(self) -> int:
        """Have an honest prediction answered, and return by which process it was."""
        mark = fresh("q")
        prediction = self.fleet.submit("qa", {"question": mark}).get(WAIT_S)
        assert prediction.answer == f"answer of {mark}"
        return prediction.provenance.pid

    def by_client(self, name: str, spec: dict[str, Any]) -> BridgeError | None:
        """Register by a fleet's client, and return how it is refused."""
        try:
            self.fleet.register(name, json.dumps(spec))
        except BridgeError as exc:
            return exc
        return None

    def by_gateway(self, name: str, spec: dict[str, Any]) -> str | None:
        """Register by the gateway, and return the name of the refusal."""
        body = json.dumps({"name": name, "spec": spec}).encode()
        answer = self.client.post("/v1/programs", content=body, headers={"content-type": "application/json"})
        if answer.status_code == 200:
            return None
        assert 400 <= answer.status_code < 500, (answer.status_code, answer.text[:500])
        return answer.json()["error"]["kind"]


@contextmanager
def running_gateway(url: str) -> Generator[httpx.Client]:
    running = gateway(url, allowed_packages=("tests",))
    served = asyncio.run_coroutine_threadsafe(running.__aenter__(), get_home_loop()).result(WAIT_S)
    try:
        with httpx.Client(base_url=f"http://{served.http_address}", timeout=WAIT_S) as client:
            yield client
    finally:
        asyncio.run_coroutine_threadsafe(running.__aexit__(None, None, None), get_home_loop()).result(WAIT_S)


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Generator[Doors]:
    with stage(tmp_path_factory.mktemp("stage"), DSPEX_ALLOWED_PACKAGES="tests") as play:
        play.fleet.register("qa", dspy.Predict("question -> answer"))
        with running_gateway(play.url) as client:
            opened = Doors(play, client)
            yield opened
            print("\nhow programs ended:", dict(opened.ends))


def try_program(doors: Doors, example: Drawn) -> BridgeError | None:
    """Register a program by both doors, run what was taken, and return how it was refused."""
    name, other = fresh("p"), fresh("p")
    refused, named = doors.by_client(name, example.spec), doors.by_gateway(other, example.spec)
    assert (refused and type(refused).__name__) == named, (refused, named)
    if refused is not None:
        assert type(refused) is not BridgeError, refused
        doors.ends["refused"] += 1
        return refused
    doors.ends["accepted"] += 1
    ends = [] if _executes_code(example.spec) else [predict(doors, program, example) for program in (name, other)]
    doors.ends.update(ends)
    event(f"{example.kind}: {ends}")
    assert doors.neighbour() == doors.pid, "the worker's process isn't the same any more"
    return None


def _executes_code(spec: dict[str, Any]) -> bool:
    """Tell whether it waits for a worker on prefork, which isn't on this stage."""
    return any(name in json.dumps(spec) for name in EXECUTE_CODE) or spec.get("executes_code") is True


def predict(doors: Doors, program: str, example: Drawn) -> str:
    """Run a program, and return by which name it ended."""
    try:
        doors.fleet.submit(program, example.inputs, session=doors.session, deadline=5).get(WAIT_S)
    except BridgeError as exc:
        ended: Exception = exc
    else:
        return "answered"
    assert type(ended) is not BridgeError, ended
    refused_fitting = example.is_fitting and isinstance(ended, InputError)
    assert not refused_fitting, f"inputs in the types of the fields are refused: {ended}"
    return type(ended).__name__


def run_valid(doors: Doors, example: Drawn) -> None:
    """Have a right program run."""
    refused = try_program(doors, example)
    assert refused is None, f"a right spec is refused: {refused}"


def run_mutant(doors: Doors, mutation: str, example: Drawn) -> None:
    """Have a program with one fault refused, or run where the fault may be none."""
    refused = try_program(doors, example)
    assert refused is not None or not MUTATIONS[mutation].is_refused, f"{mutation} is taken"


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=7, **CAREFUL)
@given(data=st.data())
def test_a_right_spec_is_taken_and_its_predictions_end(doors: Doors, kind: str, data: st.DataObject) -> None:
    """Every kind of module, at both doors."""
    run_valid(doors, data.draw(programs(kind)))


def test_an_ensemble_of_one_program_takes_what_that_takes(doors: Doors) -> None:
    """Its predictor's only input besides the question is an attempt; the program's is the completions."""
    comparison = {"module": "MultiChainComparison", "signature": "question -> answer", "arguments": {"M": 1}}
    reduce = {"reduce_fn": "majority"}
    spec = {"module": "Ensemble", "modules": {"programs": [comparison]}, "functions": reduce}
    inputs = {"question": "q", "completions": [{"reasoning": "r", "answer": "a"}]}
    name = fresh("p")
    assert doors.by_client(name, spec) is None
    assert predict(doors, name, Drawn("Ensemble", spec, inputs, is_fitting=True)) == "answered"


@pytest.mark.parametrize("mutation", MUTATIONS)
@settings(max_examples=1, **CAREFUL)
@given(data=st.data())
def test_a_spec_with_one_fault_is_refused_by_name_or_ends(doors: Doors, mutation: str, data: st.DataObject) -> None:
    run_mutant(doors, mutation, data.draw(mutants(mutation)))


def test_most_draws_are_programs_that_run(doors: Doors) -> None:
    """So the tests above try what a program does, and not only how a spec is refused."""
    accepted, refused = doors.ends["accepted"], doors.ends["refused"]
    if not (accepted and refused):
        pytest.skip("the tests above weren't selected")
    assert accepted >= 0.7 * (accepted + refused), dict(doors.ends)


NAMES = st.sampled_from(["_private", "ünïcode", "x" * 100, "x" * 101, "", "a b", "__init__", "a:1", "a@b", "1"]) | TEXTS


@settings(max_examples=20, **CAREFUL)
@given(name=NAMES)
def test_any_name_is_taken_or_refused_by_name(doors: Doors, name: str) -> None:
    spec = {"module": "Predict", "signature": "question -> answer"}
    if name != "qa":
        refused = doors.by_client(name, spec)
        assert (refused and type(refused).__name__) == doors.by_gateway(name, spec)


@pytest.mark.soak
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=100, **CAREFUL)
@given(data=st.data())
def test_many_right_specs_are_taken_and_end(doors: Doors, kind: str, data: st.DataObject) -> None:
    run_valid(doors, data.draw(programs(kind)))


@pytest.mark.soak
@pytest.mark.parametrize("mutation", MUTATIONS)
@settings(max_examples=30, **CAREFUL)
@given(data=st.data())
def test_many_specs_with_one_fault_are_refused_or_end(doors: Doors, mutation: str, data: st.DataObject) -> None:
    run_mutant(doors, mutation, data.draw(mutants(mutation)))

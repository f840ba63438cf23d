"""Whatever spec a stranger writes: it registers and its predictions end, or it is refused by name; its neighbours live.

KINDS 29, 39, 40 and 41, for whole programs.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import dspy
import httpx
import pytest
from hypothesis import HealthCheck, given, settings

from snakepit_bridge.client import Fleet
from snakepit_bridge.exceptions import BridgeError
from snakepit_bridge.loop import home
from tests.harness.spec_strategies import NAMES, programs
from tests.harness.stage import Stage, fresh, stage
from tests.integration.gateway_clients import gateway

WAIT_S = 30
CAREFUL: Any = {"deadline": None, "suppress_health_check": list(HealthCheck), "print_blob": True}


class Doors:
    """The stage, and the two doors by which a program is registered."""

    def __init__(self, play: Stage, client: httpx.Client) -> None:
        self.play = play
        self.client = client
        self.fleet = Fleet(play.url, allowed_packages=("tests",), wait_s=WAIT_S)
        self.pid = self.neighbour()

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
    made = asyncio.run_coroutine_threadsafe(running.__aenter__(), home()).result(WAIT_S)
    try:
        with httpx.Client(base_url=f"http://{made.http_address}", timeout=WAIT_S) as client:
            yield client
    finally:
        asyncio.run_coroutine_threadsafe(running.__aexit__(None, None, None), home()).result(WAIT_S)


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Generator[Doors]:
    with stage(tmp_path_factory.mktemp("stage"), DSPEX_ALLOWED_PACKAGES="tests") as play:
        play.fleet.register("qa", dspy.Predict("question -> answer"))
        with running_gateway(play.url) as client:
            yield Doors(play, client)


def try_program(doors: Doors, spec: dict[str, Any], inputs: dict[str, Any]) -> str:
    """Register a spec by both doors, run what was taken, and return how that ended."""
    name, other = fresh("p"), fresh("p")
    refused, named = doors.by_client(name, spec), doors.by_gateway(other, spec)
    assert type(refused) is not BridgeError, refused
    assert (refused is None) == (named is None), (refused, named)
    if refused is not None:
        return f"refused: {refused}"
    ends: list[str] = []
    for program in (name, other):
        try:
            doors.fleet.submit(program, inputs, deadline=5).get(WAIT_S)
        except BridgeError as exc:
            ends.append(type(exc).__name__)
        else:
            ends.append("answered")
    assert doors.neighbour() == doors.pid, "the worker's process isn't the same any more"
    return ends[0]


@settings(max_examples=30, **CAREFUL)
@given(case=programs())
def test_any_spec_is_run_or_refused_by_name(doors: Doors, case: Any) -> None:
    try_program(doors, *case)


@settings(max_examples=30, **CAREFUL)
@given(name=NAMES)
def test_any_name_is_taken_or_refused_by_name(doors: Doors, name: str) -> None:
    spec = {"module": "Predict", "signature": "question -> answer"}
    if name != "qa":
        assert (doors.by_client(name, spec) is None) == (doors.by_gateway(name, spec) is None)


@pytest.mark.soak
@settings(max_examples=1_500, **CAREFUL)
@given(case=programs())
def test_many_specs_are_run_or_refused_by_name(doors: Doors, case: Any) -> None:
    try_program(doors, *case)

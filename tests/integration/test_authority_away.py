"""Predictions while the Elixir server is away, on a real worker behind real refreshers, however they come."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Generator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dspy
import pytest
from redis import Redis

from snakepit_bridge.cli.main import main
from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from snakepit_bridge.exceptions import AuthorityAwayError, SessionNotFoundError
from snakepit_bridge.process.home_loop import run_blocking
from snakepit_bridge.snapshots import RedisStore
from snakepit_bridge.snapshots.snapshot import AuthoritySign
from snakepit_bridge.testing.elixir.server import BridgeServer
from tests.harness.preloaded import PythonProcess, start_preloaded
from tests.harness.stage import Stage, fresh, stage
from tests.harness.waiting import PATIENCE_S, wait_until, within
from tests.integration.gateway_clients import connected, gateway, grants, http

ROOT = Path(__file__).parents[2]
SESSION, OWN = "user-shop", "user-own"
# A new process takes seconds to load on a busy machine.
START_S = PATIENCE_S
# Short, so that Elixir counts as away after about five seconds.
QUICK = {"poll-s": 0.1, "poll-max-s": 0.2, "timeout-s": 1, "lease-s": 1}


@dataclass
class Play:
    """The stage, with an Elixir server and two refreshers."""

    stage: Stage
    elixir: BridgeServer
    refreshers: list[PythonProcess]

    def predict(self, **terms: Any) -> Any:
        return self.stage.fleet.submit("qa", {"question": fresh("why")}, session=SESSION, **terms).get(
            timeout=PATIENCE_S
        )

    def heard(self) -> AuthoritySign:
        async def read() -> AuthoritySign | None:
            store = RedisStore(self.stage.url)
            try:
                return (await store.head(SESSION)).heard
            except SessionNotFoundError:
                return None
            finally:
                await store.aclose()

        return wait_until(lambda: run_blocking(read()), "a sign of Elixir", timeout_s=START_S)

    def heard_again(self) -> None:
        """Wait for a look that begins after the call."""
        now = time.time()
        wait_until(lambda: self.heard().at > now, "a look at Elixir", timeout_s=START_S)


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Generator[Play]:
    folder = tmp_path_factory.mktemp("stage")
    with ExitStack() as running:
        elixir = running.enter_context(BridgeServer())
        elixir.begin(SESSION)
        elixir.register(SESSION, "temp", "float", 0.5)
        playing = running.enter_context(stage(folder, DSPEX_BRIDGE=elixir.address, DSPEX_REQUIREMENT_WAIT_S="5"))
        playing.fleet.register("qa", dspy.Predict("question -> answer"), bindings={"temperature": "temp"})
        playing.fleet.session(OWN).blocking.set_variable("temp", 0.1)
        refreshers: list[PythonProcess] = []
        for name in ("one", "two"):
            options = [f"--{option}={value}" for option, value in QUICK.items()]
            command = [sys.executable, "-m", "workers.refresher", "--bridge", elixir.address, "--name", name]
            command += ["--redis-url", playing.url, "--sessions", SESSION, *options]
            process = start_preloaded(command, folder / f"{name}.log", env=os.environ, cwd=ROOT)
            running.callback(process.end, signal.SIGKILL)
            refreshers.append(process)
        with Redis.from_url(playing.url) as client:
            wait_until(lambda: client.zcard("dspex:refreshers") == 2, "two refreshers", timeout_s=START_S)
        started = Play(playing, elixir, refreshers)
        started.heard()
        yield started


@pytest.fixture(scope="module")
def without_elixir(play: Play) -> Play:
    """The Elixir server is killed, and the worker's predictions have begun to say so."""
    with within(60):
        play.predict()
    play.elixir.stop()
    heard = play.heard()

    def silent() -> bool:
        return time.time() > heard.at + heard.silence_s + 0.5

    wait_until(silent, "Elixir to count as away", timeout_s=30)
    return play


TERMS: list[dict[str, Any]] = [
    {},
    {"outage": "fail"},
    {"outage": "serve_stale(3600)"},
    {"max_staleness": 60},
    {"outage": "serve_stale(5)", "max_staleness": 60},
]


@pytest.mark.parametrize("terms", TERMS, ids=str)
def test_while_elixir_answers_no_terms_make_a_difference(play: Play, terms: dict[str, Any]) -> None:
    done = play.predict(**terms)
    assert (done.provenance.outage, done.provenance.staleness_s < 5) == (False, True)


def test_a_refresher_that_is_killed_costs_no_prediction(play: Play) -> None:
    """Its sessions are another's within seconds; so it is where it is only paused, and one that was goes on."""
    for stop in (signal.SIGSTOP, signal.SIGKILL):
        with Redis.from_url(play.stage.url) as client:
            holder = str(client.get(f"dspex:{{s:{SESSION}}}:lease"), "utf-8")  # pyright: ignore[reportArgumentType]
        play.refreshers[["one", "two"].index(holder.partition("/")[0])].send_signal(stop)
        until = time.monotonic() + 4
        while time.monotonic() < until:
            assert play.predict(outage="fail").provenance.outage is False
        play.heard_again()
        for process in play.refreshers:
            process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize(
    "terms", [{}, {"outage": "fail"}, {"outage": "serve_stale(0.5)"}, {"max_staleness": 3600}], ids=str
)
def test_a_prediction_fails_by_name_at_once(without_elixir: Play, terms: dict[str, Any]) -> None:
    with within(4), pytest.raises(AuthorityAwayError, match="Check that the Elixir server answers") as raised:
        without_elixir.predict(**terms)
    error, heard = raised.value, without_elixir.heard()
    assert (error.session, error.authority, error.silence_s) == (SESSION, "elixir", heard.silence_s)
    assert error.silent_s > heard.silence_s
    assert error.outage == terms.get("outage", "fail")


def test_a_batch_fails_in_each_of_its_predictions(without_elixir: Play) -> None:
    handles = without_elixir.stage.fleet.submit_batch(
        "qa", [{"question": fresh("why")} for _ in range(3)], session=SESSION
    )
    for handle in handles:
        with pytest.raises(AuthorityAwayError):
            handle.get(timeout=PATIENCE_S)


@pytest.mark.parametrize("more", [{}, {"max_staleness": 1}], ids=str)
def test_it_is_served_up_to_the_age_that_its_contract_allows(without_elixir: Play, more: dict[str, Any]) -> None:
    with within(4):
        done = without_elixir.predict(outage="serve_stale(3600)", **more)
    assert done.provenance.outage is True
    assert done.provenance.staleness_s > without_elixir.heard().silence_s


def test_sessions_of_the_store_and_pinned_revisions_need_no_elixir(without_elixir: Play) -> None:
    fleet = without_elixir.stage.fleet
    done = fleet.submit("qa", {"question": fresh("why")}, session=OWN, outage="fail", max_staleness=5).get(
        timeout=PATIENCE_S
    )
    assert done.provenance.outage is False
    token = without_elixir.predict(outage="serve_stale(3600)").provenance.token
    assert without_elixir.predict(exactly=token).provenance.outage is False


async def test_the_gateway_says_and_does_the_same(without_elixir: Play) -> None:
    url, inputs = without_elixir.stage.url, json.dumps({"question": fresh("why")}).encode()
    async with gateway(url, grants=grants()) as served, connected(served.grpc_address) as client:

        async def ended(**terms: Any) -> pb.Prediction:
            task = await client.submit("qa", SESSION, {"question": fresh("why")}, **terms)
            return await client.predictions.Await(pb.AwaitRequest(id=task, timeout_s=30), metadata=client.metadata)

        failed = await asyncio.gather(ended(), ended(outage="fail"), ended(outage="serve_stale(0.5)"))
        assert [failure.error.kind for failure in failed] == ["AuthorityAwayError"] * 3
        lenient = await ended(outage="serve_stale(3600)")
        assert (lenient.provenance.outage, lenient.error.kind) == (True, "")
        request = pb.SubmitRequest(program="qa", session=SESSION, inputs_json=inputs, outage="shrug")
        batch = await client.predictions.SubmitBatch(
            pb.SubmitBatchRequest(requests=[request]), metadata=client.metadata
        )
        assert (batch.submitted[0].error.kind, "serve_stale(SECONDS)" in batch.submitted[0].error.message) == (
            "MalformedError",
            True,
        )
        async with http(served.http_address) as web:
            body = {"program": "qa", "session": SESSION, "inputs": {"question": "?"}, "outage": "serve_stale(3600)"}
            submitted = await web.post("/v1/predictions", json=body)
            assert submitted.status_code == 200, submitted.text
            answer = await web.get(f"/v1/predictions/{submitted.json()['id']}/await", params={"timeout_s": 30})
            assert answer.json()["provenance"]["outage"] is True


def test_the_command_says_and_does_the_same(without_elixir: Play, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*options: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(
                [
                    "--redis-url",
                    without_elixir.stage.url,
                    "predict",
                    "qa",
                    f"question={fresh('why')}",
                    "-s",
                    SESSION,
                    *options,
                ]
            )
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    for options in ((), ("--outage", "fail"), ("--outage", "serve_stale(0.5)")):
        code, _, err = run(*options)
        assert (code, "is away: its last heartbeat was" in err) == (1, True), err
    code, out, _ = run("--outage", "serve_stale(3600)", "--json")
    assert (code, json.loads(out)["provenance"]["outage"]) == (0, True)


def test_behind_the_outage_all_is_as_before(without_elixir: Play) -> None:
    without_elixir.elixir.start()
    without_elixir.elixir.set(SESSION, "temp", 0.75)
    without_elixir.heard_again()
    done = without_elixir.predict()
    assert (done.provenance.outage, done.provenance.staleness_s < 5) == (False, True)

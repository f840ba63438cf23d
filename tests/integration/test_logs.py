"""The logs of real processes: each line has the prediction that it belongs to, and nothing that it shouldn't show."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import Any

import dspy
import pytest

from snakepit_bridge.exceptions import LMUnavailableError
from snakepit_bridge.testing.elixir.server import BridgeServer
from tests.harness.containers import LocalTestWorker
from tests.harness.logging_programs import LoggingProgram
from tests.harness.otlp import Collector, collector
from tests.harness.preloaded import PreloadedPopen
from tests.harness.stage import Stage, fresh, stage
from tests.harness.stalling import Stalling
from tests.harness.waiting import PATIENCE_S, wait_until

ROOT = Path(__file__).parents[2]
COUNTS = {"asyncio": 200, "threads": 40, "prefork": 20}
SESSIONS = 4
# What a program and its middleware log of one prediction.
LINES = {
    "the program begins", "a thread works on", "the middleware asks", "the middleware has an answer to",
    "a thread ends", "the program ends",
}  # fmt: skip


@pytest.fixture(scope="module")
def exported() -> Generator[Collector]:
    with collector() as running:
        yield running


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory, exported: Collector) -> Generator[Stage]:
    settings: dict[str, Any] = {
        "DSPEX_LOG": "json",
        "DSPEX_ALLOWED_PACKAGES": "tests",
        "DSPEX_LM_MIDDLEWARE": "tests.harness.logging_programs:log_call",
        "DSPEX_LOG_PREDICTIONS_PER_S": "1000",
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_EXPORTER_OTLP_ENDPOINT": exported.url,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }
    with stage(tmp_path_factory.mktemp("logs"), worker=False, **settings) as playing:
        playing.fleet.register("logging", LoggingProgram())
        playing.fleet.register("qa", dspy.Predict("question -> answer"))
        for number in range(SESSIONS):
            playing.fleet.session(f"session-{number}").blocking.set_variables({"number": number})
        yield playing


def json_lines(worker: LocalTestWorker) -> list[dict[str, Any]]:
    """Return what the worker has logged; what Celery says on stdout is no line of its log."""
    return [json.loads(line) for line in worker.logs().splitlines() if line.startswith("{")]


@pytest.mark.parametrize("pool", list(COUNTS))
def test_each_line_has_the_fields_of_its_own_prediction(play: Stage, exported: Collector, pool: str) -> None:
    worker = play.start(pool=pool, concurrency=min(COUNTS[pool], 200), env={"DSPEX_LOG_CONTENT": "true"})
    try:
        run, count = fresh("logged").partition("-")[2], COUNTS[pool]
        play.lm.delay(0.5)
        submitted = [
            play.fleet.submit("logging", {"question": f"logged-{run}-{number}"}, session=f"session-{number % SESSIONS}")
            for number in range(count)
        ]
        tokens = [each.get(PATIENCE_S).provenance.token for each in submitted]
        play.lm.delay(0)
        wait_until(lambda: worker.logs().count('"outcome": "ok"') == count, "the end of each to be logged")
        seen = Counter[tuple[str, int]]()
        for line in json_lines(worker):
            if found := re.fullmatch(rf"(.+) logged-{run}-(\d+)", line["message"]):
                number = int(found[2])
                seen[found[1], number] += 1
                assert line["task_id"] == submitted[number].id
                assert (line["session"], line["token"]) == (f"session-{number % SESSIONS}", tokens[number])
                assert line["program"] == "logging"
                assert re.fullmatch(r"[0-9a-f]{32}", line["trace_id"])
                assert re.fullmatch(r"[0-9a-f]{16}", line["span_id"])
        assert seen == Counter({(text, number): 1 for text in LINES for number in range(count)})
        ends = {line["task_id"]: line for line in json_lines(worker) if line.get("outcome")}
        assert ends.keys() == {each.id for each in submitted}
        for number, each in enumerate(submitted):
            end = ends[each.id]
            assert (end["outcome"], end["program"], end["token"]) == ("ok", "logging", tokens[number])
            assert end["latency_s"] >= end["duration_s"] >= 0.5
            assert end["input_tokens"] > 0
        first = submitted[0].id
        wait_until(lambda: exported.find("tasks.predict", messaging__message__id=first), "its trace to be exported")
        (span,) = exported.find("tasks.predict", messaging__message__id=first)
        assert ends[first]["trace_id"] == span.trace
    finally:
        worker.container.kill()
        play.workers.remove(worker)


def test_celerys_own_lines_are_of_the_same_form_and_show_neither_inputs_nor_outputs(play: Stage) -> None:
    worker = play.start(pool="asyncio", concurrency=4)
    try:
        question = fresh("private")
        result = play.fleet.submit("logging", {"question": question})
        assert question in result.get(PATIENCE_S).answer
        wait_until(lambda: f"{result.id}] succeeded" in worker.logs(), "Celery's line")
        lines = [line for line in json_lines(worker) if line.get("task_id") == result.id]
        texts = [line["message"] for line in lines]
        assert f"Task tasks.predict[{result.id}] received" in texts
        (succeeded,) = [line for line in lines if "succeeded" in line["message"]]
        assert (succeeded["session"], succeeded["program"]) == ("default", "logging")
        assert succeeded["token"]
        assert len([line for line in lines if line["logger"].startswith("tests.")]) == 6
        assert question not in worker.logs()
    finally:
        worker.container.kill()
        play.workers.remove(worker)


def test_a_failure_and_each_input_of_a_batch_have_lines_of_their_own(play: Stage) -> None:
    worker = play.start(pool="asyncio", concurrency=4)
    try:
        question = fresh("q")
        play.lm.fail(None, status=503, containing=question)
        failed = play.fleet.submit("qa", {"question": question}, session="session-1")
        with pytest.raises(LMUnavailableError):
            failed.get(PATIENCE_S)
        play.lm.faults.clear()
        batch = play.fleet.submit_batch("qa", [{"question": fresh("q")} for _ in range(3)], session="session-2")
        for each in batch:
            each.get(PATIENCE_S)
        ids = {failed.id, *(each.id for each in batch)}
        wait_until(lambda: ids <= {line["task_id"] for line in json_lines(worker) if line.get("outcome")}, "the ends")
        ends = {line["task_id"]: line for line in json_lines(worker) if line.get("outcome")}
        assert (ends[failed.id]["outcome"], ends[failed.id]["level"]) == ("failed", "WARNING")
        assert (ends[failed.id]["error_type"], ends[failed.id]["session"]) == ("LMUnavailableError", "session-1")
        assert {(ends[each.id]["outcome"], ends[each.id]["session"]) for each in batch} == {("ok", "session-2")}
        assert len({ends[each.id]["trace_id"] for each in batch}) == 3
    finally:
        worker.container.kill()
        play.workers.remove(worker)


def test_on_the_console_the_fields_stand_behind_the_message_and_the_setting_masks(play: Stage) -> None:
    settings = {"DSPEX_LOG": "console", "DSPEX_LOG_CONTENT": "true", "DSPEX_LOG_REDACT": r"session card\d+"}
    worker = play.start(pool="asyncio", concurrency=4, env={**settings, "OTEL_TRACES_EXPORTER": "none"})
    try:
        question = fresh("q")
        result = play.fleet.submit("logging", {"question": f"{question} card4711"}, session="session-3")
        token = result.get(PATIENCE_S).provenance.token
        fields = rf"\[task_id={result.id} session=\*\*\* token={re.escape(token)} program=logging\]"
        wait_until(lambda: re.search(rf"Prediction ok in .* tokens.* {fields}", worker.logs()), "the end's line")
        assert re.search(rf"WARNING/\S+\] the program ends {question} \*\*\* {fields}", worker.logs())
        assert "card4711" not in worker.logs()
    finally:
        worker.container.kill()
        play.workers.remove(worker)


def test_a_watchdog_logs_in_the_same_form(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"DSPEX_LOG": "json", "DSPEX_ALLOWED_PACKAGES": "tests", "DSPEX_LEASE_S": "1"}
    with stage(tmp_path, worker=False, **settings) as playing:
        playing.fleet.register("stalling", Stalling())
        worker = playing.start(pool="asyncio", concurrency=2)
        playing.fleet.submit("stalling", {"question": "sleep:3"})
        wait_until(
            lambda: [line for line in json_lines(worker) if line["process"] == "Watchdog"], "the stall to be logged"
        )
        (line, *_) = [line for line in json_lines(worker) if line["process"] == "Watchdog"]
        assert (line["logger"], line["level"]) == ("workers.watchdog.monitor", "ERROR")
        worker.container.kill()


def run(url: str, *command: str, **settings: str) -> subprocess.Popen[str]:
    env = {**os.environ, "DSPEX_REDIS_URL": url, **settings}
    return PreloadedPopen(
        [sys.executable, "-m", *command], cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_a_setting_that_is_no_regular_expression_is_named_at_the_start(redis_url: str) -> None:
    process = run(redis_url, "workers.worker_command", "--pool", "solo", DSPEX_LOG_REDACT="(")
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert "This worker can't start: " in errors
    assert "'(' isn't a regular expression" in errors


def test_refreshers_and_gateways_log_in_json_too(redis_url: str) -> None:
    with BridgeServer() as elixir:
        gateway = ("snakepit_bridge.cli", "gateway", "--grpc", "127.0.0.1:0", "--no-http", "--drain", "0")
        processes = [
            run(redis_url, *gateway, DSPEX_LOG="json"),
            run(redis_url, "workers.refresher", "--bridge", elixir.address, "--timeout-s", "0.3", DSPEX_LOG="json"),
        ]
        elixir.stop()
        for process, logger in zip(processes, ("workers.gateway.service", "workers.refresher.service"), strict=True):
            assert process.stderr is not None
            line = json.loads(process.stderr.readline())
            assert (line["logger"], line["process"]) == (logger, "MainProcess")
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=PATIENCE_S)

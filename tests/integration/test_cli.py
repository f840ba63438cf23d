"""The commands against a real server, a real worker and the recording LM, as an operator types them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from redis import Redis

from snakepit_bridge.cli import main
from snakepit_bridge.dspy_integration import unregister_target
from tests.conftest import wait_until
from tests.harness.preloaded import PreloadedPopen
from tests.harness.stage import LM_KEY, Stage, fresh, stage
from tests.harness.waiting import PATIENCE_S

ROOT = Path(__file__).parents[2]


class Said(NamedTuple):
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str


Run = Callable[..., Said]


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stage]:
    with stage(tmp_path_factory.mktemp("stage"), DSPEX_SUPERVISOR_GRACE_S="30") as play:
        yield play


@pytest.fixture
def run(play: Stage, capsys: pytest.CaptureFixture[str]) -> Run:
    def command(*arguments: str) -> Said:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["--redis-url", play.url, *arguments])
        out, err = capsys.readouterr()
        return Said(int(ended.value.code or 0), out, err)

    return command


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "asked.json"
    path.write_text(json.dumps({"module": "Predict", "signature": "question -> answer"}), encoding="utf-8")
    return path


def test_publish_shows_in_variables_and_in_the_next_predictions_request(play: Stage, run: Run, spec: Path) -> None:
    session, question = fresh("session"), fresh("question")
    assert run("register", str(spec), "--bind", "temperature=warmth").out == "registered asked:1\n"
    token = run("publish", session, "warmth=0.25", "style:string=7").out.strip()

    listed = json.loads(run("variables", session, "--json").out)
    assert listed["token"] == token
    assert listed["variables"]["warmth"] == {"type": "float", "value": 0.25, "constraints": {}}
    assert listed["variables"]["style"]["value"] == "7"
    table = run("variables", session).out
    assert "warmth" in table
    assert f"token: {token}" in table

    command = ("predict", "asked", f"question={question}", "-s", session, "--at-least", token)
    predicted = json.loads(run(*command, "--json").out)
    assert predicted["outputs"] == {"answer": f"answer of {question}"}
    assert predicted["provenance"]["token"] == token
    (request,) = [sent for sent in play.lm.requests if question in json.dumps(sent.body)]
    assert request.body["temperature"] == 0.25


def test_a_text_field_takes_a_number_as_text_and_an_int_field_as_a_number(play: Stage, run: Run, spec: Path) -> None:
    spec.write_text(json.dumps({"module": "Predict", "signature": "zip: str, count: int -> answer"}), encoding="utf-8")
    name = fresh("typed")
    assert run("register", str(spec), "--name", name).code == 0
    assert run("predict", name, "zip=01234", "count=3").out.startswith("answer: answer of 01234\n")
    wrong = run("predict", name, "zip=01234", "count=many")
    assert (wrong.code, wrong.out) == (1, "")
    assert "count" in wrong.err


def test_programs_lists_versions_and_labels(run: Run, spec: Path) -> None:
    name = fresh("listed")
    assert run("register", str(spec), "--name", name, "--label", "prod").out == f"registered {name}:1 as {name}@prod\n"
    assert run("register", str(spec), "--name", name).out == f"registered {name}:1\n", "unchanged, so the same version"
    assert run("register", str(spec), "--name", name, "--bind", "temperature=t").out == f"registered {name}:2\n"
    assert run("label", name, "prod", "2").out == f"{name}@prod is {name}:2\n"
    found = {program["name"]: program for program in json.loads(run("programs", "--json").out)}
    assert found[name] == {"name": name, "latest": 2, "labels": {"prod": 2}}
    assert name in run("programs").out


def test_a_module_is_registered_by_its_import_path(
    play: Stage, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = fresh("mine").replace("-", "_")
    code = "import dspy\n\nqa = dspy.Predict('question -> answer')\nmake = lambda: dspy.ChainOfThought('a -> b')\n"
    (tmp_path / f"{module}.py").write_text(code, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert run("register", f"{module}:qa").out == "registered qa:1\n"
    assert run("register", f"{module}.make").out == "registered make:1\n"
    refused = run("register", f"{module}.py")
    assert refused.code == 1
    assert f"name an object in it: {module}:object" in refused.err


def test_a_module_that_registers_a_target_is_imported_for_a_program_that_binds_it(
    run: Run, spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = fresh("targets").replace("-", "_")
    code = (
        "from snakepit_bridge.dspy_integration import register_target\n\n"
        "@register_target('cli_tone')\ndef set_tone(predictor, value):\n    predictor.tone = value\n"
    )
    (tmp_path / f"{module}.py").write_text(code, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    arguments = ("register", str(spec), "--name", fresh("toned"), "--bind", "cli_tone=tone")
    refused = run(*arguments)
    assert refused.code == 1
    assert "import the module that registers it" in refused.err
    assert "--import" in refused.err
    missing = run(*arguments, "--import", "nowhere_at_all")
    assert missing.code == 1
    assert "'nowhere_at_all' can't be imported here: ModuleNotFoundError" in missing.err
    try:
        assert run(*arguments, "--import", module).code == 0
    finally:
        unregister_target("cli_tone")


def test_replay_shows_a_prediction_beside_its_repetition(play: Stage, run: Run, spec: Path) -> None:
    session = fresh("session")
    name = fresh("replayed")
    run("register", str(spec), "--name", name, "--bind", "temperature=warmth")
    token = run("publish", session, "warmth=0.5").out.strip()
    first = json.loads(run("predict", name, "question=why?", "-s", session, "--json").out)["provenance"]
    run("publish", session, "warmth=0.75")

    both = json.loads(run("replay", first["task_id"], "--json").out)
    assert both["differences"] == []
    assert both["again"]["provenance"]["token"] == token
    assert both["again"]["provenance"]["variables"] == {"warmth": 0.5}
    assert both["again"]["provenance"]["task_id"] != first["task_id"]
    shown = run("replay", first["task_id"]).out
    assert "the answers are the same" in shown
    unknown = run("replay", "nobody-knows")
    assert unknown.code == 1
    assert "has no result to replay" in unknown.err


def test_status_shows_workers_queue_and_sessions(play: Stage, run: Run) -> None:
    session = fresh("session")
    token = run("publish", session, "a=1").out.strip()
    found = json.loads(run("status", "--json").out)
    assert [worker["name"] for worker in found["workers"]] == [play.worker.hostname()]
    assert found["queue"]["name"] == "predictions"
    assert found["sessions"][session]["token"] == token
    assert found["sessions"][session]["authority"] == "store"
    text = run("status").out
    assert token in text
    assert play.worker.hostname() in text


def test_status_counts_what_waits(play: Stage, run: Run) -> None:
    queue = fresh("queue")
    for priority in (0, 5, 9):
        run_on = type(play.fleet)(play.url, queue=queue)
        run_on.submit("asked", {"question": "?"}, priority=priority)
    found = json.loads(run("--queue", queue, "status", "--json").out)["queue"]
    assert found["waiting"] == 3
    assert found["by_priority"] == {"9": 1, "6 to 8": 0, "3 to 5": 1, "0 to 2": 1}
    with Redis.from_url(play.url) as client:
        client.delete(*client.keys(f"{queue}*"))


def test_doctor_names_what_is_missing_and_its_fix(run: Run) -> None:
    found = {check["what"]: check for check in json.loads(run("doctor", "--json").out)}
    assert found["Redis"]["level"] == "ok"
    assert found["workers"]["level"] == "ok"
    assert found["append-only file"]["level"] == "ok"
    assert found["celery"]["found"].startswith("5.7")
    unreachable = run("doctor", "--redis-url", "redis://127.0.0.1:1/0")
    assert unreachable.code == 1
    assert "1 failed: Redis" in unreachable.err


def test_doctor_asks_the_workers_and_not_the_shell(play: Stage, run: Run) -> None:
    """Their profiles, packages, queues and versions are told, whatever this shell's environment says."""
    answer = run("doctor", "--json")
    found = {check["what"]: check for check in json.loads(answer.out)}
    assert found["queue"] == {
        "what": "queue", "level": "ok", "found": "1 worker consumes 'predictions'", "fix": "",
    }  # fmt: skip
    assert found["LM profile demo"]["level"] == "ok"
    assert found["LM profile demo"]["found"].endswith(f"answers at {play.lm.url}")
    down = found["LM profile down"]
    assert down["level"] == "fail"
    assert "no answer (ConnectError)" in down["found"]
    assert (found["time to stop"]["level"], found["time to stop"]["found"][:12]) == ("warn", "30 s of 60 s")
    assert answer.code == 1
    assert "LM profile down" in answer.err
    assert LM_KEY not in answer.out + answer.err


def test_doctor_names_a_queue_that_no_worker_takes_from(run: Run) -> None:
    found = {check["what"]: check for check in json.loads(run("--queue", "nobodys", "doctor", "--json").out)}
    assert found["queue"]["level"] == "fail"
    assert "no worker consumes 'nobodys', only predictions" in found["queue"]["found"]


def test_doctor_makes_a_call_with_each_profile_if_it_is_told_to(play: Stage, run: Run) -> None:
    """The offer of one test call, by the way that an application's predictions go."""
    requests_before = len(play.lm.requests)
    found = {check["what"]: check for check in json.loads(run("doctor", "--call", "--json").out)}
    assert found["LM call demo"]["level"] == "ok"
    assert "openai/demo answered in" in found["LM call demo"]["found"]
    assert found["LM call locked"]["level"] == "fail"
    assert found["LM call locked"]["found"].startswith("LMRefusedError")
    assert found["LM call down"]["found"].startswith("LMUnavailableError")
    assert len(play.lm.requests) > requests_before
    assert run("doctor", "--json").code == 1
    assert len(play.lm.requests) - requests_before < 20, "without --call nothing is asked"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["predict", "nobody", "question=1"], "Program not found: nobody"),
        (["predict", "asked", "question=1", "-s", "nowhere"], "Session not found: nowhere"),
        (["predict", "asked", "question=1", "-s", "steady", "--exactly", "1.1"], "Session 'steady' no longer has 1.1"),
        (["predict", "asked", "wrong=1", "-s", "steady"], "question"),
        (["predict", "asked:99", "question=1"], "Program not found: asked:99"),
        (["publish", "steady", "warmth=hot"], "Variable 'warmth' can't be 'hot'"),
        (["publish", "steady", "new:colour=red"], "colour"),
        (["variables", "nowhere"], "Session not found: nowhere"),
        (["label", "asked", "prod", "99"], "Program not found: asked:99"),
    ],
)
def test_bad_input_is_one_line_that_names_it(
    play: Stage, run: Run, spec: Path, arguments: list[str], says: str
) -> None:
    run("register", str(spec), "--name", "asked", "--bind", "temperature=warmth")
    run("publish", "steady", "warmth=0.5")
    wrong = run(*arguments)
    assert wrong.code == 1
    assert wrong.out == ""
    assert wrong.err.startswith("dspex-fleet: ")
    assert wrong.err.count("\n") == 1
    assert says in wrong.err


def test_a_spec_that_names_code_outside_the_allow_list_is_refused(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "evil.json"
    path.write_text(json.dumps({"module": "os:system", "signature": "a -> b"}), encoding="utf-8")
    refused = run("register", str(path))
    assert refused.code == 1
    assert "os" in refused.err
    assert run("programs", "--json").out.find("evil") == -1


def test_the_worker_command_runs_a_worker_that_stops_on_sigterm(play: Stage, tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    queue = fresh("queue")
    command = [
        sys.executable,
        "-m",
        "snakepit_bridge.cli",
        "--queue",
        queue,
        "worker",
        "-c",
        "2",
        "-n",
        f"{queue}@here",
    ]
    env: dict[str, Any] = {**os.environ, **play.settings, "DSPEX_REDIS_URL": play.url}
    with log.open("wb") as written:
        worker = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=written, stderr=subprocess.STDOUT)
    try:
        wait_until(lambda: "ready." in log.read_text(encoding="utf-8"), "the worker to be ready", timeout_s=60)
        fleet = type(play.fleet)(play.url, queue=queue)
        play.fleet.register("over-there", {"module": "Predict", "signature": "question -> answer"})
        assert fleet.submit("over-there", {"question": "who?"}).get(PATIENCE_S).answer == "answer of who?"
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(PATIENCE_S) == 0, log.read_text(encoding="utf-8")
    finally:
        worker.kill()
        worker.wait()


@pytest.fixture
def revisions(run: Run) -> tuple[str, list[str]]:
    """A session with three revisions, and their tokens."""
    session = fresh("session")
    tokens = [run("publish", session, f"warmth={value}", "--reason", f"to {value}").out.strip() for value in (1, 2, 3)]
    return session, tokens


def test_history_lists_who_changed_what_when_and_why(run: Run, revisions: tuple[str, list[str]]) -> None:
    session, tokens = revisions
    run("mark", session, "stable", tokens[1])
    listed = json.loads(run("history", session, "--json").out)
    assert [revision["token"] for revision in listed] == tokens[::-1]
    assert [revision["reason"] for revision in listed] == ["to 3", "to 2", "to 1"]
    assert listed[0]["changed"] == {"warmth": [2, 3]}
    assert listed[2]["changed"] == {"warmth": [None, 1]}
    assert [revision["labels"] for revision in listed] == [[], ["stable"], []]
    assert "dspex-fleet" in listed[0]["author"]
    assert "warmth: 2 → 3" in run("history", session, "--limit", "1").out


def test_diff_shows_two_revisions_beside_each_other(run: Run, revisions: tuple[str, list[str]]) -> None:
    session, tokens = revisions
    assert json.loads(run("diff", session, tokens[0], tokens[1], "--json").out) == {"warmth": [1, 2]}
    assert json.loads(run("diff", session, tokens[0], "--json").out) == {"warmth": [1, 3]}
    assert "the same variables" in run("diff", session, tokens[2]).out
    assert "warmth" in run("diff", session, tokens[0]).out


def test_rollback_is_a_new_revision_with_an_old_state(run: Run, revisions: tuple[str, list[str]]) -> None:
    session, tokens = revisions
    token = run("rollback", session, tokens[0]).out.strip()
    assert token not in tokens
    assert json.loads(run("variables", session, "--json").out)["variables"]["warmth"]["value"] == 1
    lost = run("rollback", session, "1.1")
    assert lost.code == 1
    assert f"Session '{session}' no longer has 1.1" in lost.err


def test_a_label_names_a_revision_until_it_is_removed(run: Run, revisions: tuple[str, list[str]]) -> None:
    session, tokens = revisions
    assert run("mark", session, "stable", tokens[0]).out == f"stable of {session} is {tokens[0]}\n"
    assert json.loads(run("diff", session, "stable", "--json").out) == {"warmth": [1, 3]}
    run("mark", session, "stable", "--remove")
    unknown = run("diff", session, "stable")
    assert unknown.code == 1
    assert "stable" in unknown.err
    malformed = run("mark", session, "not a label")
    assert malformed.code == 1
    assert malformed.err.count("\n") == 1


def test_watch_prints_the_present_and_each_change(play: Stage, run: Run, revisions: tuple[str, list[str]]) -> None:
    session, tokens = revisions
    command = [sys.executable, "-m", "snakepit_bridge.cli", "--redis-url", play.url, "watch", session, "--count", "2"]
    with PreloadedPopen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as watching:
        assert watching.stdout is not None
        assert json.loads(watching.stdout.readline()) == {"token": tokens[2], "changed": {"warmth": [None, 3]}}
        token = run("publish", session, "warmth=4", "style=terse").out.strip()
        change = json.loads(watching.stdout.readline())
        assert change == {"token": token, "changed": {"warmth": [3, 4], "style": [None, "terse"]}}
        assert watching.wait(PATIENCE_S) == 0


def test_promote_moves_a_label_once_every_process_applies_the_revision(play: Stage, run: Run, spec: Path) -> None:
    session, name = fresh("session"), fresh("promoted")
    run("register", str(spec), "--name", name, "--bind", "temperature=warmth")
    good = run("publish", session, "warmth=0.5").out.strip()
    nobody = run("promote", session, "stable", "--wait", "0.2")
    assert nobody.code == 1
    assert "no worker process holds the session" in nobody.err

    assert run("predict", name, "question=why?", "-s", session, "--at-least", good).code == 0
    assert run("promote", session, "stable", good).out == f"stable of {session} is {good}\n"
    refused = run("publish", session, "warmth=-3.0").out.strip()
    answer = run("promote", session, "stable", refused)
    assert answer.code == 1
    assert f"{name}:1" in answer.err
    assert json.loads(run("diff", session, "stable", good, "--json").out) == {}

    shown = json.loads(run("status", "--json").out)["sessions"][session]["applied"]
    assert [process["token"] for process in shown] == [refused]
    assert "warmth" in shown[0]["error"]
    assert "warmth" in run("status").out


def test_a_prediction_takes_its_terms_from_the_command_line(run: Run, spec: Path) -> None:
    name = fresh("terms")
    run("register", str(spec), "--name", name)
    predicted = json.loads(
        run("predict", name, "question=?", "--max-staleness", "30", "--outage", "serve_stale(60)", "--json").out
    )
    assert predicted["provenance"]["outage"] is False
    wrong = run("predict", name, "question=?", "--outage", "shrug")
    assert wrong.code == 1
    assert "fail or serve_stale(SECONDS)" in wrong.err

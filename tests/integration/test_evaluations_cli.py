"""Evaluations and gates from a shell, against a real server, a real worker and the recording LM."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from pathlib import Path

import dspy
import pytest

from snakepit_bridge.cli import main
from tests.harness.stage import Stage, fresh, stage

METRIC = "tests.harness.metrics:exact"

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stage]:
    with stage(tmp_path_factory.mktemp("stage"), DSPEX_ALLOWED_PACKAGES="tests") as play:
        play.fleet.register("plain", dspy.Predict("question -> answer"))
        play.fleet.register("warm", dspy.Predict("question -> answer"), bindings={"temperature": "warmth"})
        yield play


@pytest.fixture
def run(play: Stage, capsys: pytest.CaptureFixture[str]) -> Run:
    def command(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["--redis-url", play.url, *arguments])
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return command


@pytest.fixture(scope="module")
def dataset(play: Stage) -> str:
    """Four questions, of which the echoing LM answers three as expected."""
    name = fresh("golden")
    rows = [{"question": f"{name}-{n}.", "answer": f"answer of {name}-{n}." if n else "42"} for n in range(4)]
    play.fleet.datasets.add(name, rows, inputs=["question"])
    return name


def test_arms_are_shown_side_by_side_with_a_report_and_come_from_their_records(
    play: Stage, run: Run, dataset: str, tmp_path: Path
) -> None:
    program, report = fresh("qa"), tmp_path / "report.html"
    play.fleet.register(program, dspy.Predict("question -> answer"))
    play.fleet.label(program, "prod", 1)
    play.fleet.register(program, dspy.ChainOfThought("question -> answer"))
    arms = ("--arm", "prod", "--arm", "latest")
    command = ("evaluate", program, "--dataset", dataset, "--metric", METRIC, *arms)
    code, out, err = run(*command, "--html", str(report))
    assert (code, err) == (0, "")
    assert "75" in out
    assert "no clear difference" in out
    assert report.read_text(encoding="utf-8").startswith("<!doctype html>")
    before = len(play.lm.requests)
    found = json.loads(run(*command, "--json")[1])
    assert len(play.lm.requests) == before
    assert [arm["score"] for arm in found["arms"].values()] == [75.0, 75.0]
    assert found["comparisons"][0]["difference"] == 0
    ids = [arm["id"] for arm in found["arms"].values()]
    assert {record["id"] for record in json.loads(run("evaluations", "list", "--json")[1])} >= set(ids)
    assert ids[0][:12] in run("evaluations", "list")[1]
    shown = json.loads(run("evaluations", "show", ids[0][:8], "--json")[1])
    assert (shown["id"], len(shown["examples"])) == (ids[0], 4)
    assert f"{dataset}-0." in run("evaluations", "show", ids[0], "--html", str(report))[1]
    compared = json.loads(run("evaluations", "compare", *ids, "--json")[1])
    assert (compared["verdict"], compared["flipped"]) == ("no clear difference", [])
    assert run("evaluations", "compare", *ids, "--html", str(report))[0] == 0
    assert run("evaluations", "show", "0" * 32)[0] == 1


def test_a_requirement_that_is_not_met_is_exit_code_1_with_the_table(play: Stage, run: Run, dataset: str) -> None:
    program = fresh("qa")
    play.fleet.register(program, dspy.Predict("question -> answer"))
    command = ("evaluate", program, "--dataset", dataset, "--metric", METRIC)
    code, out, _ = run(*command, "--require", f"exact({dataset}) >= 0.7", "--require", f"exact({dataset}) >= 0.8")
    assert code == 1
    assert [line.split()[-1] for line in out.splitlines() if f"exact({dataset})" in line] == ["passed", "failed"]
    gates = json.loads(run(*command, "--require", f"exact({dataset}) >= 0.7", "--json")[1])["gates"]
    assert [gate["passed"] for gate in gates] == [True]
    code, _, err = run(*command, "--require", "exact is good")
    assert (code, "Write it as" in err) == (1, True)


def test_a_label_moves_to_a_version_that_meets_its_requirements(play: Stage, run: Run, dataset: str) -> None:
    program = fresh("qa")
    for signature in ("question -> answer", "question -> answer: int"):
        play.fleet.register(program, dspy.Predict(signature))
    require = ("--require", f"exact({dataset}) >= baseline - 0.02", "--metric", METRIC)
    assert run("label", program, "prod", "1")[0] == 0
    code, out, _ = run("label", program, "prod", "2", *require)
    assert code == 1
    assert f"{program}@prod stays" in out
    assert play.fleet.programs()
    assert {each.name: each.labels for each in play.fleet.programs()}[program] == {"prod": 1}
    assert run("label", program, "prod", "1", *require)[:2][0] == 0
    code, _, err = run("label", program, "fresh", "1", *require)
    assert (code, "there is no baseline" in err) == (1, True)


def test_a_session_is_promoted_once_its_requirements_are_met(play: Stage, run: Run, dataset: str) -> None:
    session = fresh("session")
    token = play.fleet.session(session).blocking.set_variables({"warmth": 0.1})
    play.fleet.submit("warm", {"question": "?"}, session=session, at_least=token).get()
    command = ("promote", session, "stable", "latest", "--metric", METRIC)
    gate = f"exact({dataset}) > 0.75"
    assert run(*command, "--require", gate)[0] == 1
    code, out, _ = run(*command, "--require", gate, "--program", "warm")
    assert (code, "stable of" in out) == (1, True)
    assert run(*command, "--require", gate.replace(">", ">="), "--program", "warm")[0] == 0
    assert run(*command, "--require", f"exact({dataset}) >= baseline", "--program", "warm")[0] == 0


def test_a_rollout_starts_once_its_candidate_meets_its_requirements(play: Stage, run: Run, dataset: str) -> None:
    session = fresh("session")
    blocking = play.fleet.session(session).blocking
    blocking.set_variables({"warmth": 0.1})
    before = blocking.snapshot().token
    start = ("rollout", "start", session, "warmth=0.3", "--program", "warm", "--metric", METRIC)
    code, out, _ = run(*start, "--require", f"exact({dataset}) > baseline")
    assert (code, "no rollout was started" in out) == (1, True)
    assert blocking.snapshot().token == before
    temperatures = [request.body.get("temperature") for request in play.requests_with(f"{dataset}-0.")]
    assert {0.1, 0.3} <= set(temperatures)
    code, out, _ = run(*start, "--require", f"exact({dataset}) >= baseline")
    assert (code, "the baseline is" in out) == (0, True)
    program = fresh("qa")
    for signature in ("question -> answer", "question -> answer: int"):
        play.fleet.register(program, dspy.Predict(signature))
    play.fleet.label(program, "prod", 1)
    gate = ("--require", f"exact({dataset}) >= baseline", "--metric", METRIC)
    assert run("rollout", "start", f"{program}@prod", "2", *gate)[0] == 1
    assert run("rollout", "start", f"{program}@prod", "2")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("nobody", "--dataset", "DATASET", "--metric", METRIC), "nobody"),
        (("plain", "--dataset", "missing", "--metric", METRIC), "missing"),
        (("plain", "--dataset", "DATASET", "--metric", "os:getcwd"), "allowed package"),
        (("plain", "--dataset", "DATASET", "--metric", "program:nobody"), "inputs map each field"),
        (("plain", "--dataset", "DATASET", "--metric", METRIC, "--arm", "stable"), "no revision of session"),
    ],
)
def test_what_can_not_be_evaluated_is_one_line(
    run: Run, dataset: str, arguments: tuple[str, ...], problem: str
) -> None:
    code, out, err = run("evaluate", *(dataset if argument == "DATASET" else argument for argument in arguments))
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert problem in err


def test_a_detached_evaluation_is_a_job_that_is_listed_watched_and_cancelled(
    play: Stage, run: Run, dataset: str, tmp_path: Path
) -> None:
    command = ("evaluate", "plain", "--dataset", dataset, "--metric", METRIC, "--detach")
    code, out, _ = run(*command)
    job = out.split()[0]
    assert (code, f"dspex-fleet jobs watch {job}" in out) == (0, True)
    assert run("jobs", "show", job)[1].startswith(f"{job}: evaluation of plain under default, queued")
    assert job in run("jobs", "list")[1]
    assert run("jobs", "cancel", job)[1] == f"{job}: cancelled\n"
    assert json.loads(run("jobs", "list", "--json")[1])[0]["state"] == "cancelled"
    play.start(pool="prefork", concurrency=1, queues=("predictions.code",), name=fresh("code"))
    code, out, err = run("jobs", "watch", json.loads(run(*command, "--json")[1])["id"])
    assert (code, "75" in out, "4 of 4 examples, mean 0.75" in err) == (0, True, True)
    options = ("--dataset", dataset, "--metric", METRIC, "--max-predictions", "3", "--detach")
    job = run("optimize", "plain", *options, "--optimizer", "BootstrapFewShot")[1].split()[0]
    code, out, err = run("jobs", "watch", job)
    assert (code, "it ended early: 3 predictions were made" in out, "trials" in err) == (0, True, True)
    assert run("jobs", "show", job)[1].splitlines()[-1] == out.splitlines()[-1]
    assert run("jobs", "show", job, "--html", str(tmp_path / "report.html"))[0] == 0
    assert "Score of each trial" in (tmp_path / "report.html").read_text(encoding="utf-8")
    failed = run("optimize", "plain", *options, "--optimizer", "no:Where")[1].split()[0]
    code, out, _ = run("jobs", "watch", failed)
    assert (code, "OptimizationError" in out) == (1, True)
    assert run(*command, "--require", "exact(x) > 1")[0] == 1
    assert "leave out one of --detach and --publish" in run("optimize", "plain", *options, "--publish")[2].lower()


def test_what_an_optimizer_found_is_published_to_the_session_of_its_run(play: Stage, run: Run, dataset: str) -> None:
    program, session = fresh("bound"), fresh("session")
    play.fleet.register(program, dspy.Predict("question -> answer"), bindings={"demos": "shots"})
    variables = play.fleet.session(session).blocking
    variables.set_variables({"shots": "[]"})
    options = ("--dataset", dataset, "--metric", METRIC, "--optimizer", "BootstrapFewShot", "--publish")
    code, out, _ = run("optimize", program, *options, "--session", session)
    assert code == 0
    assert out.endswith(f"published to {session}: {variables.snapshot().token}\n")
    shots = json.loads(variables.get_variable("shots"))
    assert sorted(shot["answer"] == "42" for shot in shots) == [False, False, False, True]  # the last as it is labelled
    unbound = fresh("unbound")
    play.fleet.register(unbound, dspy.Predict("question -> answer"))
    code, out, err = run("optimize", unbound, *options, "--json")
    assert (code, json.loads(out)["program"]) == (1, f"{unbound}:1")
    assert "more than variables hold" in err

"""Judges: a sampled share of the predictions is scored once each, within a budget, whatever becomes of the workers."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import dspy
import pytest
from redis import Redis

from snakepit_bridge.cli import main
from snakepit_bridge.client import Fleet, Handle
from snakepit_bridge.client.judges import JudgeReport
from snakepit_bridge.exceptions import JudgeError, ProgramNotFoundError, ScoreError
from snakepit_bridge.process.home_loop import run_blocking
from snakepit_bridge.releases.judge_budget import HOUR_S
from snakepit_bridge.releases.judges import JUDGES_SESSION, Judge
from snakepit_bridge.testing import AskedQuestion
from tests.harness.containers import local_redis
from tests.harness.programs import IsShort
from tests.harness.stage import Stage, echo, fresh, stage
from tests.harness.waiting import wait_until

JUDGING = "question, answer -> score: float, reason"
INPUTS = {"question": "inputs.question", "answer": "outputs.answer"}


def answer(ask: AskedQuestion) -> Mapping[str, Any]:
    """Answer a judge with a score: 7 to questions about seven, which is none."""
    if any(output.name == "score" for output in ask.layout.outputs):
        return {"score": 7.0 if "seven" in ask.inputs["question"] else 0.75, "reason": "it repeats the question"}
    return echo(ask)


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stage]:
    with stage(
        tmp_path_factory.mktemp("judges"), answer=answer, DSPEX_PAYLOAD_BYTES="2000", DSPEX_ALLOWED_PACKAGES="tests"
    ) as playing:
        playing.fleet.register("judge", dspy.Predict(JUDGING))
        yield playing


@pytest.fixture
def program(play: Stage) -> str:
    """A program whose predictions are to be judged."""
    name = fresh("qa")
    play.fleet.register(name, dspy.Predict("question -> answer"))
    return name


def add(play: Stage, judged: str, **changes: Any) -> None:
    """Have all predictions of a program judged, once the worker knows of it."""
    usual = {"program": "judge", "share": 1.0, "comment": "reason", "usd_per_hour": 1_000.0, "concurrency": 100}
    options: dict[str, Any] = {**usual, **changes}
    play.fleet.judges.add(judged, name="helpful", inputs=INPUTS, **options)
    wait_until(lambda: is_judged(play, judged), "the judge to be known")


def is_judged(play: Stage, program: str) -> bool:
    ask(play, program).get()
    return any(count(report(play, program)))


def count(found: JudgeReport) -> tuple[int, int, int, int]:
    hour = found.hour
    return hour.judged, hour.unaffordable, hour.unattended, hour.open


def ask(play: Stage, program: str, question: str = "") -> Handle:
    return play.fleet.submit(program, {"question": question or fresh("q")})


def report(play: Stage, program: str) -> JudgeReport:
    [found] = [each for each in play.fleet.judges.list().judges if each.judge.judged == program]
    return found


def scores(play: Stage, handle: Handle) -> list[tuple[Any, ...]]:
    return [(score.name, score.value, score.comment, score.scorer) for score in handle.scores()]


def find_judging(play: Stage, program: str, handle: Handle) -> Handle:
    """Return the prediction that judges another one."""
    judge = report(play, program).judge
    return play.fleet.handle(str(uuid5(NAMESPACE_URL, f"dspex/{judge.variable}/{handle.id}")))


def await_settled(play: Stage, program: str) -> JudgeReport:
    """Return what a judge did, once nothing of it waits or runs."""
    wait_until(lambda: not report(play, program).hour.open, "the judging to end")
    return report(play, program)


SCORED = [("helpful", 0.75, "it repeats the question", "judge")]


def test_each_prediction_of_the_sample_is_scored_once(play: Stage, program: str) -> None:
    add(play, program)
    questions = [fresh("q") for _ in range(5)]
    handles = [ask(play, program, question) for question in questions]
    handles += play.fleet.submit_batch(program, [{"question": fresh("b")} for _ in range(5)])
    for handle in handles:
        handle.get()
        wait_until(lambda handle=handle: scores(play, handle) == SCORED, "the score")
    for question in questions:
        [_, judging] = play.requests_with(question)
        assert f"answer of {question}" in str(judging.body["messages"][-1])


def test_a_judge_runs_under_its_own_session_and_is_not_judged(play: Stage, program: str) -> None:
    judge = fresh("judge")
    play.fleet.register(judge, dspy.Predict("question, answer -> score: float"), bindings={"temperature": "strictness"})
    play.fleet.session(JUDGES_SESSION).blocking.set_variable("strictness", 0.125)
    of_inputs = {"question": "inputs.question", "answer": "inputs.answer"}
    play.fleet.judges.add(judge, name="strict", program="judge", inputs=of_inputs, share=1.0)
    add(play, program, program=judge, comment="")
    handle = ask(play, program, question := fresh("q"))
    handle.get()
    wait_until(lambda: scores(play, handle) == [("helpful", 0.75, "", "judge")], "the score")
    [_, judging] = play.requests_with(question)
    assert judging.body["temperature"] == 0.125
    assert await_settled(play, program).hour.judged
    assert count(report(play, judge)) == (0, 0, 0, 0)


def test_a_function_judges_as_a_module_of_ones_own(play: Stage, program: str) -> None:
    play.fleet.register("short", IsShort())
    play.fleet.judges.add(program, name="short", program="short", inputs={"answer": "outputs.answer"}, share=1.0)
    wait_until(lambda: is_judged(play, program), "the judge to be known")
    short, long = ask(play, program), ask(play, program, "x" * 200)
    for handle, value in ((short, True), (long, False)):
        handle.get()
        wait_until(lambda handle=handle: bool(handle.scores()), "the score")
        assert scores(play, handle) == [("short", value, "", "judge")]
    assert await_settled(play, program).hour.cost_usd == 0


def test_scores_count_for_the_arms_of_the_judged_predictions(play: Stage, program: str) -> None:
    add(play, program)
    session = fresh("staged")
    play.fleet.session(session).blocking.set_variables({"t": 0.1})
    policy = {"stages": [{"share": 0.5, "min_s": 3_600}]}
    rollout = play.fleet.rollouts.start(session, {"t": 0.2}, policy=policy).id
    wait_until(lambda: play.fleet.rollouts.show(session).record.stage, "the first stage")
    arms = Counter[str]()

    def ask_some() -> bool:
        handle = play.fleet.submit(program, {"question": fresh("q")}, session=session)
        arms[handle.get().provenance.arm] += 1
        wait_until(lambda: scores(play, handle) == SCORED, "the score")
        return min(arms["baseline"], arms["candidate"]) > 2

    wait_until(ask_some, "predictions of both arms")
    with Redis.from_url(play.url, decode_responses=True) as redis:
        for arm in ("baseline", "candidate"):
            minutes = redis.scan_iter(f"dspex:{{r:{rollout}}}:counts:*:{arm}:*")
            assert sum(int(str(redis.hget(minute, "s:helpful:n") or 0)) for minute in minutes) == arms[arm]
    play.fleet.rollouts.abort(session, author="test", reason="seen")


def test_large_fields_are_judged(play: Stage, program: str) -> None:
    add(play, program)
    handle = ask(play, program, question := fresh("q") + "x" * 5_000)
    handle.get()
    wait_until(lambda: scores(play, handle) == SCORED, "the score")
    assert len(play.requests_with(question)) == 2


def test_what_is_no_score_fails_the_judging_alone(
    play: Stage, program: str, capsys: pytest.CaptureFixture[str]
) -> None:
    add(play, program)
    before = await_settled(play, program).hour
    handle = ask(play, program, f"seven? {fresh('q')}")
    handle.get()
    wait_until(lambda: report(play, program).hour.failed == before.failed + 1, "the judging to fail")
    assert handle.scores() == []
    with pytest.raises(ScoreError, match=r"The score's value is refused: a number is from 0 to 1; got 7\.0") as failed:
        find_judging(play, program, handle).get()
    assert report(play, program).hour.problem == f"ScoreError: {failed.value}"
    _, table, _ = run_command(play, capsys, "list")
    assert f"last problem of {program}.helpful: ScoreError: The score's value is refused" in table


def test_a_field_that_the_prediction_lacks_costs_its_judging_alone(play: Stage, program: str) -> None:
    # An earlier version of the program had the field, or somebody has published the judge without looking.
    odd = Judge(program, "odd", "judge", {"answer": "outputs.nothing"}, share=1.0)
    play.fleet.session(JUDGES_SESSION).blocking.set_variable(odd.variable, odd.encode())

    def is_logged() -> bool:
        assert ask(play, program).get().answer
        return f"'{program}.odd' can't be used: the prediction has no outputs.nothing" in play.worker.container.logs()

    wait_until(is_logged, "the worker to say so")
    found = report(play, program)
    assert count(found) == (0, 0, 0, 0)
    assert "the prediction has no outputs.nothing" in found.hour.problem


def test_a_judging_that_is_cancelled_gives_its_place_back(play: Stage, program: str) -> None:
    add(play, program)
    before = await_settled(play, program).hour
    play.lm.hang(1, containing=f"answer of {(question := fresh('slow'))}")
    handle = ask(play, program, question)
    handle.get()
    wait_until(lambda: len(play.requests_with(question)) == 2, "the judge to be asked")
    assert find_judging(play, program, handle).cancel()
    found = await_settled(play, program).hour
    assert (found.judged, found.failed) == (before.judged + 1, before.failed + 1)
    assert handle.scores() == []


def test_a_sample_is_a_share_of_the_predictions(play: Stage, program: str) -> None:
    add(play, program, share=0.5)
    judge = report(play, program).judge
    handles = play.fleet.submit_batch(program, [{"question": fresh("q")} for _ in range(60)])
    for handle in handles:
        handle.get()
    covered = [handle for handle in handles if judge.covers(handle.id)]
    assert 10 < len(covered) < 50
    for handle in covered:
        wait_until(lambda handle=handle: scores(play, handle) == SCORED, "the score")
    await_settled(play, program)
    assert [handle for handle in handles if handle.scores()] == covered


def within_an_hour(play: Stage, test: Any) -> None:
    """Run a test of a budget again if the hour, and so the budget, ended meanwhile."""
    for _ in range(2):
        name, hour = fresh("qa"), int(time.time()) // HOUR_S
        play.fleet.register(name, dspy.Predict("question -> answer"))
        try:
            test(name)
        except AssertionError:
            if int(time.time()) // HOUR_S == hour:
                raise
        else:
            return


def test_a_judge_whose_money_is_spent_judges_no_further_and_says_so(play: Stage) -> None:
    def test(program: str) -> None:
        add(play, program, usd_per_hour=0.3)
        spent = await_settled(play, program).hour
        assert (spent.judged, 0.05 < spent.cost_usd < 0.3) == (1, True)
        handles = [ask(play, program) for _ in range(4)]
        for handle in handles:
            handle.get()
        found = report(play, program).hour
        assert (found.judged, found.unaffordable, found.open) == (1, spent.unaffordable + 4, 0)
        assert [handle.scores() for handle in handles] == [[]] * 4
        log = play.worker.container.logs()
        assert log.count(f"Judge '{program}.helpful' has spent the 0.3 USD of this hour") == 1

    within_an_hour(play, test)


def test_as_many_as_it_may_wait_or_run(play: Stage) -> None:
    def test(program: str) -> None:
        add(play, program, concurrency=1)
        before = await_settled(play, program).hour
        slow = fresh("slow")
        play.lm.hang(1, containing=f"answer of {slow}")
        judged = ask(play, program, slow)
        judged.get()
        wait_until(lambda: len(play.requests_with(slow)) == 2, "the judge to be asked")
        others = [ask(play, program) for _ in range(3)]
        for handle in others:
            handle.get()
        found = report(play, program).hour
        assert (found.unattended, found.open) == (before.unattended + 3, 1)
        assert [handle.scores() for handle in [judged, *others]] == [[]] * 4
        assert find_judging(play, program, judged).cancel()

    within_an_hour(play, test)


def test_a_judge_is_removed(play: Stage, program: str) -> None:
    add(play, program)
    play.fleet.judges.remove(program, "helpful", author="jo")
    assert program not in {each.judge.judged for each in play.fleet.judges.list().judges}
    with pytest.raises(JudgeError, match="there is none of this program and name"):
        play.fleet.judges.remove(program, "helpful")
    [newest, *_] = run_blocking(play.fleet.store.history(JUDGES_SESSION, 1))
    assert (newest.author, list(newest.before)) == ("jo", [f"dspex.judge.{program}.helpful"])


def run_command(play: Stage, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[Any, str, str]:
    """Return the exit code and the output of a command."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["--redis-url", play.url, "judge", *arguments])
    printed = capsys.readouterr()
    return ended.value.code, printed.out, printed.err


def test_the_command_adds_lists_and_removes(play: Stage, program: str, capsys: pytest.CaptureFixture[str]) -> None:
    inputs = ("--input", "question=inputs.question", "--input", "answer=outputs.answer")
    options = ("--name", "polite", "--program", "judge", "--comment", "reason", "--share", "1", "--usd-per-hour", "9")
    assert run_command(play, capsys, "add", program, *options, *inputs) == (
        0,
        f"judge polite of {program} was added\n",
        "",
    )
    wait_until(lambda: is_judged(play, program), "the judge to be known")
    await_settled(play, program)
    code, table, _ = run_command(play, capsys, "list")
    [line] = [line for line in table.splitlines() if program in line]
    assert (code, line.split()[:6]) == (0, [program, "polite", "judge", "1.0", "9.0", "1"])
    code, printed, _ = run_command(play, capsys, "list", "--json")
    [found] = [judge for judge in json.loads(printed)["judges"] if judge["judged"] == program]
    assert (code, found["inputs"], found["hour"]["judged"], found["hour"]["open"]) == (0, INPUTS, 1, 0)
    assert run_command(play, capsys, "remove", program, "polite") == (0, f"judge polite of {program} was removed\n", "")
    code, _, message = run_command(play, capsys, "remove", program, "polite")
    assert (code, "there is none of this program and name" in message) == (1, True)
    code, _, message = run_command(play, capsys, "add", program, *options, "--input", "question=question")
    assert (code, "inputs map each field to 'inputs.FIELD'" in message) == (1, True), message


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"name": "no name"}, "the name is a letter"),
        ({"inputs": {}}, "inputs map each field"),
        ({"inputs": {"question": "question"}}, "inputs map each field"),
        (
            {"inputs": {"query": "inputs.question"}},
            "'judge' has no field query; it has answer, question, reason, score",
        ),
        ({"inputs": {"question": "inputs.query"}}, r"has no inputs\.query; it has inputs\.question"),
        ({"inputs": {"answer": "outputs.reply"}}, r"has no outputs\.reply; it has outputs\.answer"),
        ({"output": "grade"}, "'judge' has no field grade"),
        ({"comment": "because"}, "'judge' has no field because"),
        ({"share": 0}, "the share is above 0"),
        ({"share": 1.5}, "A share is a number from 0 to 1"),
        ({"usd_per_hour": 0}, "usd_per_hour is a number above 0"),
        ({"usd_per_hour": float("nan")}, "usd_per_hour is a number above 0"),
        ({"concurrency": 0}, "concurrency is 1 to"),
    ],
)
def test_what_is_no_judge_is_refused_by_name(
    play: Stage, program: str, change: Mapping[str, Any], problem: str
) -> None:
    given: dict[str, Any] = {"name": "helpful", "program": "judge", "inputs": INPUTS, **change}
    with pytest.raises(JudgeError, match=problem):
        play.fleet.judges.add(program, **given)
    assert program not in {each.judge.judged for each in play.fleet.judges.list().judges}


def test_a_judge_of_unknown_programs_is_refused(play: Stage, program: str) -> None:
    for judged, judge in (("nobody", "judge"), (program, "nobody")):
        with pytest.raises(ProgramNotFoundError, match="nobody"):
            play.fleet.judges.add(judged, name="helpful", program=judge, inputs=INPUTS)
    with pytest.raises(JudgeError, match=f"not to a label or a version; name '{program}'"):
        play.fleet.judges.add(f"{program}@prod", name="helpful", program="judge", inputs=INPUTS)


def test_with_another_broker_each_prediction_is_scored_once_too(tmp_path: Path) -> None:
    with local_redis() as broker, local_redis() as redis:
        url, broker_url = (each.celeryconfig["host_url"] for each in (redis, broker))
        app = Fleet(url, broker_url=broker_url).app
        with stage(tmp_path, url=url, app=app, answer=answer, DSPEX_BROKER_URL=broker_url) as play:
            for name, signature in (("qa", "question -> answer"), ("judge", JUDGING)):
                play.fleet.register(name, dspy.Predict(signature))
            add(play, "qa")
            before = await_settled(play, "qa").hour
            handles = [ask(play, "qa") for _ in range(10)]
            for handle in handles:
                handle.get()
                wait_until(lambda handle=handle: scores(play, handle) == SCORED, "the score")
            found = await_settled(play, "qa").hour
            assert (found.judged, found.failed) == (before.judged + 10, before.failed)


def test_a_score_arrives_once_though_workers_die_in_between(tmp_path: Path) -> None:
    with stage(tmp_path, answer=answer, worker=False) as play:
        worker = play.start()
        for name, signature in (("qa", "question -> answer"), ("judge", JUDGING)):
            play.fleet.register(name, dspy.Predict(signature))
        add(play, "qa", concurrency=100)
        await_settled(play, "qa")
        question = fresh("q")
        play.lm.hang(1, containing=f"answer of {question}")
        handle = ask(play, "qa", question)
        handle.get()
        wait_until(lambda: len(play.requests_with(question)) == 2, "the judge to be asked")
        assert handle.scores() == []
        worker.container.kill()
        play.lm.faults.clear()
        before = len(play.lm.requests)
        play.start()
        wait_until(lambda: scores(play, handle) == SCORED, "the score")
        await_settled(play, "qa")
        assert len(play.lm.requests) == before + 1
        assert scores(play, handle) == SCORED

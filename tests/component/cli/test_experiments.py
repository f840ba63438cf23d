"""``dspex-fleet experiment``: what each command prints, and what it refuses."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from snakepit_bridge.cli import main, output
from snakepit_bridge.client import Fleet
from snakepit_bridge.process.home_loop import run_blocking
from snakepit_bridge.programs.spec import ProgramSpec
from snakepit_bridge.redis.key_names import FleetKeys
from snakepit_bridge.releases.counts import MINUTE_S

Run = Callable[..., str]
pytestmark = pytest.mark.keeps_keys(r"dspex:\{s:.*\}:experiments")
ARMS = ("--arm", "cold=stable:0.25", "--arm", "warm=latest:0.75")


@pytest.fixture
def fleet(redis_url: str) -> Generator[Fleet]:
    fleet = Fleet(redis_url)
    session = fleet.session("demo").blocking
    session.set_variables({"warmth": 0.25})
    session.label("stable")
    session.set_variables({"warmth": 0.75})
    yield fleet
    run_blocking(fleet.store.aclose())
    run_blocking(fleet.connection.aclose())


@pytest.fixture
def run(redis_url: str, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command and return what it prints, with its exit code if it fails."""

    def run(*arguments: str) -> str:
        with pytest.raises(SystemExit) as ended:
            main(["--redis-url", redis_url, "experiment", *arguments])
        captured = capsys.readouterr()
        return captured.out if not ended.value.code else f"{ended.value.code} {captured.err}"

    return run


def count(fleet: Fleet, arm: str, fields: dict[str, int]) -> None:
    """Count what a commit counts, in this minute."""
    [experiment] = fleet.experiments.list("demo")
    key = FleetKeys().arm_counts(experiment.id, 0, arm, int(time.time()) // MINUTE_S)
    commands = [("HINCRBY", key, name, value) for name, value in fields.items()]
    run_blocking(fleet.connection.send_each([*commands, ("EXPIRE", key, 60)]))


def squeeze(text: str) -> list[str]:
    """Return the lines with single spaces."""
    return [re.sub(r" +", " ", line).strip() for line in text.splitlines()]


def test_start_resolves_the_revisions_and_says_who_gets_what(fleet: Fleet, run: Run) -> None:
    tokens = [str(run_blocking(fleet.store.resolve("demo", at))) for at in ("stable", "latest")]
    printed = run("start", "demo", "tone", *ARMS, "--share", "0.2", "--from", "0.1", "--reason", "which")
    assert printed == (f"experiment tone on session:demo: cold (25 %) gets {tokens[0]}, warm (75 %) gets {tokens[1]}\n")
    [started] = fleet.experiments.list("demo")
    assert (started.from_share, started.to_share) == (100_000, 300_000)
    assert [arm.revision for arm in started.arms] == tokens
    [event] = fleet.experiments.events("demo")
    assert event.reason == "which"
    assert event.author


@pytest.mark.parametrize("from_file", [False, True])
def test_a_segment_is_text_or_a_file(fleet: Fleet, run: Run, tmp_path: Path, from_file: bool) -> None:
    segment = {"properties": {"plan": {"const": "pro"}}}
    path = tmp_path / "segment.json"
    path.write_text(json.dumps(segment), encoding="utf-8")
    run("start", "demo", "tone", *ARMS, "--segment", f"@{path}" if from_file else path.read_text())
    [started] = fleet.experiments.list("demo")
    assert started.segment == segment
    assert '100 %, if {"properties": {"plan": {"const": "pro"}}}' in run("list", "demo")


def test_show_draws_the_arms_side_by_side(fleet: Fleet, run: Run) -> None:
    run("start", "demo", "tone", *ARMS, "--reason", "which")
    assert "no values" not in run("show", "demo", "tone"), "there is nothing to draw yet"
    count(fleet, "cold", {"n": 1_000, "e:InputError": 10, "lat:138": 990, "pico": 5 * 10**9})
    count(fleet, "warm", {"n": 400, "e:LMError": 40, "lat:173": 360, "s:helpful:n": 4, "s:helpful:m": 3_000_000})
    lines = squeeze(run("show", "demo", "tone"))
    assert lines[0] == "session:demo tone running requests: 100 %"
    assert "cold warm" in lines
    assert "weight 25 % 75 %" in lines
    assert "predictions 1,000 400" in lines
    assert "errors 10 (1 %) 40 (10 %)" in lines
    assert "LMError 0 40" in lines
    assert "latency p95 245 ms 993 ms" in lines
    assert "cost per prediction $0.000005 -" in lines
    assert "score helpful - 0.75 of 4" in lines
    bars = [line for line in lines if "●" in line]
    assert [bar.split()[0] for bar in bars] == ["cold", "warm", "cold", "warm", "warm", "├──●──┤"]
    assert re.fullmatch(r"cold ├─*●─*┤ 1 % \(0\.\d+ % to \d\.\d+ %\) of 1,000", bars[0])
    assert lines[-1].endswith(": which")


def test_show_as_json_has_the_numbers(fleet: Fleet, run: Run) -> None:
    run("start", "demo", "tone", *ARMS)
    count(fleet, "warm", {"n": 40, "e:LMError": 4, "lat:173": 36})
    found = json.loads(run("show", "demo", "tone", "--json"))
    warm = found["arms"]["warm"]
    assert (warm["predictions"], warm["errors"], warm["weight"]) == (40, {"LMError": 4}, 0.75)
    rate = warm["figures"]["error_rate"]
    assert (rate["count"], rate["value"]) == (40, 0.1)
    assert 0 < rate["bounds"][0] < 0.1 < rate["bounds"][1] < 1
    assert found["arms"]["cold"]["figures"]["error_rate"] == {"count": 0, "value": None, "bounds": [0.0, 1.0]}
    assert [event["kind"] for event in found["events"]] == ["started"]


def test_decide_gives_everybody_the_winner_and_is_still_shown(fleet: Fleet, run: Run) -> None:
    run("start", "demo", "tone", *ARMS)
    count(fleet, "cold", {"n": 7})
    printed = run("decide", "demo", "tone", "cold", "--reason", "calmer")
    assert "experiment tone on session:demo was decided for cold: everybody gets the variables of " in printed
    assert fleet.session("demo").blocking.get_variable("warmth") == 0.25
    lines = squeeze(run("show", "demo", "tone"))
    assert lines[0] == "session:demo tone decided for cold"
    assert "predictions 7 0" in lines
    assert run("list", "demo") == "experiments: none; start one with: dspex-fleet experiment start\n"
    assert json.loads(run("list", "demo", "--json")) == []


def test_what_runs_is_found_without_its_target(
    fleet: Fleet, redis_url: str, run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for field in "ab":
        spec = ProgramSpec.parse({"module": "Predict", "signature": f"question -> {field}"}, program="qa")
        run_blocking(fleet.registry.register("qa", spec))
    fleet.label("qa", "prod", 1)
    run("start", "demo", "tone", *ARMS, "--share", "0.4")
    run("start", "demo", "style", *ARMS, "--share", "0.1", "--from", "0.5")
    run("start", "qa@prod", "both", "--arm", "a=1:0.5", "--arm", "b=2:0.5")
    narrow = output.Console(width=80, markup=False, highlight=False, emoji=False)
    with monkeypatch.context() as patch:
        patch.setattr(output, "console", lambda: narrow)
        listed = squeeze(run("list"))
    assert [line.split()[:2] for line in listed if line.startswith(("program:", "session:"))] == [
        ["program:qa@prod", "both"],
        ["session:demo", "tone"],
        ["session:demo", "style"],
    ]
    assert [each["target"] for each in json.loads(run("list", "--json"))] == ["program:qa@prod", *["session:demo"] * 2]

    def print_of(*arguments: str) -> str:
        with pytest.raises(SystemExit):
            main(["--redis-url", redis_url, *arguments])
        return capsys.readouterr().out

    says = "experiments run on session demo: tone, style; see dspex-fleet experiment list demo\n"
    assert says in print_of("variables", "demo")
    assert json.loads(print_of("variables", "demo", "--json"))["experiments"] == ["tone", "style"]
    assert says in print_of("status")
    run("decide", "demo", "tone", "cold", "--reason", "calmer")
    assert "it was decided for 'cold'. Look at it: dspex-fleet experiment show session:demo tone." in run(
        "decide", "demo", "tone", "warm", "--reason", "too late"
    )


def test_a_label_is_a_target_like_a_session(fleet: Fleet, run: Run) -> None:
    for field in "ab":
        spec = ProgramSpec.parse({"module": "Predict", "signature": f"question -> {field}"}, program="qa")
        run_blocking(fleet.registry.register("qa", spec))
    fleet.label("qa", "prod", 1)
    assert "a (50 %) gets version 1" in run("start", "qa@prod", "both", "--arm", "a=1:0.5", "--arm", "b=2:0.5")
    assert squeeze(run("list", "qa@prod"))[3:5] == [
        "program:qa@prod both 100 % a 50 % → version 1",
        "b 50 % → version 2",
    ]
    assert "everybody gets version 2" in run("decide", "qa@prod", "both", "b", "--reason", "better")
    assert fleet.programs()[0].labels == {"prod": 2}


def test_stop_leaves_everything_as_it_is(fleet: Fleet, run: Run) -> None:
    run("start", "demo", "tone", *ARMS)
    assert "was stopped" in run("stop", "demo", "tone", "--reason", "enough")
    assert fleet.session("demo").blocking.get_variable("warmth") == 0.75
    assert squeeze(run("show", "demo", "tone"))[0] == "session:demo tone stopped"


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("start", "demo", "tone", "--arm", "a=stable:0.5", "--arm", "b=latest:0.4"), 1, "these sum to 0.9"),
        (("start", "demo", "tone", "--arm", "a=stable:0.5"), 1, "arms"),
        (("start", "demo", "tone", "--arm", "a=stable"), 1, "An arm must be NAME=REVISION:WEIGHT"),
        (("start", "demo", "tone", "--arm", "a=stable:x"), 1, "The weight of arm 'a' must be a number"),
        (("start", "demo", "tone", "--arm", "a=nowhere:0.5", "--arm", "b=latest:0.5"), 1, "arms[0].revision"),
        (("start", "demo", "tone", "--arm", "a=9.9:0.5", "--arm", "b=latest:0.5"), 1, "arms[0].revision"),
        (("start", "demo", "tone", *ARMS, "--share", "0.6", "--from", "0.5"), 1, "ends at 1.1, and requests end at 1"),
        (
            ("start", "demo", "tone", *ARMS, "--share", "0.1"),
            1,
            "on the requests from 0 to 0.4 already. Free is 0.4 to 1",
        ),
        (("start", "demo", "tone", *ARMS, "--share", "0"), 1, "must begin before it ends"),
        (("start", "demo", "other", *ARMS, "--share", "0.1"), 1, "experiment 'first'"),
        (("start", "demo", "tone", *ARMS, "--segment", "{"), 1, "The segment can't be read"),
        (("start", "demo", "tone", *ARMS, "--segment", "@nowhere.json"), 1, "The segment can't be read"),
        (("start", "nowhere", "tone", *ARMS), 1, "nowhere"),
        (("show", "demo", "tone"), 1, "No experiment 'tone' runs on session:demo"),
        (("stop", "demo", "tone", "--reason", "x"), 1, "No experiment 'tone' runs on session:demo"),
        (
            ("decide", "demo", "first", "hot", "--reason", "x"),
            1,
            "'hot' is none of its arms. Name one of them: cold, warm.",
        ),
        (("decide", "demo", "first", "cold", "--reason", " "), 1, "needs its reason"),
        (("decide", "demo", "first", "cold"), 2, "--reason"),
    ],
)
def test_what_cant_be_done_is_one_line_and_changes_nothing(
    fleet: Fleet, run: Run, arguments: tuple[str, ...], code: int, says: str
) -> None:
    run("start", "demo", "first", *ARMS, "--share", "0.4")
    before = run_blocking(fleet.store.head("demo"))
    printed = run(*arguments)
    assert printed.startswith(f"{code} ")
    assert says in printed
    after = run_blocking(fleet.store.head("demo"))
    assert (after.token, after.experiments) == (before.token, before.experiments)

"""``dspex-fleet rollout``: what each command prints, and that others say plainly which arm is which."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from snakepit_bridge.cli import main
from snakepit_bridge.client import Fleet
from snakepit_bridge.process.home_loop import run_blocking
from snakepit_bridge.programs.spec import ProgramSpec
from snakepit_bridge.redis.key_names import FleetKeys
from snakepit_bridge.releases.controller import RolloutController
from snakepit_bridge.releases.counts import MINUTE_S, StageCountsReader
from snakepit_bridge.releases.index import RolloutIndex
from snakepit_bridge.releases.target_opener import TargetOpener
from snakepit_bridge.snapshots.acknowledgements import Acks

Run = Callable[..., str]
pytestmark = pytest.mark.keeps_keys(r"dspex:\{s:.*\}:rollouts")
POLICY = {
    "stages": [{"share": 0.1, "min_s": 60, "min_predictions": 100}, {"share": 0.5}],
    "guards": [{"metric": "error_rate", "max_increase": 0.01}, {"metric": "score", "name": "helpful", "min": 0.5}],
}


@pytest.fixture
def fleet(redis_url: str) -> Generator[Fleet]:
    fleet = Fleet(redis_url)
    fleet.session("demo").blocking.set_variables({"warmth": 0.25, "style": "terse"})
    yield fleet
    run_blocking(fleet.store.aclose())
    run_blocking(fleet.connection.aclose())


@pytest.fixture
def run(redis_url: str, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command and return what it prints, with its exit code if it fails."""

    def run(*arguments: str) -> str:
        with pytest.raises(SystemExit) as ended:
            main(["--redis-url", redis_url, *arguments])
        captured = capsys.readouterr()
        return captured.out if not ended.value.code else f"{ended.value.code} {captured.err}"

    return run


@pytest.fixture
def policy(tmp_path: Path) -> str:
    path = tmp_path / "policy.json"
    path.write_text(json.dumps(POLICY), encoding="utf-8")
    return str(path)


def look(fleet: Fleet) -> None:
    """Have the rollouts looked at, as a worker does all the time."""
    keys = FleetKeys(fleet.namespace)
    opener = TargetOpener(fleet.store, Acks(fleet.connection), lambda: fleet.registry)
    index, counts = RolloutIndex(fleet.connection, keys), StageCountsReader(fleet.connection, keys)
    run_blocking(RolloutController(index, opener, counts).look())


def count(fleet: Fleet, arm: str, fields: dict[str, int]) -> None:
    """Count what a commit counts, in this minute."""
    record = fleet.rollouts.show("demo").record
    minute = max(int(time.time()), record.since_us // 1_000_000) // MINUTE_S  # a stage begins a moment later
    key = FleetKeys().arm_counts(record.id, record.stage, arm, minute)
    commands = [("HINCRBY", key, name, value) for name, value in fields.items()]
    run_blocking(fleet.connection.send_each([*commands, ("EXPIRE", key, 60)]))


def squeeze(text: str) -> list[str]:
    """Return a drawing's lines without the spaces that align them."""
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


def test_a_session_from_its_start_to_its_end(fleet: Fleet, run: Run, policy: str) -> None:
    started = run("rollout", "start", "demo", "warmth=0.75", "--policy", policy, "--reason", "warmer answers")
    first, second = started.splitlines()
    assert re.fullmatch(r"rollout [0-9a-f]{16} of session:demo: the baseline is \S+, the candidate \S+", first)
    assert second == "policy: 10 %, 50 %; error_rate max_increase 0.01, score helpful min 0.5"
    look(fleet)
    assert "session:demo running 1 of 2 10 % 0 s " in squeeze(run("rollout", "list"))[2]
    count(fleet, "baseline", {"n": 900, "e:InputError": 9, "lat:150": 891})
    count(fleet, "candidate", {"n": 90, "e:InputError": 1, "lat:151": 89, "s:helpful:n": 9, "s:helpful:m": 8_100_000})
    shown = squeeze(run("rollout", "show", "demo"))
    assert shown[0].startswith("session:demo running stage 1 of 2 10 % get the candidate for 0 s of at least 1 min")
    for line in (
        "predictions in this stage 900 90",
        "still needed - 10",
        "errors 9 (1 %) 1 (1.11 %)",
        "score helpful - 0.9 of 9",
    ):
        assert line in shown
    guard = shown.index("error_rate max_increase 0.01 open")
    assert re.fullmatch(r"baseline [◄├─●┼┤►┊ ]+ 1 % \(.* to .*\) of 900", shown[guard + 1])
    assert re.fullmatch(r"candidate [◄├─●┼┤►┊ ]+ 1.11 % \(.* to .*\) of 90", shown[guard + 2])
    assert any("10 more predictions of the candidate" in line for line in shown)
    assert shown[-2].endswith("by dspex-fleet: warmer answers")
    paused = run("rollout", "pause", "demo", "--reason", "lunch")
    assert paused.startswith("session:demo has two arms (paused, stage 1): 10 % get the candidate ")
    assert "(running, stage 1)" in run("rollout", "resume", "demo", "--reason", "back")
    assert "(running, stage 2): 50 % get the candidate" in run("rollout", "advance", "demo", "--reason", "looks good")
    assert "was rolled back: everybody gets the baseline" in run("rollout", "abort", "demo", "--reason", "complaints")
    lines = run("rollout", "watch", "demo", "--count", "6").splitlines()
    assert [line.partition(" ")[2].partition(",")[0] for line in lines] == [
        "started",
        "began stage 1 at 10 %",
        "paused stage 1 at 10 %",
        "resumed stage 1 at 10 %",
        "began stage 2 at 50 %",
        "rolled back stage 2 at 0 %",
    ]
    assert lines[-1].endswith("by dspex-fleet: complaints")
    shown = run("rollout", "show", "demo")
    assert "ended: complaints" in shown
    assert "… 1 earlier event: dspex-fleet rollout watch session:demo" in shown
    refused = run("rollout", "start", "demo", "warmth=0.75")
    again = re.search(r"it was rolled back, .* dspex-fleet (rollback demo \S+), then start it again", refused)
    assert again
    run(*again[1].split())
    assert "rollout " in run("rollout", "start", "demo", "warmth=0.75", "--policy", policy)


def test_json_is_one_line_of_whats_drawn(fleet: Fleet, run: Run, policy: str) -> None:
    run("rollout", "start", "demo", "warmth=0.75", "--policy", policy)
    look(fleet)
    shown: Any = json.loads(run("rollout", "show", "demo", "--json"))
    assert shown == json.loads(json.dumps(fleet.rollouts.show("demo").as_dict())) | {"ran_s": shown["ran_s"]}
    assert [each["target"] for each in json.loads(run("rollout", "list", "--json"))] == ["session:demo"]
    event = json.loads(run("rollout", "watch", "demo", "--count", "1", "--json"))
    assert (event["kind"], event["rollout"]["state"]) == ("started", "new")


def test_a_version_of_a_program(fleet: Fleet, run: Run) -> None:
    for output in "ab":
        spec = ProgramSpec.parse({"module": "Predict", "signature": f"question -> {output}"}, program="qa")
        run_blocking(fleet.registry.register("qa", spec))
    fleet.label("qa", "prod", 1)
    started = run("rollout", "start", "qa@prod", "2")
    assert "of program:qa@prod: the baseline is version 1, the candidate version 2\ndefault policy: 1 %, " in started
    look(fleet)
    assert squeeze(run("rollout", "list"))[2:] == ["program:qa@prod running 1 of 3 1 % 0 s version 1", "→ version 2"]
    assert "program version 1 version 2" in squeeze(run("rollout", "show", "qa@prod"))
    assert run("label", "qa", "prod", "1", "--reason", "panic").splitlines() == [
        "qa@prod is qa:1",
        "the rollout of version 2 was ended (superseded): everybody gets the version above",
    ]
    assert fleet.rollouts.events("qa@prod")[-1].reason == "panic"
    ended = squeeze(run("rollout", "show", "qa@prod"))
    assert ended[0] == "program:qa@prod superseded stage 1"
    assert any(line.startswith("ended: superseded: everybody gets what was published since; panic") for line in ended)
    assert json.loads(run("rollout", "show", "qa@prod", "--json"))["rollout"]["state"] == "superseded"
    assert "Can't pause the rollout of program:qa@prod: it has ended." in run(
        "rollout", "pause", "qa@prod", "--reason", "late"
    )
    assert "Set the label: dspex-fleet label qa none VERSION." in run("rollout", "start", "qa@none", "2")
    assert run("label", "qa", "prod", "1") == "qa@prod is qa:1\n"


def test_variables_and_status_say_which_arm_is_which(fleet: Fleet, run: Run, policy: str) -> None:
    assert "candidate" not in run("variables", "demo")
    run("rollout", "start", "demo", "warmth=0.75", "--policy", policy)
    look(fleet)
    head = fleet.rollouts.show("demo").record
    shown = run("variables", "demo")
    assert (
        f"session demo has two arms (running, stage 1): 10 % get the candidate {head.candidate}, "
        f"the others the baseline {head.baseline}\n"
    ) in shown
    assert "the baseline's: dspex.rollout_policy missing, warmth 0.25\n" in shown
    found = json.loads(run("variables", "demo", "--json"))
    assert found["rollout"]["baseline_values"] == {"dspex.rollout_policy": None, "warmth": 0.25}
    assert found["variables"]["warmth"]["value"] == 0.75
    fleet.rollouts.abort("demo", author="ann", reason="no")
    assert f"everybody gets the baseline {head.baseline}, and nobody {head.candidate}" in run("variables", "demo")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("show", "demo"), 1, "it was never staged. Start one: dspex-fleet rollout start session:demo CANDIDATE."),
        (("abort", "demo", "--reason", "x"), 1, "Can't abort the rollout of session:demo: it was never staged."),
        (("show", "nosuch"), 1, "nosuch"),
        (("abort", "nosuch@prod", "--reason", "x"), 1, "Program not found: nosuch@prod"),
        (("watch", "nosuch@prod", "--count", "1"), 1, "Program not found: nosuch@prod"),
        (("watch", "nosuch", "--count", "1"), 1, "nosuch"),
        (("abort", "demo", "--reason", " "), 1, "needs its reason"),
        (("abort", "demo"), 2, "--reason"),
        (("start", "demo", "warmth"), 1, "An argument must be name=value; got 'warmth'."),
        (("start", "demo", "warmth=0.25"), 1, "the session has these values already"),
        (("start", "demo", "warmth=0.5", "--policy", "nowhere.json"), 1, "can't be read"),
        (("start", "qa@prod", "warmth=0.5"), 1, "the number of a version"),
        (("start", "qa@prod", "7"), 1, "qa@prod"),
    ],
)
def test_what_cant_be_done_is_one_line(
    fleet: Fleet, run: Run, arguments: tuple[str, ...], code: int, says: str
) -> None:
    printed = run("rollout", *arguments)
    assert printed.startswith(f"{code} ")
    assert says in printed


def test_an_invalid_policy_is_refused_by_its_place(fleet: Fleet, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    path.write_text('{"stages": [{"share": 0.5}, {"share": 0.1}]}', encoding="utf-8")
    assert "stages[1].share" in run("rollout", "start", "demo", "warmth=0.5", "--policy", str(path))
    assert "stages[1].share" in run("publish", "demo", f"dspex.rollout_policy:string={path.read_text()}", "warmth=0.5")
    assert fleet.session("demo").blocking.get_variable("warmth") == 0.25

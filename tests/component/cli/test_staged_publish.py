"""What ``publish``, ``rollback``, ``history`` and ``rollout start`` say of a session that is staged."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator

import pytest

from snakepit_bridge.cli import main, output
from snakepit_bridge.client import Fleet
from snakepit_bridge.process.home_loop import run_blocking

Run = Callable[..., tuple[str, str]]
pytestmark = pytest.mark.keeps_keys(r"dspex:\{s:.*\}:rollouts")
POLICY = '{"stages": [{"share": 0.02}, {"share": 0.5}]}'
TOKEN = r"\d+\.\d+"


@pytest.fixture
def fleet(redis_url: str) -> Generator[Fleet]:
    fleet = Fleet(redis_url)
    yield fleet
    run_blocking(fleet.store.aclose())
    run_blocking(fleet.connection.aclose())


@pytest.fixture
def run(redis_url: str, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command that succeeds, and return what it prints on the standard output and the standard error."""

    def run(*arguments: str) -> tuple[str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["--redis-url", redis_url, *arguments])
        captured = capsys.readouterr()
        assert not ended.value.code, captured.err
        return captured.out, captured.err

    return run


def test_publish_says_on_stderr_what_it_means_for_the_rollout(fleet: Fleet, run: Run) -> None:
    # A policy is a JSON object on the command line, as in a file.
    first, warned = run("publish", "demo", f"dspex.rollout_policy={POLICY}", "warmth=0.25")
    assert re.fullmatch(f"{TOKEN}\n", first)
    assert warned == ""
    second, warned = run("publish", "demo", "warmth=0.5")
    assert re.fullmatch(f"{TOKEN}\n", second)
    assert re.fullmatch(
        rf"rollout [0-9a-f]{{16}} of session:demo started: 2 % get it in stage 1, "
        rf"the others the baseline {first.strip()}\n",
        warned,
    )
    _, warned = run("publish", "demo", "warmth=0.75")
    assert warned.endswith(f"the others the baseline {first.strip()}; the rollout of {second.strip()} was superseded\n")
    assert run("publish", "demo", "dspex.outage=fail")[1] == ""
    candidate = fleet.rollouts.show("demo").record.candidate
    back, warned = run("rollback", "demo", first.strip())
    assert warned == f"the rollout of {candidate} was superseded: everybody gets {back.strip()}\n"


def test_a_variable_that_may_be_misspelt_is_a_warning(fleet: Fleet, run: Run) -> None:
    assert run("publish", "demo", "warmth=0.25", "wramth=0.5")[1] == ""  # the first publish declares all of them
    assert run("publish", "other", "warmth=0.25")[1] == ""
    assert run("publish", "other", "warmht=0.25", "style=terse")[1] == (
        "warning: session 'other' had no variable 'warmht' until now. Did you mean 'warmth'?\n"
    )
    assert run("rollout", "start", "other", "tone=soft")[1] == (
        "warning: session 'other' had no variable 'tone' until now. Only programs that bind it use it.\n"
    )


def test_rollout_start_says_which_policy_applies(fleet: Fleet, run: Run) -> None:
    run("publish", "demo", "warmth=0.25")
    default = "1 %, 10 %, 50 %; error_rate max_increase 0.002"
    assert f"default policy: {default}\n" in run("rollout", "start", "demo", "warmth=0.5")[0]
    assert f"policy: {default}\n" in run("rollout", "show", "demo")[0]
    fleet.rollouts.abort("demo", author="ann", reason="no")
    assert f"the session's policy: {default}\n" in run("rollout", "start", "demo", "warmth=0.75")[0]


def test_history_shows_what_a_revision_is_about_before_its_policy(
    fleet: Fleet, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    guards = [{"metric": "score", "name": f"quality-{number}", "min": 0.5} for number in range(9)]
    policy = json.dumps({"stages": [{"share": 0.1}], "guards": guards})
    run("publish", "demo", "warmth=0.1", "style=terse")
    token = run("publish", "demo", f"dspex.rollout_policy={policy}", f"style={'x' * 90}", "warmth=0.5")[0].strip()
    newest = run("history", "demo", "--limit", "1")[0]
    assert "warmth: 0.1 → 0.5" in newest
    assert f"style: terse → {'x' * 39}…" in newest
    assert newest.index("warmth:") < newest.index("rollout policy set")
    run("publish", "demo", f"dspex.rollout_policy={POLICY}")
    assert "rollout policy changed" in run("history", "demo", "--limit", "1")[0]
    fleet.session("demo").blocking.delete_variable("dspex.rollout_policy")
    assert "rollout policy removed" in run("history", "demo", "--limit", "1")[0]
    run("publish", "demo", *(f"v{number}=1" for number in range(12)))
    assert "… 2 more: dspex-fleet history --json" in run("history", "demo", "--limit", "1")[0]
    # On a terminal of 80 columns a token can still be copied.
    narrow = output.Console(width=80, markup=False, highlight=False, emoji=False)
    monkeypatch.setattr(output, "console", lambda: narrow)
    assert token in run("history", "demo")[0]

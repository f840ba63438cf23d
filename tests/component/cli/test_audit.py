"""``dspex-fleet audit``, ``protect`` and ``approvals``: what people type who change things, approve and look back."""

from __future__ import annotations

import getpass
import json
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import dspy
import pytest
from redis import Redis

from snakepit_bridge.audit.entries import AuditEntry, AuditOutcome
from snakepit_bridge.audit.requests import REQUEST_TTL_S
from snakepit_bridge.cli import main
from snakepit_bridge.client import Fleet
from snakepit_bridge.client.evaluations import AsyncEvaluations
from snakepit_bridge.evaluations.gates import GateOutcome
from snakepit_bridge.exceptions import (
    ApprovalError,
    ApprovalNotFoundError,
    ApprovalOutdatedError,
    ApprovalRequiredError,
    ProtectionError,
)
from snakepit_bridge.process.home_loop import run_blocking
from snakepit_bridge.redis.data_format import DATA_FORMAT
from snakepit_bridge.redis.key_names import FleetKeys
from snakepit_bridge.variables import Variable

Run = Callable[..., str]


@pytest.fixture
def user(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Be another user of the command line."""

    def be(name: str) -> None:
        monkeypatch.setattr(getpass, "getuser", lambda: name)

    be("ann")
    return be


@pytest.fixture
def run(redis_url: str, capsys: pytest.CaptureFixture[str], user: Callable[[str], None]) -> Run:
    def command(*arguments: str, code: int = 0) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["--redis-url", redis_url, *arguments])
        out, err = capsys.readouterr()
        assert (ended.value.code or 0) == code, err
        return out if code == 0 else err

    return command


@pytest.fixture
def fleet(redis_url: str) -> Fleet:
    return Fleet(redis_url)


@pytest.fixture
def program(fleet: Fleet) -> str:
    """A program with two versions, whose label ``stable`` points at the first."""
    fleet.register("qa", dspy.Predict("question -> answer"), author="ann")
    fleet.register("qa", dspy.ChainOfThought("question -> answer"), author="ann")
    fleet.label("qa", "stable", 1, author="ann")
    return "qa"


def request_of(change: Callable[[], object]) -> str:
    with pytest.raises(ApprovalRequiredError) as refused:
        change()
    return refused.value.request


def entries(fleet: Fleet, **chosen: Any) -> list[AuditEntry]:
    return fleet.audit(**chosen)[::-1]


def test_what_is_typed_is_listed_with_who_typed_it(run: Run, fleet: Fleet) -> None:
    token = run("publish", "shop", "price=5", "--reason", "spring").strip()
    run("mark", "shop", "stable")
    listed = json.loads(run("audit", "--json"))
    assert [(e["action"], e["target"], e["actor"], e["source"]) for e in listed] == [
        ("label", "session:shop@stable", "ann by dspex-fleet", "cli"),
        ("publish", "session:shop", "ann by dspex-fleet", "cli"),
    ]
    assert (listed[1]["after"], listed[1]["reason"], listed[1]["names"]) == (token, "spring", ["price"])
    table = run("audit", "--session", "shop", "--action", "publish", "--since", "1h", "--outcome", "done")
    assert "price; spring" in table
    assert "stable" not in table
    assert json.loads(run("audit", "--actor", "nobody", "--json")) == []
    assert "is no duration" in run("audit", "--since", "soon", code=2)


@contextmanager
def publishing(fleet: Fleet, *sessions: str) -> Generator[None]:
    """Publish to each session again and again, until the block ends."""
    ended = threading.Event()

    def publish() -> None:
        while not ended.wait(0.02):
            for name in sessions:
                fleet.session(name, author="eve").blocking.set_variables({"a": time.time()})

    with ThreadPoolExecutor(1) as pool:
        publishes = pool.submit(publish)
        try:
            yield
        finally:
            ended.set()
            publishes.result()


def test_new_entries_are_followed_until_as_many_have_come(run: Run, fleet: Fleet) -> None:
    with publishing(fleet, "shop", "other"):
        lines = run("audit", "--session", "shop", "--follow", "--count", "2").splitlines()
        shown = run("audit", "--actor", "eve", "--follow", "--count", "1", "--json").splitlines()
    assert [("  publish  session:shop  eve  " in line, line.endswith("done  a")) for line in lines] == [
        (True, True)
    ] * 2
    assert [json.loads(line)["action"] for line in shown] == ["publish"]


def test_a_protected_session_is_changed_once_another_user_approves(
    run: Run, fleet: Fleet, user: Callable[[str], None]
) -> None:
    run("publish", "prod-eu", "price=1")
    assert "one other person" in run("protect", "session", "prod-*")
    refused = run("publish", "prod-eu", "price=2", "--reason", "spring", code=1)
    [waiting] = json.loads(run("approvals", "list", "--json"))
    assert waiting["id"] in refused
    assert "arguments" not in waiting
    assert "price" in run("approvals", "show", waiting["id"])
    assert "requested it" in run("approvals", "approve", waiting["id"], code=1)
    user("ben")
    assert "publish of session:prod-eu is done" in run("approvals", "approve", waiting["id"])
    assert fleet.session("prod-eu").blocking.get_variable("price") == 2
    assert "No request" in run("approvals", "approve", waiting["id"], code=1)
    assert "nothing waits" in run("approvals", "list")
    assert [(e.action, e.outcome, e.actor) for e in entries(fleet, session="prod-eu")][1:] == [
        ("publish", "requested", "ann by dspex-fleet"),
        ("approve", "done", "ben by dspex-fleet"),
        ("publish", "done", "ann by dspex-fleet"),
    ]
    assert entries(fleet, session="prod-eu")[-1].approvers == ("ben by dspex-fleet",)


def test_a_request_is_rejected_with_a_reason(run: Run, fleet: Fleet) -> None:
    run("protect", "session", "shop")
    id = request_of(lambda: fleet.session("shop", author="eve").blocking.set_variables({"a": 1}))
    assert "rejected" in run("approvals", "reject", id, "--reason", "not now")
    assert (entries(fleet)[-1].action, entries(fleet)[-1].reason) == ("reject", "not now")
    with pytest.raises(ApprovalNotFoundError):
        fleet.approvals.get(id)


def test_a_rule_is_loosened_only_by_the_approvals_that_it_asks_for(
    run: Run, fleet: Fleet, user: Callable[[str], None]
) -> None:
    run("protect", "label", "stable", "--approvals", "1")
    run("protect", "label", "stable", "--approvals", "2")
    assert [(each["pattern"], each["approvals"]) for each in json.loads(run("protect", "list", "--json"))] == [
        ("stable", 2)
    ]
    for arguments in (("remove", "label", "stable"), ("label", "stable", "--approvals", "1")):
        assert "is protected by the rule label:stable" in run("protect", *arguments, code=1)
    removal = next(each for each in fleet.approvals.list() if each.operation == "unprotect")
    assert not fleet.approvals.approve(removal.id, author="ben").applied
    assert fleet.approvals.approve(removal.id, author="cleo").applied
    assert "none" in run("protect", "list")
    with pytest.raises(ProtectionError):
        fleet.protections.unprotect("label", "stable")
    with pytest.raises(ProtectionError):
        fleet.protections.protect("program", "qa")
    weaker = fleet.approvals.list()[0]
    fleet.approvals.approve(weaker.id, author="ben")
    with pytest.raises(ApprovalNotFoundError):
        fleet.approvals.approve(weaker.id, author="cleo")


def test_a_protected_label_of_a_program_is_moved_by_none_of_the_ways_without_approval(
    fleet: Fleet, program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def passed(*_: object, **__: object) -> list[GateOutcome]:
        return []

    monkeypatch.setattr(AsyncEvaluations, "check", passed)
    fleet.protections.protect("label", "stable", author="root")
    moved = request_of(lambda: fleet.label("qa", "stable", 2, author="ann"))
    gated = request_of(lambda: fleet.label("qa", "stable", 2, author="ann", require=["exact(golden) >= 0.5"]))
    assert gated == moved
    rollout = request_of(lambda: fleet.rollouts.start("qa@stable", 2, author="ann", reason="try"))
    arms = [{"name": f"v{n}", "weight": 0.5, "revision": str(n)} for n in (1, 2)]
    plan = {"name": "both", "arms": arms}
    experiment = request_of(lambda: fleet.experiments.start("qa@stable", plan, author="ann", reason="try"))
    assert fleet.programs()[0].labels == {"stable": 1}
    assert [each.operation for each in fleet.approvals.list()] == ["label", "rollout.started", "experiment.started"]

    started = fleet.approvals.approve(experiment, author="ben")
    assert started.applied
    assert [each.name for each in fleet.experiments.list("qa@stable")] == ["both"]
    fleet.experiments.stop("qa@stable", "both", author="ann", reason="enough")
    assert fleet.approvals.approve(rollout, author="ben").applied
    # A rollout is approved through its end.
    fleet.rollouts.advance("qa@stable", author="ann", reason="on")
    while fleet.rollouts.show("qa@stable").record.is_open:
        fleet.rollouts.advance("qa@stable", author="ann", reason="on")
    assert fleet.programs()[0].labels == {"stable": 2}
    with pytest.raises(ApprovalOutdatedError):
        fleet.approvals.approve(moved, author="ben")
    back = request_of(lambda: fleet.label("qa", "stable", 1, author="ann"))
    assert fleet.approvals.approve(back, author="ben").result == "1"
    assert fleet.programs()[0].labels == {"stable": 1}
    assert {e.action for e in entries(fleet, action="rollout")} >= {"rollout.started", "rollout.promoted"}


def test_a_rollout_and_an_experiment_of_a_protected_session_begin_with_approval(fleet: Fleet) -> None:
    variables = fleet.session("shop", author="ann").blocking
    first = variables.set_variables({"price": 1})
    fleet.protections.protect("session", "shop")
    start = request_of(lambda: fleet.rollouts.start("shop", {"price": 2}, policy={}, author="ann", reason="try"))
    assert fleet.approvals.approve(start, author="ben").applied
    assert fleet.rollouts.show("shop").record.is_open
    assert [staged.target for staged in fleet.rollouts.list()] == ["session:shop"]
    fleet.rollouts.abort("shop", author="ann", reason="no")
    back = request_of(lambda: variables.rollback(first))
    fleet.approvals.approve(back, author="ben")
    assert variables.get_variable("price") == 1
    # It is there already, so that nothing is left to approve.
    assert variables.rollback(first)


def test_the_doctor_names_denied_calls_and_rules_that_hold_for_nothing(
    fleet: Fleet, redis_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def doctor() -> dict[str, tuple[str, str]]:
        with pytest.raises(SystemExit):  # this machine's other checks
            main(["--redis-url", redis_url, "doctor", "--json"])
        return {check["what"]: (check["level"], check["found"]) for check in json.loads(capsys.readouterr().out)}

    found = doctor()
    assert found["data format"] == ("ok", "1, of a release that wrote no number")
    assert found["denied calls"] == ("ok", "none in 24 h")
    fleet.session("shop", author="ann").blocking.set_variables({"price": 1})
    fleet.protections.protect("session", "s*", author="root")
    assert "protection" not in doctor()
    run_blocking(publish_as_elixir(fleet))
    for actor, changes in (("", 1_000), ("reader", 2)):
        denied = AuditEntry("Costs.Get", "gateway", actor, outcome=AuditOutcome.DENIED, changes=changes)
        run_blocking(fleet.audit_trail.record(denied))
    found = doctor()
    assert found["denied calls"] == ("warn", "in 24 h callers without a known token: 1000, reader: 2")
    assert found["protection"] == ("warn", "session:s* doesn't hold for s-1, which an Elixir server publishes")
    with Redis.from_url(redis_url) as client:
        client.set(FleetKeys().data_format, DATA_FORMAT + 1)
    expected = f"'{DATA_FORMAT + 1}', and this shell's release reads formats up to {DATA_FORMAT}"
    assert doctor()["data format"] == ("fail", expected)


async def publish_as_elixir(fleet: Fleet) -> None:
    fence = await fleet.store.raise_fence("s-1", publisher="elixir")
    variable = Variable.declare("price", 1, "integer")
    await fleet.store.publish("s-1", {"price": variable}, publisher="elixir", fence=fence)


def test_an_expired_request_can_not_be_approved(fleet: Fleet, redis_url: str) -> None:
    fleet.protections.protect("session", "shop")
    id = request_of(lambda: fleet.session("shop", author="ann").blocking.set_variables({"a": 1}))
    with Redis.from_url(redis_url) as client:
        assert 0 < client.ttl(FleetKeys().approval_request(id)) <= REQUEST_TTL_S
        client.delete(FleetKeys().approval_request(id))  # as its expiry does
    with pytest.raises(ApprovalNotFoundError):
        fleet.approvals.approve(id, author="ben")
    again = request_of(lambda: fleet.session("shop", author="ann").blocking.set_variables({"a": 1}))
    with pytest.raises(ApprovalError):
        fleet.approvals.approve(again, author="")

"""A program meets a revision: what fits runs, what doesn't is told, and a session may prefer its last good one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import dspy
import pytest

from snakepit_bridge.exceptions import ValidationError, VariableNotFoundError
from snakepit_bridge.lm.profiles import LMProfile, LMProfiles
from snakepit_bridge.programs.bound import BoundPrograms
from snakepit_bridge.programs.build import serialize_module
from snakepit_bridge.programs.imports import AllowedImports
from snakepit_bridge.programs.registry import Program
from snakepit_bridge.protocol.messages import Requirement
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.snapshots import RedisStore
from snakepit_bridge.snapshots.acknowledgements import Acks
from snakepit_bridge.snapshots.replica import Replica
from snakepit_bridge.snapshots.snapshot import Snapshot
from snakepit_bridge.variables import Variable
from tasks.revisions import LAST_GOOD, ON_REFUSED, RevisionBinder, SessionSnapshots
from tests.harness.waiting import eventually

LATEST = Requirement()
WARM = Program(
    "qa", 1, "d" * 64, serialize_module(dspy.Predict("q -> a"), program="qa", bindings={"temperature": "temp"})
)


class Parts:
    """One process's parts on a store of the test's own."""

    def __init__(self, url: str) -> None:
        self.store = RedisStore(url)
        self.connection = RedisConnection(url)
        self.acks = Acks(self.connection)
        self.replica = Replica(self.store, 0.2)
        profiles = LMProfiles([LMProfile("demo", "openai/gpt-4o-mini")])
        self.applying = RevisionBinder(
            BoundPrograms(profiles, AllowedImports(())), SessionSnapshots(self.replica, None, 0.2), self.acks
        )

    async def publish(self, **values: Any) -> Snapshot:
        changes = {name.replace("__", "."): Variable.declare(name.replace("__", "."), v) for name, v in values.items()}
        token = await self.store.publish("s", changes)
        return await self.replica.snapshot("s", Requirement("at_least", token))


@pytest.fixture
async def parts(redis_url: str) -> AsyncIterator[Parts]:
    parts = Parts(redis_url)
    yield parts
    await parts.applying.aclose()
    await parts.replica.aclose()


async def test_what_fits_is_bound_to_the_newest(parts: Parts) -> None:
    for value in (0.1, 0.2):
        snapshot = await parts.publish(temp=value)
        applied = await parts.applying.apply(WARM, snapshot, LATEST)
        assert (applied.snapshot, applied.bound.variables, applied.refused) == (snapshot, {"temp": value}, "")


async def test_a_refused_revision_fails_the_task_unless_the_session_says_otherwise(parts: Parts) -> None:
    await parts.applying.apply(WARM, await parts.publish(temp=0.1), LATEST)
    with pytest.raises(ValidationError):
        await parts.applying.apply(WARM, await parts.publish(temp=-5.0), LATEST)


async def test_a_session_can_prefer_its_last_good_revision(parts: Parts) -> None:
    good = await parts.publish(temp=0.1, dspex__on_refused=LAST_GOOD)
    assert ON_REFUSED in good.variables
    await parts.applying.apply(WARM, good, LATEST)
    bad = await parts.publish(temp=-5.0)
    applied = await parts.applying.apply(WARM, bad, LATEST)
    assert applied.snapshot == good
    assert "temp" in applied.refused
    mended = await parts.publish(temp=0.3)
    assert (await parts.applying.apply(WARM, mended, LATEST)).snapshot == mended


async def test_a_last_good_revision_never_stands_in_for_one_that_was_required(parts: Parts) -> None:
    await parts.applying.apply(WARM, await parts.publish(temp=0.1, dspex__on_refused=LAST_GOOD), LATEST)
    bad = await parts.publish(temp=-5.0)
    for requirement in (Requirement("at_least", bad.token), Requirement("exactly", bad.token)):
        with pytest.raises(ValidationError):
            await parts.applying.apply(WARM, bad, requirement)


async def test_without_a_good_revision_there_is_nothing_to_fall_back_to(parts: Parts) -> None:
    with pytest.raises(VariableNotFoundError):
        await parts.applying.apply(WARM, await parts.publish(dspex__on_refused=LAST_GOOD), LATEST)


async def reported(parts: Parts, token: Token) -> str | None:
    for ack in await parts.acks.read_acks("s"):
        if ack.token == token:
            return ack.error or "applied"
    return None


async def test_each_new_revision_is_reported_before_a_task_asks_for_it(parts: Parts) -> None:
    first = await parts.publish(temp=0.1)
    await parts.applying.apply(WARM, first, LATEST)
    parts.applying.start("worker@host")
    assert await eventually(lambda: reported(parts, first.token), "the first report") == "applied"
    bad = await parts.publish(temp=-5.0)
    assert "temp" in (await eventually(lambda: reported(parts, bad.token), "the refusal") or "")
    good = await parts.publish(temp=0.2)
    assert await eventually(lambda: reported(parts, good.token), "the report") == "applied"
    (ack,) = await parts.acks.read_acks("s")
    assert ack.process.startswith("worker@host/")
    assert ack.acknowledges(first.token)
    assert not ack.acknowledges(Token(good.token.epoch, good.token.revision + 1))


async def test_a_program_that_refuses_a_revision_reported_as_applied_changes_the_report(parts: Parts) -> None:
    snapshot = await parts.publish(temp=0.1)
    await parts.applying.apply(WARM, snapshot, LATEST)
    parts.applying.start("worker@host")
    await eventually(lambda: reported(parts, snapshot.token), "the report")
    other = Program(
        "other", 1, "e" * 64, serialize_module(dspy.Predict("q -> a"), program="other", bindings={"n": "missing"})
    )
    with pytest.raises(VariableNotFoundError):
        await parts.applying.apply(other, snapshot, LATEST)

    async def refused() -> bool:
        return "missing" in (await reported(parts, snapshot.token) or "")

    await eventually(refused, "the refusal")


async def test_a_report_counts_as_no_use_of_a_session_or_a_program(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.revisions._MAX_PROGRAMS", 2)
    older, used, new = (replace(WARM, name=name) for name in ("older", "used", "new"))
    snapshot = await parts.publish(temp=0.1)
    for program in (used, older, used):
        await parts.applying.apply(program, snapshot, LATEST)
    await parts.applying._report("worker@host/1")
    assert await reported(parts, snapshot.token) == "applied"
    await parts.applying.apply(new, snapshot, LATEST)
    assert {name for name, _ in parts.applying._recent["s"]} == {"used", "new"}


async def test_a_process_that_fell_silent_counts_no_more(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = await parts.publish(temp=0.1)
    await parts.applying.apply(WARM, snapshot, LATEST)
    parts.applying.start("worker@host")
    await eventually(lambda: reported(parts, snapshot.token), "the report")
    await parts.applying.aclose()
    monkeypatch.setattr("snakepit_bridge.snapshots.acknowledgements._GONE_S", -1.0)
    assert await parts.acks.read_acks("s") == []

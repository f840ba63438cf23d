"""How stale sessions are and who lags behind them, read from a real server."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from snakepit_bridge.client import Fleet
from snakepit_bridge.elixir.demand import SessionDemand
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.snapshots.acknowledgements import AckReport, Acks
from snakepit_bridge.snapshots.snapshot import AuthoritySign
from snakepit_bridge.variables import Variable
from workers import session_reports as module
from workers.session_reports import SessionReport, SessionsReader

pytestmark = pytest.mark.keeps_keys(".*")

ELIXIR = "elixir"


@pytest.fixture
async def fleet(redis_url: str) -> AsyncGenerator[Fleet]:
    fleet = Fleet(redis_url)
    yield fleet
    await fleet.store.aclose()
    await fleet.connection.aclose()


@pytest.fixture
def acks(fleet: Fleet) -> Acks:
    return Acks(fleet.connection)


async def publish(fleet: Fleet, session: str, value: float, publisher: str = "store", **options: object) -> Token:
    changes = {"t": Variable.declare("t", value)}
    return await fleet.store.publish(session, changes, publisher=publisher, **options)  # type: ignore[arg-type]


async def apply(acks: Acks, process: str, session: str, token: Token, error: str = "") -> None:
    await acks.heartbeat(process)
    await acks.report(process, {session: AckReport(token, error)})


async def read(reader: SessionsReader) -> dict[str, SessionReport]:
    return {report.session: report for report in (await reader.read()).sessions}


async def test_a_followed_session_in_use_is_as_stale_as_its_confirmation_is_old(fleet: Fleet) -> None:
    for session in ("used", "unused", "always"):
        await publish(fleet, session, 0.5, ELIXIR, age_s=30)
    await publish(fleet, "own", 0.5)
    await SessionDemand(fleet.connection).touch(["used", "own", "unknown"])
    reports = await read(SessionsReader(fleet, ["always"]))
    assert 30 <= (reports["used"].staleness_s or 0) < 40
    assert 30 <= (reports["always"].staleness_s or 0) < 40
    assert reports["unused"].staleness_s is None, "nobody follows it any more"
    assert reports["own"].staleness_s is None, "it has no authority but the store"
    assert "unknown" not in reports


async def test_a_session_is_stale_once_elixir_is_silent_for_longer_than_allowed(fleet: Fleet) -> None:
    await publish(fleet, "probe", 0.5)
    now = (await fleet.store.head("probe")).now
    for session, heard in {
        "fresh": AuthoritySign(now, 5.0), "silent": AuthoritySign(now - 60, 5.0), "unlimited": None
    }.items():  # fmt: skip
        await publish(fleet, session, 0.5, ELIXIR, heard=heard)
    reports = await read(SessionsReader(fleet, ["fresh", "silent", "unlimited"]))
    assert {name for name, report in reports.items() if report.is_stale} == {"silent"}


async def test_processes_that_lack_a_revision_lag_by_as_many(fleet: Fleet, acks: Acks) -> None:
    tokens = [await publish(fleet, "s", value) for value in (0.1, 0.2, 0.3, 0.4)]
    await apply(acks, "w/1", "s", tokens[3])
    await apply(acks, "w/2", "s", tokens[2])
    await apply(acks, "w/3", "s", tokens[0])
    report = (await read(SessionsReader(fleet)))["s"]
    assert (report.lagging, report.behind) == (2, 3)


async def test_a_process_that_refuses_the_current_revision_lags_without_being_behind(fleet: Fleet, acks: Acks) -> None:
    token = await publish(fleet, "s", 0.1)
    await apply(acks, "w/1", "s", token, "t is too low")
    report = (await read(SessionsReader(fleet)))["s"]
    assert (report.lagging, report.behind) == (1, 0)


async def test_a_lag_ends_with_the_last_process_and_begins_with_the_next_revision(fleet: Fleet, acks: Acks) -> None:
    reader, first = SessionsReader(fleet), await publish(fleet, "s", 0.1)
    await apply(acks, "w/1", "s", first)
    assert (await read(reader))["s"].lagging == 0
    second = await publish(fleet, "s", 0.2)
    assert (await read(reader))["s"].lagging == 1
    await apply(acks, "w/1", "s", second)
    assert (await read(reader))["s"].lagging == 0


async def test_sessions_that_keep_lagging_leave_the_others_their_turn(
    fleet: Fleet, acks: Acks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_CHECKED", 1)
    reader = SessionsReader(fleet)
    for session in ("s", "t"):
        await apply(acks, "w/1", session, await publish(fleet, session, 0.1))
        await publish(fleet, session, 0.2)
    await read(reader)
    reports = await read(reader)
    assert {session: report.lagging for session, report in reports.items()} == {"s": 1, "t": 1}


async def test_a_revision_that_all_apply_is_looked_at_again_once_a_minute(
    fleet: Fleet, acks: Acks, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, token = SessionsReader(fleet), await publish(fleet, "s", 0.1)
    await apply(acks, "w/1", "s", token)
    assert (await read(reader))["s"].lagging == 0
    await apply(acks, "w/2", "s", token, "t is too low")
    assert (await read(reader))["s"].lagging == 0
    monkeypatch.setattr(module, "_CHECK_AGAIN_S", -1.0)
    assert (await read(reader))["s"].lagging == 1


async def test_across_epochs_a_process_is_behind_by_one_at_least(fleet: Fleet, acks: Acks) -> None:
    token = await publish(fleet, "s", 0.1)
    await apply(acks, "w/1", "s", Token(token.epoch - 1, token.revision + 7))
    assert (await read(SessionsReader(fleet)))["s"].behind == 1


async def test_live_workers_and_refreshers_are_counted(fleet: Fleet, acks: Acks) -> None:
    for process in ("w/1", "w/2"):
        await acks.heartbeat(process)
    await fleet.connection.send_each([("ZADD", "dspex:refreshers", 1, "r")])
    report = await SessionsReader(fleet).read()
    assert (report.workers, report.refreshers) == (2, 1)


async def test_a_dropped_session_is_forgotten(fleet: Fleet) -> None:
    reader = SessionsReader(fleet)
    await publish(fleet, "s", 0.1)
    assert "s" in await read(reader)
    await fleet.store.drop("s")
    assert "s" not in await read(reader)

"""Reports on experiments on a real server: which experiment a name means, and until when it is counted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from snakepit_bridge.client import Fleet
from snakepit_bridge.exceptions import ExperimentNotFoundError, SessionNotFoundError
from snakepit_bridge.redis.key_names import FleetKeys
from snakepit_bridge.releases.counts import MINUTE_S
from snakepit_bridge.releases.experiment_report import ExperimentReport
from snakepit_bridge.rollouts.experiments import ExperimentState

DAY_S = 86_400
pytestmark = pytest.mark.keeps_keys(r"dspex:\{s:.*\}:experiments")


@pytest.fixture
async def fleet(redis_url: str) -> AsyncIterator[Fleet]:
    fleet = Fleet(redis_url)
    session = fleet.session("demo")
    for name in ("one", "two"):
        await session.set_variable("a", name)
        await session.label(name)
    yield fleet
    await fleet.store.aclose()
    await fleet.connection.aclose()


async def start(fleet: Fleet) -> str:
    """Start the experiment ``tone`` and return its id."""
    arms: Any = [{"name": name, "weight": 0.5, "revision": name} for name in ("one", "two")]
    return (await fleet.experiments.aio.start("demo", {"name": "tone", "arms": arms})).id


async def count(fleet: Fleet, experiment: str, at_s: float, **fields: int) -> None:
    """Count for the arm ``one``."""
    key = FleetKeys().arm_counts(experiment, 0, "one", int(at_s) // MINUTE_S)
    commands = [("HINCRBY", key, name.replace("__", ":"), value) for name, value in fields.items()]
    await fleet.connection.send_each([*commands, ("EXPIRE", key, 60)])


async def show(fleet: Fleet) -> tuple[ExperimentReport, int]:
    """Return the report, and how many predictions the arm ``one`` has in it."""
    report = await fleet.experiments.aio.show("demo", "tone")
    return report, report.arms[0].counts.predictions


async def test_a_name_means_what_runs_or_else_what_ended_last(fleet: Fleet) -> None:
    began = [await start(fleet)]
    now_s = (await fleet.store.head("demo")).now
    await count(fleet, began[0], now_s, n=3)
    await fleet.experiments.aio.stop("demo", "tone", author="ann", reason="first")
    began.append(await start(fleet))
    await count(fleet, began[1], now_s, n=5)
    report, counted = await show(fleet)
    assert (report.experiment.id, report.experiment.state, counted) == (began[1], ExperimentState.RUNNING, 5)
    assert [event.kind for event in report.events] == ["started"]
    await fleet.experiments.aio.decide("demo", "tone", "two", author="ann", reason="better")
    report, counted = await show(fleet)
    assert (report.experiment.id, report.experiment.winner, counted) == (began[1], "two", 5)
    earlier = await fleet.experiments.aio.show("demo", began[0])
    assert (earlier.experiment.id, earlier.arms[0].counts.predictions) == (began[0], 3)


async def test_a_score_that_comes_after_the_end_is_counted(fleet: Fleet) -> None:
    experiment = await start(fleet)
    await count(fleet, experiment, (await fleet.store.head("demo")).now, n=1)
    await fleet.experiments.aio.stop("demo", "tone", author="ann", reason="done")
    await count(fleet, experiment, (await fleet.store.head("demo")).now, s__helpful__n=1, s__helpful__m=500_000)
    report, _ = await show(fleet)
    assert report.arms[0].figures.scores["helpful"].value == 0.5
    assert report.as_dict()["arms"]["one"]["scores"] == {"helpful": {"count": 1, "mean": 0.5}}


async def test_what_was_counted_before_its_start_is_not_its_own(fleet: Fleet) -> None:
    experiment = await start(fleet)
    await count(fleet, experiment, (await fleet.store.head("demo")).now - DAY_S, n=1)
    assert (await show(fleet))[1] == 0


async def test_what_there_never_was_is_refused_by_name(fleet: Fleet) -> None:
    with pytest.raises(ExperimentNotFoundError, match="'tone' runs on session:demo"):
        await fleet.experiments.aio.show("demo", "tone")
    with pytest.raises(SessionNotFoundError):
        await fleet.experiments.aio.show("nowhere", "tone")

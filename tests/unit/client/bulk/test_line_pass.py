"""A pass over lines: whatever ends the process and at whatever point, each line stands once in the output, in order."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import pytest
from celery import states

from snakepit_bridge.client.bulk.checkpoint import BulkSettings, BulkState, Checkpoint
from snakepit_bridge.client.bulk.line_pass import LinePass, PassOptions
from snakepit_bridge.client.bulk.progress import BulkProgress
from snakepit_bridge.client.bulk.records import BulkRecord, RecordFile
from snakepit_bridge.client.bulk.source import BulkLine
from snakepit_bridge.client.bulk.spending import SpendLimit
from snakepit_bridge.client.result_collector import EndedTask
from snakepit_bridge.client.results import TaskResult
from snakepit_bridge.exceptions import PredictionFailedError
from snakepit_bridge.protocol.messages import Result

LINES = 120
SETTINGS = BulkSettings("run", "digest", LINES, None, "qa", {})
UNREADABLE = {7, 63}
FAILING = {11, 90}


class ProcessKilledError(Exception):
    """Ends a pass where kill -9 might."""


class FakeFleet:
    """Ends lines in any order, each once, and knows those of earlier windows.

    Args:
        chance: draws which lines end, and where the process is killed.
        kills_in: how many steps the process lives; None for ever.
    """

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.kills_in: int | None = None
        self.sent: list[int] = []
        self.forgotten: set[int] = set()
        self.ended: set[int] = set()

    def live(self) -> None:
        if self.kills_in is not None:
            self.kills_in -= 1
            if self.kills_in < 0:
                raise ProcessKilledError


class FakeWindow:
    """The lines in flight of one process."""

    def __init__(self, fleet: FakeFleet) -> None:
        self.fleet = fleet
        self.open: dict[int, Mapping[str, Any]] = {}
        self.done: set[int] = set()
        self.most = 0

    def __len__(self) -> int:
        return len(self.open)

    @property
    def first_open(self) -> int | None:
        return next(iter(self.open), None)

    def send(self, lines: Sequence[BulkLine]) -> list[BulkRecord]:
        self.fleet.live()
        for line in lines:
            assert line.number not in self.fleet.forgotten, "what was forgotten would be paid again"
            if line.number not in self.fleet.sent:
                self.fleet.sent.append(line.number)
            self.open[line.number] = line.identity
        self.most = max(self.most, len(self.open))
        self.fleet.live()
        return []

    def collect(self, wait_s: float) -> list[tuple[Mapping[str, Any], EndedTask]]:
        self.fleet.live()
        ending = self.fleet.chance.sample(sorted(self.open), self.fleet.chance.randint(1, len(self.open)))
        found = [(self.open.pop(number), EndedTask(str(number), end_of(number))) for number in ending]
        self.done |= set(ending)
        self.fleet.live()
        return found

    def forget_written(self) -> None:
        self.fleet.live()
        self.fleet.forgotten |= self.done
        self.done.clear()


def end_of(number: int) -> TaskResult:
    if number in FAILING:
        return TaskResult(states.FAILURE, error=PredictionFailedError("qa", "KeyError", "no key"))
    return TaskResult(states.SUCCESS, Result({"answer": number}, {"cost_usd": "0.5"}))


def lines(after: int) -> Iterator[BulkLine]:
    for number in range(1, LINES + 1):
        if number > after:
            problem = "it isn't JSON" if number in UNREADABLE else ""
            yield BulkLine(number, {"line": number}, None if problem else {"question": str(number)}, problem)


def options(seen: list[BulkProgress] | None = None, *, batch: int = 5, limit: Decimal | None = None) -> PassOptions:
    tell = (lambda _: None) if seen is None else seen.append
    return PassOptions("qa", LINES, 20, batch, SpendLimit(limit), 60.0, tell)


def run_once(folder: Path, fleet: FakeFleet, *, killing: bool = False, **how: Any) -> tuple[BulkState, FakeWindow]:
    """Run one process's pass: its clock runs, so that it flushes often."""
    checkpoint = Checkpoint(folder / "out.checkpoint")
    if checkpoint.load() is None:
        checkpoint.start(SETTINGS)
    found = checkpoint.load()
    assert found is not None
    if killing:
        kill_between_writes(checkpoint, fleet)
    records = RecordFile(folder / "out.jsonl", checkpoint, found[1])
    ticks = iter(range(10**9))
    window = FakeWindow(fleet)
    try:
        LinePass(cast(Any, window), records, options(**how), lambda: next(ticks) / 3).run(lines(found[1].line))
        return records.state, window
    finally:
        records.close()
        checkpoint.close()


def kill_between_writes(checkpoint: Checkpoint, fleet: FakeFleet) -> None:
    """Let the process die between the output's write and the checkpoint's."""
    save = checkpoint.save

    def saving(state: BulkState, waiting: Any = ()) -> None:
        fleet.live()
        save(state, waiting)

    cast(Any, checkpoint).save = saving


def read_output(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "out.jsonl").read_bytes().splitlines()]


@pytest.mark.parametrize("seed", range(6))
def test_each_line_stands_once_and_in_order_however_often_the_process_is_killed(tmp_path: Path, seed: int) -> None:
    fleet = FakeFleet(random.Random(seed))
    killed = 0
    while True:
        fleet.kills_in = fleet.chance.randint(0, 70)
        try:
            state, _ = run_once(tmp_path, fleet, killing=True)
            break
        except ProcessKilledError:
            killed += 1
    assert killed
    written = read_output(tmp_path)
    assert [record["line"] for record in written] == list(range(1, LINES + 1))
    assert len(fleet.sent) == LINES - len(UNREADABLE), "each line was paid once"
    assert {record["line"] for record in written if "error" in record} == UNREADABLE | FAILING
    assert (state.done, state.failed) == (LINES, 4)
    assert state.errors == {"InputError": 2, "PredictionFailedError": 2}
    assert state.cost_usd == Decimal("0.5") * (LINES - 4)


def test_no_more_lines_are_in_flight_than_allowed_and_progress_is_told(tmp_path: Path) -> None:
    seen: list[BulkProgress] = []
    state, window = run_once(tmp_path, FakeFleet(random.Random(1)), seen=seen)
    assert state.done == LINES
    assert window.most <= 20
    assert (seen[-1].state.done, seen[-1].total, seen[-1].in_flight) == (LINES, LINES, 0)


def test_a_slow_line_holds_up_no_other_and_what_waits_for_it_is_durable(tmp_path: Path) -> None:
    class SlowFirst(FakeWindow):
        def collect(self, wait_s: float) -> list[tuple[Mapping[str, Any], EndedTask]]:
            others = [number for number in self.open if number != 1]
            ending = others or [1]
            return [(self.open.pop(number), EndedTask(str(number), end_of(number))) for number in ending]

    checkpoint = Checkpoint(tmp_path / "out.checkpoint")
    checkpoint.start(SETTINGS)
    records = RecordFile(tmp_path / "out.jsonl", checkpoint, BulkState())
    waiting: list[int] = []
    save = checkpoint.save

    def saving(state: BulkState, rows: Any = ()) -> None:
        save(state, rows)
        waiting.append(checkpoint.count_waiting())

    cast(Any, checkpoint).save = saving
    ticks = iter(range(10**9))
    LinePass(cast(Any, SlowFirst(FakeFleet(random.Random(0)))), records, options(), lambda: next(ticks)).run(lines(0))
    records.close()
    assert max(waiting) == LINES - 1
    assert [record["line"] for record in read_output(tmp_path)] == list(range(1, LINES + 1))
    checkpoint.close()


def test_a_run_stops_where_nothing_ends_any_more(tmp_path: Path) -> None:
    class Silent(FakeWindow):
        def collect(self, wait_s: float) -> list[tuple[Mapping[str, Any], EndedTask]]:
            return []

    checkpoint = Checkpoint(tmp_path / "out.checkpoint")
    checkpoint.start(SETTINGS)
    records = RecordFile(tmp_path / "out.jsonl", checkpoint, BulkState())
    ticks = iter(range(10**9))
    window = cast(Any, Silent(FakeFleet(random.Random(0))))
    assert LinePass(window, records, options(), lambda: float(next(ticks))).run(lines(0)) == "stalled"
    records.close()
    checkpoint.close()


def test_a_limit_ends_the_run_below_it(tmp_path: Path) -> None:
    state, window = run_once(tmp_path, FakeFleet(random.Random(3)), limit=Decimal(25))
    assert Decimal(24) <= state.cost_usd <= Decimal(25)
    assert not window.open
    rest, _ = run_once(tmp_path, FakeFleet(random.Random(3)), limit=Decimal(1000))
    assert rest.done == LINES
    assert [record["line"] for record in read_output(tmp_path)] == list(range(1, LINES + 1))

"""Periodic work, waits and background tasks on an event loop."""

from __future__ import annotations

import asyncio
import logging

import pytest

from snakepit_bridge.exceptions import StoreUnavailableError
from snakepit_bridge.process.aio import BackgroundTasks, OutageLog, cancel_tasks, every, run_together, wait_for_event
from tests.harness.waiting import PATIENCE_S

LOG = logging.getLogger("of this test")


def test_an_outage_and_its_end_are_logged_once_each(caplog: pytest.LogCaptureFixture) -> None:
    outage = OutageLog(LOG, "Can't look")
    outage.recovered()
    assert caplog.messages == []
    outage.failed("no connection")
    outage.failed("no connection")
    outage.recovered()
    outage.recovered()
    assert caplog.messages == ["Can't look: no connection", "Recovered: Can't look"]
    outage.failed("no answer")
    assert caplog.messages[-1] == "Can't look: no answer"


class Rounds:
    """Work whose rounds end as listed; the last one sets ``done``."""

    def __init__(self, *errors: Exception | None) -> None:
        self._errors = list(errors)
        self.count = 0
        self.done = asyncio.Event()

    async def run(self) -> None:
        self.count += 1
        error = self._errors.pop(0) if self._errors else None
        if not self._errors:
            self.done.set()
        if error is not None:
            raise error


async def finished(rounds: Rounds, running: asyncio.Task[None]) -> None:
    assert await wait_for_event(rounds.done, 5)
    await cancel_tasks(running)


async def test_periodic_work_goes_on_after_errors(caplog: pytest.LogCaptureFixture) -> None:
    unavailable = StoreUnavailableError("redis://host", "refused")
    rounds = Rounds(unavailable, unavailable, LookupError("odd"), None, None)
    await finished(rounds, asyncio.create_task(every(0.001, rounds.run, OutageLog(LOG, "Can't look"))))
    assert caplog.messages == [f"Can't look: {unavailable}", "Can't look; retrying", "Recovered: Can't look"]


async def test_other_errors_can_be_the_expected_ones(caplog: pytest.LogCaptureFixture) -> None:
    rounds = Rounds(LookupError("odd"), LookupError("odd"))
    outage = OutageLog(LOG, "Can't look", expected=LookupError)
    await finished(rounds, asyncio.create_task(every(0.001, rounds.run, outage)))
    assert caplog.messages == ["Can't look: odd"]


async def test_an_event_begins_the_next_round_early() -> None:
    rounds, wake_up = Rounds(None, None), asyncio.Event()
    running = asyncio.create_task(every(60, rounds.run, OutageLog(LOG, "Can't look"), wake_up=wake_up))
    await asyncio.sleep(0)
    assert rounds.count == 1
    wake_up.set()
    await finished(rounds, running)
    assert (rounds.count, wake_up.is_set()) == (2, False)


async def test_periodic_work_can_begin_with_a_pause() -> None:
    rounds, wake_up = Rounds(None), asyncio.Event()
    outage = OutageLog(LOG, "Can't look")
    running = asyncio.create_task(every(60, rounds.run, outage, wake_up=wake_up, at_once=False))
    await asyncio.sleep(0)
    assert rounds.count == 0
    wake_up.set()
    await finished(rounds, running)


async def test_a_wait_for_an_event_says_whether_it_came() -> None:
    event = asyncio.Event()
    assert not await wait_for_event(event, 0.001)
    waiting = asyncio.create_task(wait_for_event(event, None))
    await asyncio.sleep(0)
    event.set()
    assert await waiting


async def test_cancelled_tasks_have_ended_and_their_errors_are_dropped() -> None:
    async def fail() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise LookupError

    task = asyncio.create_task(fail())
    await asyncio.sleep(0)
    await cancel_tasks(task, None)
    assert isinstance(task.exception(), LookupError)


async def test_background_tasks_can_be_awaited_and_cancelled() -> None:
    tasks, event = BackgroundTasks(), asyncio.Event()
    waiting = tasks.spawn(event.wait())
    event.set()
    await tasks.wait()
    assert waiting.result()
    endless = tasks.spawn(asyncio.Event().wait())
    await tasks.cancel()
    assert endless.cancelled()


async def test_an_idle_round_ends_no_outage(caplog: pytest.LogCaptureFixture) -> None:
    answers: list[bool | Exception] = [StoreUnavailableError("redis://r", "it is away"), False, False, True]
    done = asyncio.Event()

    async def work() -> bool:
        if not answers:
            done.set()
            return False
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    log = logging.getLogger("test.idle")
    running = asyncio.create_task(every(0.001, work, OutageLog(log, "Can't look")))
    await asyncio.wait_for(done.wait(), PATIENCE_S)
    await cancel_tasks(running)
    assert [message.partition(":")[0] for message in caplog.messages] == ["Can't look", "Recovered"]


def test_the_same_unexpected_error_is_logged_until_it_changes(caplog: pytest.LogCaptureFixture) -> None:
    outage = OutageLog(logging.getLogger("test.unexpected"), "Can't look")
    for error in (ValueError("a"), ValueError("a"), ValueError("b"), None, ValueError("b")):
        with outage.survive():
            if error is not None:
                raise error
    assert len(caplog.records) == 3


async def test_the_first_failure_of_several_is_raised_once_the_others_have_ended() -> None:
    ended = list[str]()

    async def fail() -> None:
        raise StoreUnavailableError("redis://r", "it is away")

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("waited")

    with pytest.raises(StoreUnavailableError):
        await run_together(wait(), fail(), wait())
    assert ended == ["waited", "waited"]


@pytest.mark.parametrize("turns", range(8))
async def test_a_cancellation_is_not_lost_to_a_failure_of_the_same_moment(turns: int) -> None:
    """Who runs them again after each failure must end when it is cancelled, whichever comes first."""
    failing = asyncio.Event()

    async def fail() -> None:
        await failing.wait()
        raise StoreUnavailableError("redis://r", "it is away")

    async def stop_slowly() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(3):
                await asyncio.sleep(0)

    async def run_for_ever() -> None:
        while True:
            try:
                await run_together(fail(), stop_slowly())
            except StoreUnavailableError:
                failing.clear()

    running = asyncio.create_task(run_for_ever())
    await asyncio.sleep(0.01)
    failing.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    running.cancel()
    ended, _ = await asyncio.wait([running], timeout=PATIENCE_S)
    assert ended
    assert running.cancelled()

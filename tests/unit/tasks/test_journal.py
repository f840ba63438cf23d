"""The journal of one prediction: which answer belongs to which call, what is written when, and what it costs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest

from snakepit_bridge.costs.usage import LMUsage
from snakepit_bridge.exceptions import StoreUnavailableError
from tasks.journal.entries import LMAnswer
from tasks.journal.journal import MAX_ENTRY_BYTES, CallJournal
from tests.harness.waiting import eventually
from tests.unit.tasks.callers import call, response

USED = {"demo": LMUsage(1, 0, 3, 0, 2, 0, 500)}


class Store:
    """A Redis that can be away."""

    def __init__(self) -> None:
        self.entries: dict[str, bytes] = {}
        self.failures: list[Exception] = []
        self.writes = 0

    def has_written(self, times: int) -> Callable[[], Awaitable[bool]]:
        async def check() -> bool:
            return self.writes == times

        return check

    def key(self, task_id: str) -> str:
        return f"journal of {task_id}"

    def add(self, task_id: str, entries: Mapping[str, bytes]) -> Awaitable[Any]:
        self.writes += 1
        written: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self.failures:
            written.set_exception(self.failures.pop(0))
        else:
            self.entries |= entries
            written.set_result(len(entries))
        return written


@pytest.fixture
def store() -> Store:
    return Store()


def journal_of(store: Any, *, attempt: int = 1, patience_s: float = 5.0) -> CallJournal:
    journal = CallJournal(store, "t", attempt=attempt, found=dict(store.entries), patience_s=patience_s)
    journal.begin_run()
    return journal


async def record(journal: CallJournal, **texts: str) -> None:
    for question, answer in texts.items():
        journal.record_answer(call(text=question), response(answer), USED)
    await journal.wait_written(None)


def text_of(found: LMAnswer | None) -> str | None:
    return None if found is None else found.response.text


async def test_a_call_finds_its_own_answer_in_whatever_order(store: Store) -> None:
    await record(journal_of(store), first="1", second="2")
    again = journal_of(store)
    assert text_of(again.find_answer(call(text="second"))) == "2"
    assert again.find_answer(call(text="third")) is None
    assert again.find_answer(call("openai/other", text="first")) is None
    assert text_of(again.find_answer(call(text="first"))) == "1"
    assert (again.replayed, again.unused) == (2, 0)


async def test_equal_calls_are_different_samples(store: Store) -> None:
    journal = journal_of(store)
    await record(journal, why="1")
    await record(journal, why="2")
    again = journal_of(store)
    assert [text_of(again.find_answer(call(text="why"))) for _ in range(3)] == ["1", "2", None]
    await record(again, why="3")
    last = journal_of(store)
    assert [text_of(last.find_answer(call(text="why"))) for _ in range(4)] == ["1", "2", "3", None]


async def test_answers_of_this_run_are_no_answers_to_its_further_calls(store: Store) -> None:
    journal = journal_of(store)
    await record(journal, why="1")
    assert journal.find_answer(call(text="why")) is None
    journal.begin_run()
    assert text_of(journal.find_answer(call(text="why"))) == "1", "the next run of the same delivery has them"


async def test_an_answer_waits_for_the_next_call_or_a_moment(store: Store) -> None:
    journal = journal_of(store)
    journal.record_answer(call(), response(), USED)
    assert store.writes == 0
    journal.flush()
    assert store.writes == 1
    journal.record_answer(call(), response(), USED)
    await eventually(store.has_written(2), "the second write")
    await journal.wait_written(None)
    assert store.writes == 2, "there was nothing left to write"


async def test_the_commit_ends_it(store: Store) -> None:
    journal = journal_of(store)
    journal.record_answer(call(), response(), USED)
    assert journal.close() == "", "nothing was written, so there is nothing to remove"
    journal.record_answer(call(), response(), USED)
    journal.flush()
    assert store.writes == 0
    written = journal_of(store)
    await record(written, why="1")
    assert written.close() == journal_of(store).close() == "journal of t"


async def test_a_call_waits_until_redis_has_what_it_is_built_on(store: Store) -> None:
    store.failures = [StoreUnavailableError("redis", "away")] * 2
    await record(journal_of(store), first="1")
    assert len(store.entries) == 1
    assert store.writes == 3


@pytest.mark.parametrize(("error", "patience_s"), [(StoreUnavailableError("redis", "away"), 0.0), (ValueError(), 5.0)])
async def test_a_call_goes_on_where_redis_never_takes_it(store: Store, error: Exception, patience_s: float) -> None:
    store.failures = [error]
    journal = journal_of(store, patience_s=patience_s)
    await record(journal, first="1")
    assert store.entries == {}
    await record(journal, second="2")
    assert len(store.entries) == 2, "the next call takes it along"


async def test_what_is_too_large_is_not_recorded(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    await record(journal_of(store), long="x" * MAX_ENTRY_BYTES, short="1")
    again = journal_of(store)
    assert again.find_answer(call(text="long")) is None
    assert text_of(again.find_answer(call(text="short"))) == "1"
    assert "isn't recorded" in caplog.text


async def test_what_an_unknown_version_has_written_is_asked_again(store: Store) -> None:
    await record(journal_of(store), why="1")
    store.entries = dict.fromkeys(store.entries, b'{"v": 2}')
    again = journal_of(store)
    assert again.earlier_usage() == {}
    assert again.find_answer(call(text="why")) is None


async def test_what_earlier_attempts_used_is_in_the_message_and_what_lost_workers_used_is_not(store: Store) -> None:
    await record(journal_of(store, attempt=1), first="1")
    await record(journal_of(store, attempt=2), second="2")
    assert journal_of(store, attempt=2).earlier_usage() == USED
    assert journal_of(store, attempt=3).earlier_usage() == {}
    found = journal_of(store).find_answer(call(text="first"))
    assert found is not None
    assert found.answered_by == "demo"

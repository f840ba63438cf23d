"""Mapping keeps its order and its bound, and sends together what it may."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import pytest

from snakepit_bridge.client.mapping import map_inputs, split
from snakepit_bridge.exceptions import InputError, StoreUnavailableError


class Sent:
    """Stands for a handle: its answer is its number, unless that is a bad one."""

    def __init__(self, number: int, waiting: list[int]) -> None:
        self.number = number
        self.id = str(number)
        self._waiting = waiting
        waiting.append(number)

    def get(self, timeout: float | None) -> Any:
        self._waiting.remove(self.number)
        if self.number == 13:
            raise InputError("qa", "question", "it is 13")
        return self.number


def run(count: int, errors: Any = "raise", **how: Any) -> tuple[list[Any], list[int], int]:
    """Returns the outcomes, the sizes of what was sent together, and how many were on their way at most."""
    waiting, sizes, most = list[int](), list[int](), 0

    def send(inputs: Sequence[Mapping[str, Any]]) -> Any:
        nonlocal most
        sizes.append(len(inputs))
        sent = [Sent(item["n"], waiting) for item in inputs]
        most = max(most, len(waiting))
        return sent

    source: Iterator[Mapping[str, Any]] = ({"n": number} for number in range(count))
    found = list(map_inputs(send, source, errors=errors, timeout=None, **how))
    return found, sizes, most


@pytest.mark.parametrize(("batch", "in_flight"), [(1, 5), (4, 10), (10, 10), (50, 10), (3, 100)])
def test_outcomes_come_in_order_and_no_more_are_on_their_way_than_allowed(batch: int, in_flight: int) -> None:
    found, sizes, most = run(40, "return", batch=batch, in_flight=in_flight)
    assert [13 if isinstance(outcome, InputError) else outcome for outcome in found] == list(range(40))
    assert max(sizes) == min(batch, in_flight, 40)
    assert sum(sizes) == 40
    assert most <= in_flight


def test_a_failed_one_ends_it_or_stands_in_its_place() -> None:
    found, _, _ = run(15, "return", batch=4, in_flight=8)
    assert isinstance(found[13], InputError)
    with pytest.raises(InputError):
        run(15, batch=4, in_flight=8)


def test_an_endless_source_is_taken_as_it_is_needed() -> None:
    read = 0

    def endless() -> Iterator[int]:
        nonlocal read
        while True:
            read += 1
            yield read

    chunks = split(endless(), 3)
    assert [next(chunks), next(chunks)] == [[1, 2, 3], [4, 5, 6]]
    assert read == 6
    assert list(split([1, 2, 3, 4, 5], 2)) == [[1, 2], [3, 4], [5]]


def test_results_are_forgotten_once_all_that_travelled_with_them_were_yielded() -> None:
    sent, forgotten = list[int](), list[str]()

    async def forget(ids: Sequence[str]) -> None:
        forgotten.extend(ids)

    def send(inputs: Sequence[Mapping[str, Any]]) -> Any:
        return [Sent(item["n"] + 100, sent) for item in inputs]

    source: Iterator[Mapping[str, Any]] = ({"n": number} for number in range(250))
    outcomes = map_inputs(send, source, in_flight=40, batch=20, errors="raise", timeout=None, forget=forget)
    for place, outcome in enumerate(outcomes):
        assert len(forgotten) % 20 == 0
        assert forgotten == [str(100 + number) for number in range(len(forgotten))]
        assert len(forgotten) <= place
        assert outcome == 100 + place
    assert len(forgotten) == 250


def test_what_redis_can_not_forget_now_is_forgotten_later(caplog: pytest.LogCaptureFixture) -> None:
    calls = list[Sequence[str]]()

    async def forget(ids: Sequence[str]) -> None:
        calls.append(ids)
        if len(calls) == 1:
            raise StoreUnavailableError("redis://somewhere", "gone")

    source: Iterator[Mapping[str, Any]] = ({"n": number} for number in range(150))
    waiting = list[int]()
    list(
        map_inputs(
            lambda inputs: [cast(Any, Sent(item["n"] + 100, waiting)) for item in inputs],
            source, in_flight=10, batch=1, errors="raise", timeout=None, forget=forget,
        )
    )  # fmt: skip
    assert [len(ids) for ids in calls] == [100, 101, 49]
    assert "stay in Redis for now" in caplog.text

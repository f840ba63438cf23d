"""Blocking twins of methods that are awaited."""

from __future__ import annotations

import inspect

from snakepit_bridge.process.blocking_methods import blocking


class AsyncCounter:
    """Counts, for callers that await."""

    async def add(self, number: int, *, times: int = 1) -> int:
        """Return a number taken so many times."""
        return number * times


class Counter:
    """Counts."""

    def __init__(self) -> None:
        self.aio = AsyncCounter()

    add = blocking(AsyncCounter.add)


def test_it_returns_what_the_other_does_and_has_its_signature_and_docstring() -> None:
    assert Counter().add(3, times=2) == 6
    assert inspect.signature(Counter.add) == inspect.signature(AsyncCounter.add)
    assert Counter.add.__doc__ == "Return a number taken so many times."
    assert not inspect.iscoroutinefunction(Counter.add)


def test_it_calls_the_method_that_its_own_object_has() -> None:
    class Doubled(AsyncCounter):
        async def add(self, number: int, *, times: int = 1) -> int:
            return 2 * await super().add(number, times=times)

    counter = Counter()
    counter.aio = Doubled()
    assert counter.add(3) == 6

"""Load: so many predictions, so many of them at a time, and how long each took."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

Predict = Callable[[int], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Done:
    """A round that is over: how long it took, and each of its predictions."""

    seconds: float
    each_s: Sequence[float]

    @property
    def per_s(self) -> float:
        """Predictions per second."""
        return len(self.each_s) / self.seconds

    @property
    def p99_ms(self) -> float:
        """Milliseconds within which 99 of 100 had their answer."""
        return sorted(self.each_s)[max(0, round(len(self.each_s) * 0.99) - 1)] * 1000


async def closed_loop(predict: Predict, count: int, in_flight: int) -> Done:
    """Make predictions, always so many at a time."""
    numbers, each_s = iter(range(count)), list[float]()

    async def lane() -> None:
        for number in numbers:
            begun = time.perf_counter()
            await predict(number)
            each_s.append(time.perf_counter() - begun)

    begun = time.perf_counter()
    await asyncio.gather(*(lane() for _ in range(min(count, in_flight))))
    return Done(time.perf_counter() - begun, each_s)

"""Waiting on conditions and bounds of time: no test sleeps for a guessed time, hangs, or fails of a busy machine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

# Most waits end soon and are looked at often; a long one ends a tenth later at most, and asks for less CPU meanwhile.
_SLOWER = 0.1
_SLOWEST_S = 0.2

# The bound of a wait that ends well: a busy machine keeps to it, and a hanging test ends before pytest's own limit.
PATIENCE_S = 120.0
# https://docs.kernel.org/accounting/psi.html: "some" is when at least one task of the machine had to wait for a CPU.
_PRESSURE = Path("/proc/pressure/cpu")
# However busy the machine is, so much of the time that passes counts.
_LEAST_SHARE = 0.2


class Stopwatch:
    """Measures the seconds in which the machine had a CPU for everybody.

    What takes a part of a second on a quiet machine takes many on a busy one, where processes queue for a CPU. Such
    time says nothing of the code, so up to four fifths of it are left out, where the system tells them (Linux does).
    """

    def __init__(self) -> None:
        self._began_s, self._queued_s = time.monotonic(), _queued_s()

    @property
    def elapsed_s(self) -> float:
        """Return the seconds since it was made, without those in which somebody waited for a CPU."""
        return self.passed_s - self.queued_s

    @property
    def passed_s(self) -> float:
        """Return the seconds since it was made, as a clock on the wall tells them."""
        return time.monotonic() - self._began_s

    @property
    def queued_s(self) -> float:
        """Return the seconds of those that are left out."""
        return min(_queued_s() - self._queued_s, self.passed_s * (1 - _LEAST_SHARE))


def _queued_s() -> float:
    """Return for how many seconds since it was started the machine had too few CPUs; 0 where nothing tells."""
    try:
        pressure = _PRESSURE.read_text().splitlines()[0]
    except OSError:
        return 0.0
    return int(pressure.rpartition("total=")[2]) / 1e6


@contextmanager
def within(seconds: float) -> Generator[None]:
    """Assert that the block ends within so many seconds of a stopwatch, whether it raises or not."""
    watch = Stopwatch()
    try:
        yield
    finally:
        took_s = watch.elapsed_s
        assert took_s <= seconds, f"it took {took_s:.1f} s, more than {seconds:g} s"


def wait_until(
    predicate: Callable[[], T | None], description: str, *, timeout_s: float = 15.0, poll_s: float | None = None
) -> T:
    """Return the predicate's first true answer.

    Args:
        predicate: called again and again.
        description: what is waited for.
        timeout_s: how long, by a stopwatch.
        poll_s: between two calls; without it 20 ms, and more the longer it takes.

    Raises:
        AssertionError: it was not true within ``timeout_s`` seconds of a stopwatch; it says what was waited for and
            last seen.
    """
    watch = Stopwatch()
    while True:
        answer = predicate()
        if answer:
            return answer
        if watch.elapsed_s > timeout_s:
            raise AssertionError(f"Waited {timeout_s:g} s in vain for {description}; last seen: {answer!r}")
        time.sleep(_pause_s(watch, 0.02) if poll_s is None else poll_s)


async def eventually(
    predicate: Callable[[], Awaitable[T | None]],
    description: str,
    *,
    timeout_s: float = 15.0,
    poll_s: float | None = None,
) -> T:
    """Return a coroutine function's first true answer; ``wait_until`` for code that runs on the loop."""
    watch = Stopwatch()
    while True:
        answer = await predicate()
        if answer:
            return answer
        if watch.elapsed_s > timeout_s:
            raise AssertionError(f"Waited {timeout_s:g} s in vain for {description}; last seen: {answer!r}")
        await asyncio.sleep(_pause_s(watch, 0.01) if poll_s is None else poll_s)


def _pause_s(watch: Stopwatch, least_s: float) -> float:
    """Return for how long to pause after so much of a wait."""
    return max(least_s, min(watch.passed_s * _SLOWER, _SLOWEST_S))

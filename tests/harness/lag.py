"""Programs that measure how late a worker's event loop is, and that block until another lets them go."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import dspy

from tests.harness.waiting import PATIENCE_S

_EVERY_S = 0.01

_stopped = threading.Event()
_stopped.set()
_let_go = threading.Event()
_measured = threading.Condition()
_moments = 0


def block_while_measured(moments: int = 100) -> None:
    """Block this thread until so many further moments of a measurement have passed; return at once where none runs."""
    with _measured:
        until = _moments + moments
        if not _measured.wait_for(lambda: _moments >= until or _stopped.is_set(), timeout=PATIENCE_S):
            raise TimeoutError("the measurement stands still")


class Delays:
    """How late each of a schedule's moments was met; a moment that was missed while nothing ran counts as well."""

    def __init__(self) -> None:
        self._due = time.monotonic()
        self.late_s: list[float] = []

    def met(self) -> None:
        """Count the moments that are due by now."""
        now = time.monotonic()
        while self._due <= now:
            self.late_s.append(now - self._due)
            self._due += _EVERY_S

    def p99_ms(self) -> float:
        """Return the delay that one moment in a hundred exceeds."""
        return round(sorted(self.late_s)[int(0.99 * (len(self.late_s) - 1))] * 1_000, 1)


class Measures(dspy.Module):
    """Measures the loop, and a thread beside it that has nothing to do, until ``Stops`` runs."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = dspy.Predict("question -> answer")

    async def aforward(self, question: str) -> Any:
        _stopped.clear()
        of_loop, of_thread = Delays(), Delays()
        threading.Thread(target=_measure_thread, args=(of_thread,), daemon=True).start()
        measuring = asyncio.create_task(_measure_loop(of_loop))
        # The test goes on once the LM is asked: by then it is measured.
        await self.answer.acall(question=question)
        await measuring
        return dspy.Prediction(answer=f"{of_loop.p99_ms()} {of_thread.p99_ms()} {len(of_loop.late_s)}")


async def _measure_loop(delays: Delays) -> None:
    while not _stopped.is_set():
        await asyncio.sleep(_EVERY_S)
        delays.met()


def _measure_thread(delays: Delays) -> None:
    global _moments
    while not _stopped.is_set():
        time.sleep(_EVERY_S)
        delays.met()
        with _measured:
            _moments += 1
            _measured.notify_all()


class Stops(dspy.Module):
    """Ends the measurement."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = dspy.Predict("question -> answer")

    async def aforward(self, question: str) -> Any:
        with _measured:
            _stopped.set()
            _measured.notify_all()
        return dspy.Prediction(answer=question)


class BlocksLoop(dspy.Module):
    """Does what no program should: it blocks the loop itself."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = dspy.Predict("question -> answer")

    async def aforward(self, question: str) -> Any:
        block_while_measured()
        return dspy.Prediction(answer=question)


class Held(dspy.Module):
    """Blocks its thread until ``LetsGo`` runs."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = dspy.Predict("question -> answer")

    def forward(self, question: str) -> Any:
        before = self.answer(question=f"{question} before")
        if not _let_go.wait(PATIENCE_S):
            raise TimeoutError("nobody lets it go")
        return before


class LetsGo(dspy.Module):
    """Lets go of all that are held."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = dspy.Predict("question -> answer")

    async def aforward(self, question: str) -> Any:
        _let_go.set()
        return dspy.Prediction(answer=question)


MEASURING = (Measures, Stops, BlocksLoop, Held, LetsGo)

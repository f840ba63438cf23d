"""A load generator that writes growing values to Elixir and checks what the store holds meanwhile."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from snakepit_bridge.exceptions import SessionNotFoundError, StoreUnavailableError
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.snapshots import SnapshotStore
from snakepit_bridge.testing.elixir.coercion import RefusedCallError
from snakepit_bridge.testing.elixir.server import BridgeServer
from tests.harness.waiting import PATIENCE_S, eventually


@dataclass
class Counts:
    """Counts of violations, which must be zero at the end, and of the operations done."""

    changes: int = 0
    samples: int = 0
    revisions: int = 0
    lost: int = 0
    stale: int = 0
    backward: int = 0

    def __str__(self) -> str:
        done = f"{self.changes} changes, {self.samples} samples, {self.revisions} revisions"
        return f"{done}: lost={self.lost} stale={self.stale} backward={self.backward}"


@dataclass
class Load:
    """Writes to ``sessions`` of an Elixir stand-in and samples what the store holds of them.

    Values come from one counter, so they grow in every session, over restarts of the server too.
    """

    elixir: BridgeServer
    store: SnapshotStore
    sessions: tuple[str, ...]
    counts: Counts = field(default_factory=Counts)
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
    _written: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    _tokens: dict[str, Token] = field(default_factory=dict)

    def register(self) -> None:
        """Create the sessions and their variable, as an application does at its start."""
        for session in self.sessions:
            self.elixir.begin(session)
            number = next(self._numbers)
            self.elixir.register(session, "n", "integer", number)
            self._note(session, number)

    def change(self, session: str) -> None:
        """Set the next value, unless the server is down."""
        number = next(self._numbers)
        with suppress(RefusedCallError):
            self.elixir.set(session, "n", number)
            self._note(session, number)

    @asynccontextmanager
    async def running(self, every_s: float = 0.005, changes: int = 0) -> AsyncGenerator[None]:
        """Write and sample while the block runs, and on until there are so many changes and a sample for every four."""

        async def enough() -> bool:
            return self.counts.changes >= changes and self.counts.samples >= changes / 4

        tasks = [asyncio.create_task(self._change_all(every_s)), asyncio.create_task(self._sample_all())]
        try:
            yield
            await eventually(enough, f"{changes} changes", timeout_s=PATIENCE_S)
            failed = [task for task in tasks if task.done()]
            assert not failed, failed
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def settle(self, timeout_s: float = 30.0) -> Counts:
        """Wait until the store holds the last values, and return the counts."""

        async def arrived() -> bool:
            return all([await self._sample(session) == self._written[session][-1][0] for session in self.sessions])

        try:
            await eventually(arrived, "the last values", timeout_s=timeout_s)
        except AssertionError:
            self.counts.lost += 1
        for session in self.sessions:
            values = [change.after.get("n") for change in reversed(await self.store.history(session, 1_000_000))]
            numbers = [variable.value for variable in values if variable is not None]
            self.counts.revisions += len(numbers)
            self.counts.backward += sum(later <= earlier for earlier, later in itertools.pairwise(numbers))
        return self.counts

    async def newly_confirmed(self, session: str, timeout_s: float = 30.0) -> None:
        """Wait until the store has a confirmation from after the call."""
        called = time.time()

        async def confirmed() -> bool:
            head = (await self.store.heads([session])).get(session)
            return head is not None and head.confirmed_at > called

        await eventually(confirmed, f"a new look at {session}", timeout_s=timeout_s)

    def _note(self, session: str, number: int) -> None:
        self.counts.changes += 1
        self._written.setdefault(session, []).append((number, time.time()))

    async def _change_all(self, every_s: float) -> None:
        for session in itertools.cycle(self.sessions):
            self.change(session)
            await asyncio.sleep(every_s)

    async def _sample_all(self) -> None:
        for session in itertools.cycle(self.sessions):
            with suppress(StoreUnavailableError):
                await self._sample(session)
            await asyncio.sleep(0.001)

    async def _sample(self, session: str) -> int | None:
        """Check that a snapshot confirmed after a value was written holds that value or a later one."""
        try:
            snapshot = await self.store.read(session)
        except SessionNotFoundError:
            return None
        self.counts.samples += 1
        number: int = snapshot.value("n")
        due = max((n for n, at in self._written[session] if at < snapshot.confirmed_at), default=0)
        self.counts.stale += number < due
        self.counts.backward += snapshot.token < self._tokens.get(session, snapshot.token)
        self._tokens[session] = snapshot.token
        return number

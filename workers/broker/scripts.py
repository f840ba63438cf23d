"""The scripts that the keeper runs, on a connection of its own and never sent twice by the client by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from redis import Redis

from workers.broker.lease_settings import LeaseSettings
from workers.broker.leases import LeaseTable
from workers.broker.lua import SCRIPTS
from workers.broker.settlement import Settlement, flat

# Messages may be large, and a script holds the server up.
AT_ONCE = 100


class Scripts:
    """The scripts on one connection, for one holding.

    Args:
        client: a client that sends nothing twice and adds no prefix.
        holding: whose keys they take.
    """

    def __init__(self, client: Redis, holding: LeaseTable) -> None:
        self.client = client
        self._holding = holding
        self._made: dict[str, Callable[..., Any]] = {}

    @property
    def terms(self) -> LeaseSettings:
        """The terms on which the messages are held."""
        return self._holding.terms

    def beat(self) -> tuple[int, list[tuple[str, str]]]:
        """Says that this process is alive; returns how much it holds, and the silent workers that it has to reap.

        Raises:
            RedisError: the broker is away.
        """
        holding, layout = self._holding, self._holding.layout
        # Beats aren't exact to the millisecond, and two that come a little early should still be two ticks.
        between_ms = round(holding.terms.beat_s * 900)
        missed = round(holding.terms.lease_s / holding.terms.beat_s)
        keys = [layout.workers, layout.ticks, layout.held(holding.worker)]
        count, *silent = self._run("beat", keys, [holding.worker, between_ms, missed])
        names = [part.decode() for part in silent]
        return int(count), list(zip(names[::2], names[1::2], strict=True))

    def settle(self, settlements: Sequence[Settlement]) -> None:
        """Tells the broker how claims of this process ended, and notes that it knows.

        Raises:
            RedisError: the broker is away.
        """
        for start in range(0, len(settlements), AT_ONCE):
            some = settlements[start : start + AT_ONCE]
            self._run("settle", self._holding.keys, flat(some))
            self._holding.confirm(some)

    def reap(self, worker: str, beat: str, settlements: Iterable[Settlement]) -> bool:
        """Ends claims of a silent worker; False if it is back.

        Raises:
            RedisError: the broker is away.
        """
        layout = self._holding.layout
        keys = [layout.workers, layout.held(worker), layout.delayed, layout.dead, layout.dead_entries]
        return self._run("reap", keys, [worker, beat, *flat(settlements)]) >= 0

    def leave(self) -> None:
        """Forgets this process, if it holds nothing.

        Raises:
            RedisError: the broker is away.
        """
        layout, worker = self._holding.layout, self._holding.worker
        self._run("leave", [layout.workers, layout.held(worker)], [worker])

    def records(self, worker: str) -> Iterable[list[tuple[str, bytes]]]:
        """Yields what a worker holds, as tags and records, some at a time.

        Raises:
            RedisError: the broker is away.
        """
        key, cursor = self._holding.layout.held(worker), 0
        while True:
            answer: Any = self.client.hscan(key, cursor, count=AT_ONCE)
            cursor, found = answer
            yield [(tag.decode(), record) for tag, record in found.items()]
            if not cursor:
                return

    def tags(self) -> list[str]:
        """Returns the claims of this process that the broker knows of.

        Raises:
            RedisError: the broker is away.
        """
        found: Any = self.client.hkeys(self._holding.layout.held(self._holding.worker))
        return [tag.decode() for tag in found]

    def record(self, tag: str) -> bytes | None:
        """Returns the record of one of them.

        Raises:
            RedisError: the broker is away.
        """
        found: Any = self.client.hget(self._holding.layout.held(self._holding.worker), tag)
        return found

    def waiting(self, lists: Sequence[str]) -> int:
        """Returns how many messages wait in lists.

        Raises:
            RedisError: the broker is away.
        """
        with self.client.pipeline(transaction=False) as pipeline:
            for name in lists:
                pipeline.llen(name)
            return sum(pipeline.execute())

    def _run(self, name: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        script = self._made.get(name)
        if script is None:
            script = self._made[name] = self.client.register_script(SCRIPTS[name].text)
        return script(keys, args)

"""The keeper's scripts, run on its own connection without client-side retries."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from redis import Redis

from workers.broker.lease_settings import LeaseSettings
from workers.broker.leases import LeaseTable
from workers.broker.lua import SCRIPTS
from workers.broker.settlement import Settlement, encode

# Messages may be large, and a script blocks the server.
BATCH_SIZE = 100


class KeeperScripts:
    """The scripts on one connection, for one lease table.

    Args:
        client: a client without retries and without a key prefix.
        leases: the lease table whose keys they use.
    """

    def __init__(self, client: Redis, leases: LeaseTable) -> None:
        self.client = client
        self._leases = leases
        self._registered: dict[str, Callable[..., Any]] = {}

    @property
    def settings(self) -> LeaseSettings:
        """The lease settings."""
        return self._leases.settings

    def heartbeat(self) -> tuple[int, list[tuple[str, str]]]:
        """Send a heartbeat; return how many messages this process holds, and the dead workers to reap.

        Raises:
            RedisError: the broker is unreachable.
        """
        holding, layout = self._leases, self._leases.layout
        # Heartbeats jitter by milliseconds, and two that come a little early should still be two ticks.
        between_ms = round(holding.settings.heartbeat_s * 900)
        missed = round(holding.settings.lease_s / holding.settings.heartbeat_s)
        keys = [layout.workers, layout.ticks, holding.held_key]
        count, *silent = self._run("beat", keys, [holding.worker, between_ms, missed])
        names = [part.decode() for part in silent]
        return int(count), list(zip(names[::2], names[1::2], strict=True))

    def settle(self, settlements: Sequence[Settlement]) -> None:
        """Send settlements of this process's claims, and mark them as confirmed.

        Raises:
            RedisError: the broker is unreachable.
        """
        for start in range(0, len(settlements), BATCH_SIZE):
            batch = settlements[start : start + BATCH_SIZE]
            self._run("settle", self._leases.settle_keys, encode(batch))
            self._leases.confirm(batch)

    def reap(self, worker: str, beat: str, settlements: Iterable[Settlement]) -> int | None:
        """Settle claims of a dead worker; return how many it still held, or None if it is alive again.

        Raises:
            RedisError: the broker is unreachable.
        """
        layout = self._leases.layout
        keys = [layout.workers, layout.held(worker), layout.delayed, layout.dead, layout.dead_entries]
        settled = self._run("reap", keys, [worker, beat, *encode(settlements)])
        return settled if settled >= 0 else None

    def count_expired(self, count: int) -> None:
        """Count messages whose lease has expired, for those who watch the fleet.

        Raises:
            RedisError: the broker is unreachable.
        """
        if count:
            self.client.hincrby(self._leases.layout.ticks, "expired", count)

    def deregister(self) -> None:
        """Deregister this process, if it holds nothing.

        Raises:
            RedisError: the broker is unreachable.
        """
        layout, worker = self._leases.layout, self._leases.worker
        self._run("leave", [layout.workers, layout.held(worker)], [worker])

    def iter_records(self, worker: str) -> Iterable[list[tuple[str, bytes]]]:
        """Yield the tags and records of a worker's claims, in batches.

        Raises:
            RedisError: the broker is unreachable.
        """
        key, cursor = self._leases.layout.held(worker), 0
        while True:
            answer: Any = self.client.hscan(key, cursor, count=BATCH_SIZE)
            cursor, found = answer
            yield [(tag.decode(), record) for tag, record in found.items()]
            if not cursor:
                return

    def list_tags(self) -> list[str]:
        """Return the tags of this process's claims that the broker has recorded.

        Raises:
            RedisError: the broker is unreachable.
        """
        found: Any = self.client.hkeys(self._leases.held_key)
        return [tag.decode() for tag in found]

    def get_record(self, tag: str) -> bytes | None:
        """Return the record of one of this process's claims.

        Raises:
            RedisError: the broker is unreachable.
        """
        found: Any = self.client.hget(self._leases.held_key, tag)
        return found

    def count_waiting(self, lists: Sequence[str]) -> int:
        """Return how many messages are waiting in the lists.

        Raises:
            RedisError: the broker is unreachable.
        """
        with self.client.pipeline(transaction=False) as pipeline:
            for name in lists:
                pipeline.llen(name)
            return sum(pipeline.execute())

    def _run(self, name: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        script = self._registered.get(name)
        if script is None:
            script = self._registered[name] = self.client.register_script(SCRIPTS[name].text)
        return script(keys, args)

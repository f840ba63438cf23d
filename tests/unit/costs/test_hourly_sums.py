"""Reading hourly sums: page by page, with the event loop running on in between, and no field counted twice."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, cast

from snakepit_bridge.costs.hourly_sums import Sums, read_sums
from snakepit_bridge.costs.report import read_costs
from snakepit_bridge.costs.usage import LMUsage
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.key_names import FleetKeys

KEYS = FleetKeys("dspex")
ONE = b"1 2 0 30 0 4 0 0 5"


class Pages:
    """A connection that answers scans at once, without ever suspending, from the same pages for every hash."""

    def __init__(self, *pages: Mapping[bytes, bytes]) -> None:
        self.pages = pages
        self.sent = 0

    async def send_each(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        self.sent += len(commands)
        return [self._page(int(command[2])) for command in commands]

    def _page(self, at: int) -> list[Any]:
        flat = [part for item in self.pages[at].items() for part in item]
        return [(at + 1) % len(self.pages), flat]

    @property
    def connection(self) -> RedisConnection:
        return cast("RedisConnection", self)


async def test_the_event_loop_runs_on_after_each_page() -> None:
    pages = Pages(*({f"+p{number}".encode(): ONE} for number in range(40)))
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    running = asyncio.create_task(others())
    found = await read_sums(pages.connection, KEYS, "program", [1, 2])
    running.cancel()
    assert found["p7"] == Sums(2, usage=LMUsage(4, 0, 60, 0, 8, 0, 10))
    assert turns >= pages.sent == 80


async def test_a_field_that_a_scan_returns_twice_counts_once_in_each_hash() -> None:
    pages = Pages({b"+qa": ONE, b"-qa": ONE}, {b"+qa": b"2 3 0 31 0 5 0 0 6", b"+ab": ONE})
    found = await read_sums(pages.connection, KEYS, "program", range(20))
    each = LMUsage(40, 0, 600, 0, 80, 0, 100)
    assert found == {"qa": Sums(20, 20, each, each), "ab": Sums(20, usage=each)}


async def test_sessions_that_are_not_covered_are_left_out_while_reading() -> None:
    pages = Pages({f"+1.{number}:{name}".encode(): ONE for number in range(3) for name in ("mine", "theirs", "a:b")})
    read_sessions: list[str] = []

    def covers(session: str) -> bool:
        read_sessions.append(session)
        return session != "theirs"

    by_session = await read_costs(pages.connection, KEYS, "session", 0, covers)
    assert {row.session: row.predictions for row in by_session.rows} == {"mine": 6, "a:b": 6}
    assert by_session.total.predictions == 12
    by_revision = await read_costs(pages.connection, KEYS, "revision", 0, covers)
    assert len(by_revision.rows) == 6
    assert set(read_sessions) == {"mine", "theirs", "a:b"}

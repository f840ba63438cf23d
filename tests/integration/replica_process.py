"""Processes for the tests of stores and replicas: each does one job and says in lines of JSON how it went.

``read URL READS DISTINCT`` reads a session as fast as it can, ``serve URL DROPPED`` answers requirements that come on
its standard input, ``flip URL`` publishes pairs, ``publish URL FENCE`` publishes with a fence until it is refused.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections.abc import Coroutine
from typing import Any

from snakepit_bridge.exceptions import BridgeError, FencedError
from snakepit_bridge.process.home_loop import adopt_loop
from snakepit_bridge.protocol.messages import Requirement
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.snapshots import RedisStore, Watch
from snakepit_bridge.snapshots.redis_watch import RedisWatch
from snakepit_bridge.snapshots.replica import Replica
from snakepit_bridge.variables import Variable

SESSION = "s"
ELIXIR = "elixir.example:50051"
LEASE_S = 0.5


def say(**message: Any) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


async def lines() -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


async def read(url: str, reads: str, distinct: str) -> None:
    """Read until it has made so many reads of so many revisions and is at the token that it is then told."""
    replica, input_lines = Replica(RedisStore(url)), await lines()
    most = asyncio.create_task(input_lines.readline())
    seen: set[Token] = set()
    last, done, torn, back, warm, full = Token(0, 0), 0, 0, 0, 0, False
    while True:
        quick = replica.peek(SESSION)
        shot = quick or await replica.snapshot(SESSION)
        done, warm = done + 1, warm + (quick is not None)
        torn += shot.value("a") != shot.value("b")
        back += shot.token < last
        last = shot.token
        seen.add(last)
        if not full and done >= int(reads) and len(seen) >= int(distinct):
            full = True
            say(full=True)
        if most.done() and last >= Token.parse(most.result().decode().strip()):
            break
        await asyncio.sleep(0)
    say(reads=done, distinct=len(seen), torn=torn, back=back, warm=warm, token=str(last))
    await replica.aclose()


async def flip(url: str) -> None:
    """Publish pairs until its standard input ends, and say the last token."""
    store, input_lines = RedisStore(url), await lines()
    stop = asyncio.create_task(input_lines.read())
    n, token = 0, None
    while not stop.done():
        n += 1
        token = await store.publish(SESSION, {name: Variable.declare(name, n) for name in "ab"})
    say(token=str(token), published=n)


class Lossy(RedisStore):
    """A store whose hints are lost with a probability."""

    dropped = 0.0

    def open_watch(self) -> Watch:
        watch = RedisWatch(self._connection, self.channel)
        put = watch._pending.put

        def lose(session: str, token: Token | None) -> None:
            if random.random() >= self.dropped:
                put(session, token)

        watch._pending.put = lose  # type: ignore[method-assign]
        return watch


async def serve(url: str, dropped: str) -> None:
    """Answer each line ``session requirement`` with the value and token that it would run under."""
    store = Lossy(url, timeout_s=2.0)
    store.dropped = float(dropped)
    replica, input_lines = Replica(store, 5.0, watch_lease_s=LEASE_S), await lines()
    say(ready=True)
    while line := (await input_lines.readline()).decode().split():
        try:
            shot = await replica.snapshot(line[0], Requirement.parse(line[1]))
            say(value=shot.value("n"), token=str(shot.token))
        except BridgeError as error:
            say(error=type(error).__name__)
    await replica.aclose()


async def publish(url: str, fence: str) -> None:
    """Publish with a fence, as a refresher does after each look, until it is refused."""
    store, n = RedisStore(url), 0
    try:
        while True:
            n += 1
            changes = {"n": Variable.declare("n", n)}
            await store.publish(SESSION, changes, publisher=ELIXIR, fence=int(fence))
            say(published=n)
            await asyncio.sleep(0.005)
    except FencedError as error:
        say(refused=error.fence, current=error.current)


JOBS = {"read": read, "flip": flip, "serve": serve, "publish": publish}


async def main(job: Coroutine[Any, Any, None]) -> None:
    adopt_loop(asyncio.get_running_loop())
    await job


if __name__ == "__main__":
    asyncio.run(main(JOBS[sys.argv[1]](*sys.argv[2:])))

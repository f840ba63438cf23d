"""A worker's replica as a process of its own: it says when it first saw each revision that it is told to wait for."""

from __future__ import annotations

import asyncio
import sys
import time

from snakepit_bridge.process.home_loop import adopt_loop
from snakepit_bridge.snapshots import RedisStore
from snakepit_bridge.snapshots.replica import Replica

# A spinning reader would take the cores from those that it measures; this is a tenth of what is to be told apart.
_LOOK_S = 0.001


async def main(url: str, session: str) -> None:
    """Note, for every revision, the moment at which the replica serves it or a newer one; writes them at the end."""
    adopt_loop(asyncio.get_running_loop())
    replica = Replica(RedisStore(url))
    seen = 0
    while not seen or not replica.connected:
        seen = (await replica.snapshot(session)).token.revision
        await asyncio.sleep(_LOOK_S)
    ending = asyncio.create_task(asyncio.to_thread(sys.stdin.readline))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    moments: list[str] = []
    last = -1
    while last < 0 or seen < last:
        if ending.done() and last < 0:
            last = int(ending.result())
        revision = (replica.peek(session) or await replica.snapshot(session)).token.revision
        if revision > seen:
            now = time.clock_gettime(time.CLOCK_MONOTONIC)
            moments += [f"{each}:{now}" for each in range(seen + 1, revision + 1)]
            seen = revision
        await asyncio.sleep(_LOOK_S)
    sys.stdout.write(" ".join(moments) + "\n")
    sys.stdout.flush()
    await replica.aclose()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))

"""A process that writes back to Elixir: ``URL BRIDGE turns|none``. It sets each ``NAME VALUE``, and says the token."""

from __future__ import annotations

import asyncio
import json
import sys

from snakepit_bridge.client import Fleet
from snakepit_bridge.elixir.write_back import ElixirAuthority
from snakepit_bridge.session_context import SessionContext
from snakepit_bridge.snapshots import RedisStore


async def write(url: str, bridge: str, turns: str) -> None:
    store = RedisStore(url)
    if turns == "none":
        ctx = SessionContext("s", store, bridge=ElixirAuthority(bridge, store))
    else:
        ctx = Fleet(url, bridge=bridge).session("s")
    for line in iter(sys.stdin.readline, ""):
        name, value = line.split()
        answer = {"token": str(await ctx.set_variable(name, int(value)))}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(write(*sys.argv[1:]))

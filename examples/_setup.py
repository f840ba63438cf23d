"""What every example needs: a session in a real store, and a language model that answers."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager

from snakepit_bridge import SessionContext
from snakepit_bridge.exceptions import BridgeError
from snakepit_bridge.testing import STAND_IN, RecordingLM
from workers.dev.redis_server import EmbeddedRedis
from workers.dev.stand_in_lm import demo_answerer
from workers.lifecycle import load_dspy

Example = Callable[[SessionContext, RecordingLM], Awaitable[None]]


def run(example: Example, description: str | None) -> None:
    """Run an example in a session of its own, which is gone afterwards.

    The store is the one that ``--redis-url`` names, else an embedded server. The language model is a stand-in on
    loopback, which records each request: so an example can show what was really sent.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--redis-url", help="the store to use; without it an embedded server is started")
    try:
        asyncio.run(_run(example, parser.parse_args().redis_url))
    except BridgeError as problem:
        sys.exit(str(problem))


async def _run(example: Example, redis_url: str | None) -> None:
    load_dspy()
    import dspy

    async with _session(redis_url) as ctx:
        with RecordingLM(demo_answerer()) as server:
            print(f"The language model is {STAND_IN}.")
            lm = dspy.LM("openai/demo", api_base=server.url, api_key="none-needed", cache=False, num_retries=0)
            with dspy.context(lm=lm):
                await example(ctx, server)


@asynccontextmanager
async def _session(redis_url: str | None) -> AsyncGenerator[SessionContext]:
    with ExitStack() as parts:
        url = redis_url or parts.enter_context(EmbeddedRedis.start()).url
        ctx = SessionContext(f"example-{os.getpid()}", url)
        try:
            yield ctx
        finally:
            await ctx.store.drop(ctx.session_id)
            await ctx.store.aclose()

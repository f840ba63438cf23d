"""From Elixir to the LM: a variable set there stands in the next request that a module sends, whatever its type."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Generator
from typing import Any

import dspy
import pytest

from snakepit_bridge.dspy_integration import VariableAwarePredict
from snakepit_bridge.elixir.client import BridgeClient
from snakepit_bridge.elixir.demand import SessionDemand
from snakepit_bridge.elixir.write_back import ElixirAuthority
from snakepit_bridge.exceptions import SessionNotFoundError
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.lease import Leases
from snakepit_bridge.session_context import SessionContext
from snakepit_bridge.snapshots import open_store
from snakepit_bridge.testing import RecordingLM
from snakepit_bridge.testing.elixir.server import BridgeServer
from snakepit_bridge.variables import Tensor, Variable, VariableType
from snakepit_bridge.variables.codec import encode_canonical, parse
from snakepit_bridge.variables.types import to_json
from tests.harness.waiting import PATIENCE_S, eventually
from workers.refresher import Refresher, RefresherSettings

VALUES: dict[str, tuple[str, Any]] = {
    "temperature": ("float", 0.25),
    "nan": ("float", math.nan),
    "huge": ("integer", 10**30),
    "größe 🙂": ("string", 'ü\n"\\'),
    "": ("boolean", True),
    "strategy": ("module", "ReAct"),
    "mood": ("choice", "kind"),
    "vector": ("embedding", tuple(n / 7 for n in range(3_000))),
    "grid": ("tensor", Tensor(tuple(n / 3 for n in range(100_000)), (100, 1_000))),
}


@pytest.fixture
def elixir() -> Generator[BridgeServer]:
    with BridgeServer() as server:
        server.begin("s")
        for name, (kind, value) in VALUES.items():
            server.register("s", name, kind, value)
        yield server


@pytest.fixture
async def refresher(elixir: BridgeServer, redis_url: str) -> AsyncGenerator[Refresher]:
    stop = asyncio.Event()
    started = Refresher(RefresherSettings(elixir.address, redis_url, sessions=("s",), poll_s=0.05, poll_max_s=0.2))
    running = asyncio.create_task(started.run(stop))
    yield started
    stop.set()
    await running


@pytest.fixture
async def context(refresher: Refresher, redis_url: str) -> SessionContext:
    found = SessionContext("s", redis_url)

    async def there() -> bool:
        try:
            return len((await found.snapshot()).variables) == len(VALUES)
        except SessionNotFoundError:
            return False

    await eventually(there, "the session")
    assert refresher.statuses()
    return found


async def test_every_type_is_read_by_a_context_as_elixir_has_it(context: SessionContext) -> None:
    found = await context.get_variables()
    for name, (kind, value) in VALUES.items():
        assert Variable(name, VariableType(kind), found[name]) == Variable(name, VariableType(kind), value), name


async def test_what_is_set_in_elixir_stands_in_the_next_request_of_a_module(
    elixir: BridgeServer, refresher: Refresher, context: SessionContext
) -> None:
    module = VariableAwarePredict("question -> answer", session_context=context)
    await module.bind_to_variable("temperature", "temperature")
    with RecordingLM() as lm, dspy.context(lm=dspy.LM("openai/demo", api_base=lm.url, api_key="x", cache=False)):
        for value in (0.75, 1.25):
            elixir.set("s", "temperature", value)
            await refresher.sync("s")
            await module.forward_async(question="Why?")
            assert lm.requests[-1].body["temperature"] == value


class Telling(dspy.Module):
    """Tells the LM what a variable holds, and sets it to what comes back."""

    def __init__(self, context: SessionContext) -> None:
        super().__init__()
        self.context = context
        self.ask = dspy.Predict("name, held -> echoed")

    async def aforward(self, name: str) -> None:
        held = (await self.context.snapshot()).variables[name]
        encoded = encode_canonical(to_json(held.type, held.value)).decode()
        answer = await self.ask.acall(name=name, held=encoded)
        await self.context.set_variable(name, parse(answer.echoed.encode()))


async def test_every_type_goes_from_elixir_through_a_module_to_the_lm_and_back(
    elixir: BridgeServer, context: SessionContext, redis_url: str
) -> None:
    assert await context.get_variable("huge") == 10**30
    connection = RedisConnection(redis_url)
    # The grid takes half a second of CPU time for each of its trips, which all happen in this process.
    authority = ElixirAuthority(
        elixir.address, open_store(redis_url), demand=SessionDemand(connection), leases=Leases(connection),
        timeout_s=PATIENCE_S,
    )  # fmt: skip
    writing = SessionContext("s", redis_url, bridge=authority)
    lm = RecordingLM(lambda ask: {"echoed": ask.inputs["held"]})
    with lm, dspy.context(lm=dspy.LM("openai/demo", api_base=lm.url, api_key="x", cache=False)):
        for name, (kind, value) in VALUES.items():
            before = elixir.calls["SetVariable"]
            await Telling(writing).acall(name=name)
            sent = parse(lm.requests[-1].inputs["held"].encode())
            wanted = Variable(name, VariableType(kind), value)
            assert Variable(name, VariableType(kind), sent) == wanted, name
            # What is so already isn't set again, so that only another value would have been.
            assert elixir.calls["SetVariable"] == before
            assert Variable(name, VariableType(kind), elixir.value("s", name)) == wanted, name


async def test_every_type_goes_back_to_elixir_and_comes_here_again(
    elixir: BridgeServer, refresher: Refresher, context: SessionContext
) -> None:
    client = BridgeClient(elixir.address, timeout_s=PATIENCE_S)
    changed = {
        "temperature": math.inf,
        "nan": 1e300,
        "huge": -(10**30) - 1,
        "größe 🙂": "",
        "": False,
        "strategy": "Predict",
        "mood": "größer",
        "vector": (0.5, math.nan),
        "grid": Tensor(((1, 2), (3, 4)), (2, 2)),
    }
    wanted = {name: Variable(name, VariableType(VALUES[name][0]), value) for name, value in changed.items()}
    for variable in wanted.values():
        await client.set("s", variable)
    await client.aclose()
    await refresher.sync("s")
    assert dict((await context.snapshot()).variables) == wanted

"""The client against the stand-in: what each call brings, and which error each failure is."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing

import pytest

from snakepit_bridge.elixir.client import BridgeClient
from snakepit_bridge.elixir.errors import (
    AnswerTooLargeError,
    ElixirFailedError,
    ElixirMethodNotServedError,
    ElixirSessionNotFoundError,
    ElixirUnavailableError,
)
from snakepit_bridge.elixir.generated import snakepit_bridge_pb2 as pb
from snakepit_bridge.elixir.listing import VariableListing
from snakepit_bridge.exceptions import ValidationError, VariableNotFoundError
from snakepit_bridge.testing.elixir.server import BridgeServer
from snakepit_bridge.variables import Tensor, Variable
from tests.harness.waiting import PATIENCE_S, eventually


@pytest.fixture
def elixir() -> Generator[BridgeServer]:
    with BridgeServer() as server:
        server.begin("s")
        yield server


@pytest.fixture
async def client(elixir: BridgeServer) -> AsyncGenerator[BridgeClient]:
    opened = BridgeClient(elixir.address, timeout_s=2)
    yield opened
    await opened.aclose()


async def listed(client: BridgeClient, pattern: str = "") -> VariableListing:
    return VariableListing.of(pb.ListVariablesResponse.FromString(await client.list_raw("s", pattern)))


ALL = [
    Variable.declare("temperature", 0.5, constraints={"min": 0, "max": 2}),
    Variable.declare("nan", math.nan),
    Variable.declare("huge", 10**30),
    Variable.declare("größe 🙂", "ü\n"),
    Variable.declare(" yes ", True),
    Variable.declare("strategy", "ReAct", "module", {"allowed_modules": ["ReAct", "Predict"]}),
    Variable.declare("mood", "kind", "choice", {"choices": ["kind", "stern"]}),
    Variable.declare("vector", [n / 7 for n in range(3_000)]),
    Variable.declare("grid", Tensor(tuple(float(n) for n in range(10_000)), (100, 100))),
    Variable.declare("n" * 300, "long name"),
]


async def test_every_type_is_registered_and_read_back_the_same(client: BridgeClient) -> None:
    for variable in ALL:
        await client.register("s", variable)
    assert (await listed(client)).choose_variables({}) == {variable.name: variable for variable in ALL}
    for variable in ALL:
        assert (await client.get("s", variable.name)).variable == variable


async def test_a_set_value_is_read_back_and_its_version_grows_by_equal_values_too(client: BridgeClient) -> None:
    await client.register("s", ALL[0])
    warmer = ALL[0].with_value(1.5)
    assert [await client.set("s", warmer) for _ in range(2)] == [1, 2]
    found = await client.get("s", "temperature")
    assert (found.version, found.variable) == (2, warmer)


async def test_a_name_registered_twice_means_the_newest_and_both_are_listed(
    client: BridgeClient, elixir: BridgeServer
) -> None:
    ids = [elixir.register("s", "x", "float", float(n)) for n in range(12)]
    found = await listed(client)
    assert sorted(remote.id for remote in found.find_duplicates()["x"]) == sorted(ids)
    assert found.choose_variables({})["x"].value == 11.0
    assert found.choose_variables({"x": ids[3]})["x"].value == 3.0
    assert (await client.get("s", "x")).variable.value == 11.0


async def test_many_are_got_by_what_was_asked_for_and_missing_ones_left_out(
    client: BridgeClient, elixir: BridgeServer
) -> None:
    id = elixir.register("s", "x", "float", 1.0)
    assert set(await client.get_many("s", ["x", id, "nobody"])) == {"x", id}


async def test_many_are_set_but_those_that_a_constraint_refuses(client: BridgeClient, elixir: BridgeServer) -> None:
    elixir.register("s", "low", "float", 0.0, max=1)
    elixir.register("s", "free", "float", 0.0)
    refused = await client.set_many("s", [Variable.declare("low", 7.0), Variable.declare("free", 7.0)])
    assert refused == {"low": "value 7.0 is above maximum 1"}
    assert (elixir.value("s", "low"), elixir.value("s", "free")) == (0.0, 7.0)
    with pytest.raises(ValidationError):
        await client.set_many("s", [Variable.declare("free", 1.0), Variable.declare("nobody", 1.0)])
    assert elixir.value("s", "free") == 7.0


async def test_a_refused_value_says_what_elixir_said_and_is_no_server_fault(
    client: BridgeClient, elixir: BridgeServer
) -> None:
    elixir.register("s", "low", "float", 0.0, max=1)
    with pytest.raises(ValidationError, match="value 7.0 is above maximum 1") as refused:
        await client.set("s", Variable.declare("low", 7.0))
    assert (refused.value.variable, refused.value.value) == ("low", "7.0")


async def test_unknown_sessions_and_variables_are_told_apart(client: BridgeClient) -> None:
    with pytest.raises(ElixirSessionNotFoundError, match="no session 'nobody'"):
        await client.list_raw("nobody")
    with pytest.raises(VariableNotFoundError, match="Variable not found: x"):
        await client.get("s", "x")
    assert await client.heartbeat("s")
    assert not await client.heartbeat("nobody")


async def test_a_session_is_begun_counted_and_ended(client: BridgeClient) -> None:
    await client.begin_session("new")
    await client.register("new", Variable.declare("x", 1.0))
    assert await client.count_variables("new") == 1
    await client.delete("new", "x")
    assert await client.count_variables("new") == 0
    await client.end_session("new")
    with pytest.raises(ElixirSessionNotFoundError):
        await client.count_variables("new")
    with pytest.raises(ElixirFailedError, match="INTERNAL"):
        await client.begin_session("")


async def test_a_handler_that_fails_is_named_with_its_method(client: BridgeClient, elixir: BridgeServer) -> None:
    elixir.register("s", "x", "float", 1.0)
    elixir.spoil("s", "x")
    with pytest.raises(ElixirFailedError, match="ListVariables of session 's' with UNKNOWN"):
        await client.list_raw("s")


async def test_an_answer_above_the_limit_is_named_and_a_higher_limit_takes_it(elixir: BridgeServer) -> None:
    elixir.register("s", "big", "tensor", Tensor(tuple(float(n) + 0.123 for n in range(100_000)), (100_000,)))
    small = BridgeClient(elixir.address, max_answer_bytes=2**19, timeout_s=PATIENCE_S)
    large = BridgeClient(elixir.address, timeout_s=PATIENCE_S)
    with pytest.raises(AnswerTooLargeError, match="larger than 0.5 MiB"):
        await small.list_raw("s")
    assert len((await listed(large)).choose_variables({})["big"].value.data) == 100_000
    await small.aclose()
    await large.aclose()


async def test_watching_is_refused_by_name_where_the_server_has_none(client: BridgeClient) -> None:
    with pytest.raises(ElixirMethodNotServedError, match="WatchVariables"):
        await anext(client.watch("s", []))


async def test_a_watch_tells_each_change_of_what_it_names(client: BridgeClient, elixir: BridgeServer) -> None:
    elixir.turn(watch=True)
    watched, other = (elixir.register("s", name, "float", 1.0) for name in ("x", "y"))

    async def pushed(task: asyncio.Task[str]) -> bool:
        elixir.set("s", other, 1.0)
        elixir.set("s", watched, 2.0)
        return task.done()

    async with aclosing(client.watch("s", [watched])) as updates:
        first = asyncio.ensure_future(anext(updates))
        await eventually(lambda: pushed(first), "an update")
        assert await first == watched


async def test_more_watches_than_a_connection_takes_leave_room_for_calls(elixir: BridgeServer) -> None:
    elixir.turn(watch=True)
    client = BridgeClient(elixir.address, timeout_s=5)
    ids = {f"s{n}": "" for n in range(150)}
    for name in ids:
        elixir.begin(name)
        ids[name] = elixir.register(name, "x", "float", 1.0)
    watches = {name: client.watch(name, [id]) for name, id in ids.items()}
    firsts = {name: asyncio.ensure_future(anext(watch)) for name, watch in watches.items()}

    async def all_told() -> bool:
        for name, id in ids.items():
            elixir.set(name, id, 2.0)
        await client.ping()
        return all(first.done() for first in firsts.values())

    await eventually(all_told, "an update on each of 150 streams", poll_s=0.1)
    assert {name: first.result() for name, first in firsts.items()} == ids
    for watch in watches.values():
        await watch.aclose()
    await client.aclose()


async def test_a_server_that_is_away_is_named_and_found_again_at_its_old_address(
    client: BridgeClient, elixir: BridgeServer
) -> None:
    await client.ping()
    elixir.stop()
    with pytest.raises(ElixirUnavailableError, match=elixir.address):
        await client.ping()
    elixir.start()

    async def answers() -> bool:
        try:
            await client.ping()
        except ElixirUnavailableError:
            return False
        return True

    await eventually(answers, "an answer after the restart")


async def test_a_call_that_nobody_answers_ends_at_its_deadline(elixir: BridgeServer) -> None:
    client = BridgeClient(elixir.address, timeout_s=0.2)
    elixir.turn(silent=True)
    with pytest.raises(ElixirUnavailableError, match="away"):
        await client.ping()
    elixir.turn(silent=False)
    await client.aclose()


async def test_no_number_of_calls_at_once_is_stuck_on_the_servers_bound(client: BridgeClient) -> None:
    await asyncio.gather(*(client.ping() for _ in range(500)))


async def test_malformed_constraints_never_reach_elixir(client: BridgeClient, elixir: BridgeServer) -> None:
    with pytest.raises(ValidationError, match="choices must be a list"):
        await client.register("s", Variable.declare("x", "a", "choice", {"choices": "a"}))
    assert elixir.calls["RegisterVariable"] == 0

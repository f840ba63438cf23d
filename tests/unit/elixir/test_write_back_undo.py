"""Several changes to Elixir: one that fails takes the others back, whether its own answer was lost or never came."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from typing import Any

import pytest

from snakepit_bridge.elixir.client import BridgeClient
from snakepit_bridge.elixir.errors import ElixirUnavailableError
from snakepit_bridge.elixir.write_transaction import HalfWrittenError, WriteTransaction
from snakepit_bridge.exceptions import ValidationError
from snakepit_bridge.snapshots import Changes
from snakepit_bridge.testing.elixir.server import BridgeServer
from snakepit_bridge.variables import Variable


@pytest.fixture
def elixir() -> Generator[BridgeServer]:
    with BridgeServer() as server:
        server.begin("s")
        server.register("s", "a", "integer", 1)
        server.register("s", "b", "integer", 1)
        server.register("s", "c", "integer", 1, max=5)
        yield server


class Unsteady(BridgeClient):
    """A client whose calls of one method fail from the nth on, before or after Elixir carried them out."""

    def __init__(self, address: str, method: str, *, after: bool, for_good: bool = False) -> None:
        super().__init__(address, timeout_s=2)
        self.method, self.after, self.for_good = method, after, for_good
        self.broken = False

    async def _call(self, method: str, request: Any, *args: Any, **more: Any) -> Any:
        lost = ElixirUnavailableError(self.address, "the line is cut")
        if self.broken and self.for_good:
            raise lost
        failing = method == self.method and not self.broken
        if failing and not self.after:
            self.broken = True
            raise lost
        answer = await super()._call(method, request, *args, **more)
        if failing:
            self.broken = True
            raise lost
        return answer


def values(elixir: BridgeServer, names: Iterable[str] = ("a", "b", "c")) -> dict[str, Any]:
    return {name: elixir.value("s", name) for name in names}


def held(elixir: BridgeServer) -> set[str]:
    return {variable.name for variable in elixir._service.sessions.session("s").variables.values()}


async def write(client: BridgeClient, changes: Changes) -> None:
    found = await client.get_many("s", changes)
    try:
        await WriteTransaction(client, "s", found, {}).write(changes)
    finally:
        await client.aclose()


def declared(**values: int) -> dict[str, Variable | None]:
    return {name: Variable.declare(name, value) for name, value in values.items()}


CHANGES: Mapping[str, Variable | None] = {**declared(a=2, b=3, new=4, newer=5), "c": None}


async def test_changes_of_every_kind_are_written(elixir: BridgeServer) -> None:
    await write(BridgeClient(elixir.address), CHANGES)
    assert values(elixir, ("a", "b", "new", "newer")) == {"a": 2, "b": 3, "new": 4, "newer": 5}
    assert held(elixir) == {"a", "b", "new", "newer"}


@pytest.mark.parametrize("method", ["RegisterVariable", "DeleteVariable", "SetVariables"])
@pytest.mark.parametrize("after", [False, True], ids=["never-done", "answer-lost"])
async def test_a_call_that_fails_amid_several_leaves_nothing_changed(
    elixir: BridgeServer, method: str, after: bool
) -> None:
    with pytest.raises(ElixirUnavailableError):
        await write(Unsteady(elixir.address, method, after=after), CHANGES)
    assert values(elixir) == {"a": 1, "b": 1, "c": 1}
    assert held(elixir) == {"a", "b", "c"}


async def test_one_that_a_constraint_refuses_in_elixir_alone_takes_the_others_back(elixir: BridgeServer) -> None:
    beyond = Variable("c", Variable.declare("c", 9).type, 9, (await found(elixir, "c")).constraints)
    with pytest.raises(ValidationError, match="Elixir refuses"):
        await write(BridgeClient(elixir.address), {**declared(a=2, b=3, new=4), "c": beyond})
    assert values(elixir) == {"a": 1, "b": 1, "c": 1}
    assert held(elixir) == {"a", "b", "c"}


async def found(elixir: BridgeServer, name: str) -> Variable:
    client = BridgeClient(elixir.address)
    try:
        return (await client.get("s", name)).variable
    finally:
        await client.aclose()


async def test_what_can_not_be_undone_is_named(elixir: BridgeServer) -> None:
    with pytest.raises(HalfWrittenError) as half:
        await write(Unsteady(elixir.address, "SetVariables", after=False, for_good=True), CHANGES)
    assert half.value.session == "s"
    assert "new, newer" in half.value.written
    assert "write them all again" in str(half.value)


async def test_a_single_change_that_got_no_answer_is_elixirs_absence(elixir: BridgeServer) -> None:
    with pytest.raises(ElixirUnavailableError):
        await write(Unsteady(elixir.address, "SetVariable", after=False, for_good=True), declared(a=2))


async def test_what_somebody_else_set_meanwhile_stays(elixir: BridgeServer) -> None:
    class Raced(Unsteady):
        async def set_many(self, session: str, variables: Iterable[Variable], ids: Any = None) -> dict[str, str]:
            try:
                return await super().set_many(session, variables, ids)
            except ElixirUnavailableError:
                elixir.set("s", "a", 77)
                raise

    with pytest.raises(ElixirUnavailableError):
        await write(Raced(elixir.address, "SetVariables", after=True), declared(a=2, b=3))
    assert values(elixir) == {"a": 77, "b": 1, "c": 1}

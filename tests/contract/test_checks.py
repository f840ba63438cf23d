"""Publishing holds values to their constraints and to the checks of their session; what is refused changes nothing."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Generator, Mapping
from typing import Any

import pytest

from snakepit_bridge.exceptions import (
    CheckFailedError,
    FencedError,
    SessionOwnedElsewhereError,
    StaleTokenError,
    ValidationError,
)
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.snapshots import MemoryStore, SnapshotStore, register_check
from snakepit_bridge.snapshots.checks import _functions  # type: ignore[reportPrivateUsage]
from snakepit_bridge.variables import Constraints, Variable, VariableType
from tests.contract.conftest import OpenStore
from tests.contract.sample import ELIXIR, declared, state

COLD_REASONERS = {
    "if": {"properties": {"model": {"const": "o1"}}, "required": ["model"]},
    "then": {"properties": {"temperature": {"maximum": 0.5}}},
}


@pytest.fixture(autouse=True)
def functions() -> Generator[None]:
    before = dict(_functions)
    yield
    _functions.clear()
    _functions.update(before)


def ordered(values: Mapping[str, Any]) -> str | None:
    if values.get("low", 0) > values.get("high", 0):
        return f"low {values['low']} is above high {values['high']}"
    return None


class TestConstraints:
    async def test_a_value_that_breaks_its_own_constraint_is_refused(self, store: SnapshotStore) -> None:
        await store.publish("s", declared(a=1, b=1))
        hot = Variable("temperature", VariableType.FLOAT, 9.0, Constraints.of({"max": 2}, "temperature"))
        with pytest.raises(ValidationError) as raised:
            await store.publish("s", {**declared(a=2), "temperature": hot})
        assert (raised.value.variable, raised.value.value) == ("temperature", "9.0")
        assert "2" in raised.value.rule
        assert await state(store) == {"a": 1, "b": 1}
        assert len(await store.history("s")) == 1

    async def test_what_an_elixir_server_holds_is_its_own_affair(self, store: SnapshotStore) -> None:
        odd = Variable("t", VariableType.FLOAT, math.nan, Constraints.of({"max": 2}, "t"))
        await store.publish("s", {"t": odd}, publisher=ELIXIR)
        assert (await store.read("s")).variables["t"] == odd


class TestSchemas:
    async def test_values_that_do_not_fit_together_are_refused_as_a_whole(self, store: SnapshotStore) -> None:
        token = await store.publish("s", declared(model="gpt", temperature=0.9))
        await store.declare_checks("s", {"cold reasoners": COLD_REASONERS})
        with pytest.raises(CheckFailedError) as raised:
            await store.publish("s", declared(model="o1", other=1))
        error = raised.value
        assert (error.session, error.check, error.variable, error.value) == (
            "s",
            "cold reasoners",
            "temperature",
            "0.9",
        )
        assert "maximum of 0.5" in error.rule
        assert (await store.head("s")).token == token
        assert await state(store) == {"model": "gpt", "temperature": 0.9}
        await store.publish("s", declared(model="o1", temperature=0.1))
        assert await state(store) == {"model": "o1", "temperature": 0.1}

    async def test_a_replacing_publish_is_held_to_them_alone(self, store: SnapshotStore) -> None:
        await store.publish("s", declared(model="gpt", temperature=0.9))
        await store.declare_checks("s", {"cold": COLD_REASONERS})
        with pytest.raises(CheckFailedError):
            await store.publish("s", declared(model="o1", temperature=0.9), replace=True)
        await store.publish("s", declared(model="o1"), replace=True)
        assert await state(store) == {"model": "o1"}

    async def test_what_is_required_can_not_be_deleted(self, store: SnapshotStore) -> None:
        await store.publish("s", declared(a=1, b=1))
        await store.declare_checks("s", {"a": {"required": ["a"]}})
        with pytest.raises(CheckFailedError, match="'a' is a required property"):
            await store.publish("s", declared(a=None))
        assert await state(store) == {"a": 1, "b": 1}

    async def test_a_rollback_is_held_to_them_too(self, store: SnapshotStore) -> None:
        hot = await store.publish("s", declared(model="o1", temperature=0.9))
        cold = await store.publish("s", declared(temperature=0.1))
        await store.declare_checks("s", {"cold": COLD_REASONERS})
        with pytest.raises(CheckFailedError):
            await store.rollback("s", hot)
        assert (await store.head("s")).token == cold

    async def test_every_type_is_seen_by_a_schema(self, store: SnapshotStore) -> None:
        values = declared(i=1, f=0.5, s="x", b=True, e=[1.0, 2.0], t={"data": [1, 2], "shape": [2]})
        await store.publish("s", values)
        kinds = {"i": "integer", "f": "number", "s": "string", "b": "boolean", "e": "array", "t": "object"}
        schema = {"properties": {name: {"type": kind} for name, kind in kinds.items()}}
        await store.declare_checks("s", {"types": schema})
        for name in kinds:
            with pytest.raises(CheckFailedError) as raised:
                await store.publish("s", declared(**{name: "text" if name != "s" else 1}))
            assert raised.value.variable == name

    @pytest.mark.parametrize("schema", [{"type": "nonsense"}, {"properties": 1}, {"const": object()}])
    async def test_a_malformed_schema_is_not_taken(self, store: SnapshotStore, schema: Any) -> None:
        await store.publish("s", declared(a=1))
        with pytest.raises(ValueError, match="Check 'x' is neither a JSON schema nor the name of a function"):
            await store.declare_checks("s", {"fine": {}, "x": schema})
        assert await store.checks("s") == {}

    async def test_a_schema_fetches_nothing(self, store: SnapshotStore) -> None:
        await store.publish("s", declared(a=1))
        with pytest.raises(CheckFailedError, match="http://127.0.0.1:1/x"):
            await store.declare_checks("s", {"x": {"$ref": "http://127.0.0.1:1/x"}})


class TestFunctions:
    async def test_a_registered_function_judges(self, store: SnapshotStore) -> None:
        register_check("ordered")(ordered)
        await store.publish("s", declared(low=1, high=2))
        await store.declare_checks("s", {"range": "ordered"})
        with pytest.raises(CheckFailedError, match="check 'range': .*low 3 is above high 2"):
            await store.publish("s", declared(low=3))
        await store.publish("s", declared(low=3, high=4))
        assert await state(store) == {"low": 3, "high": 4}

    async def test_a_publisher_that_does_not_know_it_is_refused(self, store: SnapshotStore) -> None:
        register_check("ordered")(ordered)
        await store.declare_checks("s", {"range": "ordered"})
        _functions.pop("ordered")
        with pytest.raises(CheckFailedError, match="'ordered' is not registered in this process"):
            await store.publish("s", declared(low=1))
        assert await store.sessions() == {}


class TestDeclaring:
    async def test_checks_can_come_before_the_session(self, store: SnapshotStore) -> None:
        await store.declare_checks("s", {"a": {"required": ["a"]}})
        assert await store.sessions() == {}
        with pytest.raises(CheckFailedError):
            await store.publish("s", declared(b=1))
        assert await store.sessions() == {}
        assert (await store.publish("s", declared(a=1))).revision == 1

    async def test_a_check_that_the_present_state_breaks_is_not_taken(self, store: SnapshotStore) -> None:
        await store.publish("s", declared(a=1))
        with pytest.raises(CheckFailedError):
            await store.declare_checks("s", {"fine": {}, "b": {"required": ["b"]}})
        assert await store.checks("s") == {}

    async def test_checks_are_added_changed_listed_and_taken_away(self, store: SnapshotStore) -> None:
        assert await store.checks("s") == {}
        await store.publish("s", declared(a=1))
        await store.declare_checks("s", {"a": {"required": ["a"]}, "b": {"maxProperties": 1}})
        await store.declare_checks("s", {"b": {"maxProperties": 2}})
        assert await store.checks("s") == {"a": {"required": ["a"]}, "b": {"maxProperties": 2}}
        await store.publish("s", declared(b=1))
        with pytest.raises(CheckFailedError):
            await store.publish("s", declared(c=1))
        await store.declare_checks("s", {"a": None, "b": None, "never there": None})
        assert await store.checks("s") == {}
        await store.publish("s", declared(a=None, c=1))

    async def test_only_the_authority_declares(self, store: SnapshotStore) -> None:
        await store.publish("s", declared(a=1), publisher=ELIXIR)
        with pytest.raises(SessionOwnedElsewhereError):
            await store.declare_checks("s", {"a": {"required": ["a"]}})
        await store.declare_checks("s", {"a": {"required": ["a"]}}, publisher=ELIXIR)
        with pytest.raises(CheckFailedError):
            await store.publish("s", declared(b=1), replace=True, publisher=ELIXIR)

    async def test_a_drop_takes_them_along(self, store: SnapshotStore) -> None:
        await store.publish("s", declared(a=1))
        await store.declare_checks("s", {"a": {"required": ["a"]}})
        await store.publish("s", declared(a=2))
        await store.drop("s")
        await store.publish("s", declared(b=1))
        assert await store.checks("s") == {}

    async def test_a_check_that_another_process_declares_holds_here_at_once(self, open_one: OpenStore) -> None:
        here = open_one()
        there = here if isinstance(here, MemoryStore) else open_one()
        for limit in (3, 2, 1):
            await here.publish("s", declared(a=1))
            await there.declare_checks("s", {"few": {"maxProperties": limit}})
            with pytest.raises(CheckFailedError):
                await here.publish("s", declared(**{f"v{n}": n for n in range(limit)}))
        await there.declare_checks("s", {"few": None})
        await here.publish("s", declared(b=1, c=1, d=1))


class TestTogether:
    async def test_no_two_publishes_slip_past_a_check_between_them(self, store: SnapshotStore) -> None:
        # Each alone keeps to the limit; on top of one another they would not.
        await store.publish("s", {})
        await store.declare_checks("s", {"few": {"maxProperties": 4}})
        publishes = [store.publish("s", declared(**{f"v{n}": n})) for n in range(12)]
        answers = await asyncio.gather(*publishes, return_exceptions=True)
        assert sum(isinstance(answer, Token) for answer in answers) == 4
        assert sum(isinstance(answer, CheckFailedError) for answer in answers) == 8
        assert len(await state(store)) == 4

    async def test_a_compare_and_set_still_compares(self, store: SnapshotStore) -> None:
        first = await store.publish("s", declared(a=1))
        await store.declare_checks("s", {"few": {"maxProperties": 4}})
        await store.publish("s", declared(a=2), expected=first)
        with pytest.raises(StaleTokenError):
            await store.publish("s", declared(a=3), expected=first)

    async def test_a_forbidden_publisher_gets_that_error_first(self, store: SnapshotStore) -> None:
        first = await store.publish("s", declared(a=1))
        await store.declare_checks("s", {"few": {"maxProperties": 1}})
        await store.publish("s", declared(a=2))
        with pytest.raises(StaleTokenError):
            await store.publish("s", declared(b=3), expected=first)
        with pytest.raises(SessionOwnedElsewhereError):
            await store.publish("s", declared(b=3), publisher=ELIXIR)
        with pytest.raises(FencedError):
            await store.publish("s", declared(b=3), fence=7)

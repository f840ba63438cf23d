"""Write-back: changes to a session that an Elixir server owns go to Elixir first, and then to the store."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from snakepit_bridge import SessionContext
from snakepit_bridge.audit.entries import AuditFilter, AuditOutcome
from snakepit_bridge.cli import main
from snakepit_bridge.client import Fleet
from snakepit_bridge.elixir.errors import ElixirSessionNotFoundError, ElixirUnavailableError
from snakepit_bridge.elixir.write_back import ElixirAuthority, WriteNotShownError
from snakepit_bridge.exceptions import (
    ApprovalRequiredError,
    ProtectionError,
    RevisionLostError,
    SessionOwnedElsewhereError,
    SessionProtectedError,
    ValidationError,
    VariableNotFoundError,
)
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.snapshots import RedisStore
from snakepit_bridge.snapshots.snapshot import Snapshot
from snakepit_bridge.testing.elixir.server import BridgeServer
from snakepit_bridge.variables import Variable
from tests.harness.lines import LineProcess
from tests.harness.waiting import eventually
from workers.refresher import Refresher, RefresherSettings

QUICK: dict[str, Any] = {"poll_s": 0.05, "poll_max_s": 0.2, "settle_s": 0.5, "lease_s": 3.0, "timeout_s": 1.0}


@pytest.fixture
def elixir() -> Generator[BridgeServer]:
    with BridgeServer() as server:
        server.begin("s")
        server.register("s", "temperature", "float", 0.5, min=0, max=2)
        server.register("s", "style", "string", "kind")
        yield server


@asynccontextmanager
async def refreshing(elixir: BridgeServer, redis_url: str, **turned: Any) -> AsyncGenerator[Refresher]:
    settings: dict[str, Any] = {"sessions": ("s",), **QUICK, **turned}
    refresher = Refresher(RefresherSettings(elixir.address, redis_url, **settings))
    stop = asyncio.Event()
    running = asyncio.create_task(refresher.run(stop))
    try:
        yield refresher
    finally:
        stop.set()
        await running


@pytest.fixture
async def store(redis_url: str) -> AsyncGenerator[RedisStore]:
    opened = RedisStore(redis_url)
    yield opened
    await opened.aclose()


@pytest.fixture
async def followed(elixir: BridgeServer, redis_url: str, store: RedisStore) -> AsyncGenerator[Refresher]:
    async with refreshing(elixir, redis_url) as running:
        await published(store)
        yield running


@pytest.fixture
def ctx(elixir: BridgeServer, redis_url: str) -> SessionContext:
    return Fleet(redis_url, bridge=elixir.address).session("s", author="ann")


async def published(store: RedisStore, session: str = "s") -> None:
    async def there() -> bool:
        return session in await store.heads([session])

    await eventually(there, f"session {session} being published")


async def at(store: RedisStore, token: Any) -> dict[str, Any]:
    """Return the values at a token."""
    snapshot: Snapshot = await store.read_at("s", token)
    return {name: variable.value for name, variable in snapshot.variables.items()}


@pytest.mark.usefixtures("followed")
async def test_a_value_set_is_in_elixir_and_included_in_the_returned_token(
    ctx: SessionContext, elixir: BridgeServer, store: RedisStore
) -> None:
    for value in (0.1, 0.9, 0.3):
        token = await ctx.set_variable("temperature", value)
        assert elixir.value("s", "temperature") == value
        assert await at(store, token) == {"temperature": value, "style": "kind"}
    assert (await store.head("s")).authority == "elixir"


@pytest.mark.usefixtures("followed")
async def test_setting_an_equal_value_returns_a_token_that_includes_it(ctx: SessionContext, store: RedisStore) -> None:
    first = await ctx.set_variable("temperature", 0.7)
    assert await ctx.set_variable("temperature", 0.7) == first


@pytest.mark.usefixtures("followed")
async def test_many_values_are_set_in_one_call_and_new_ones_registered(
    ctx: SessionContext, elixir: BridgeServer, store: RedisStore
) -> None:
    token = await ctx.set_variables({"temperature": 1.5, "style": "terse", "größe": 3}, reason="calmer")
    assert await at(store, token) == {"temperature": 1.5, "style": "terse", "größe": 3}
    assert elixir.value("s", "größe") == 3
    assert elixir.calls["SetVariables"] == 1


KINDS = {
    "nan": ("float", math.nan),
    "big": ("integer", 10**30),
    "choice": ("choice", "a"),
    "embedding": ("embedding", [float(n) / 7 for n in range(3_000)]),
    "tensor": ("tensor", {"data": [float(n) for n in range(600)], "shape": [20, 30]}),
    "truth": ("boolean", True),
    "module": ("module", "ChainOfThought"),
    "umlaut \n'x'": ("string", "✓ \x00"),
}


@pytest.mark.usefixtures("followed")
@pytest.mark.parametrize("name", KINDS)
async def test_every_type_survives_the_round_trip_through_elixir(
    name: str, ctx: SessionContext, store: RedisStore
) -> None:
    kind, value = KINDS[name]
    token = await ctx.register_variable(name, kind, value)
    assert (await store.read_at("s", token)).variables[name] == Variable.declare(name, value, kind)


@pytest.mark.usefixtures("followed")
async def test_a_variable_is_redeclared_under_its_name_and_deleted(
    ctx: SessionContext, elixir: BridgeServer, store: RedisStore
) -> None:
    token = await ctx.register_variable("temperature", "integer", 3, {"max": 5})
    assert (await store.read_at("s", token)).variables["temperature"].constraints.max == 5
    with pytest.raises(ValidationError):
        await ctx.set_variable("temperature", 9)
    token = await ctx.delete_variable("temperature")
    assert await at(store, token) == {"style": "kind"}
    with pytest.raises(VariableNotFoundError):
        await ctx.delete_variable("temperature")


@pytest.mark.usefixtures("followed")
async def test_a_name_registered_twice_is_deleted_completely(
    ctx: SessionContext, elixir: BridgeServer, store: RedisStore
) -> None:
    elixir.register("s", "style", "string", "newer")
    token = await ctx.delete_variable("style")
    assert await at(store, token) == {"temperature": 0.5}


@pytest.mark.usefixtures("followed")
@pytest.mark.parametrize(("name", "value"), [("temperature", 2.5), ("temperature", "hot"), ("style", 3)])
async def test_an_invalid_value_is_rejected_before_any_is_sent_to_elixir(
    name: str, value: Any, ctx: SessionContext, elixir: BridgeServer, store: RedisStore
) -> None:
    with pytest.raises(ValidationError) as refused:
        await ctx.set_variables({"new": 1, name: value})
    assert refused.value.variable == name
    assert not {"SetVariable", "SetVariables", "RegisterVariable"} & elixir.calls.keys()


@pytest.mark.usefixtures("followed")
async def test_a_value_that_elixir_rejects_is_a_validation_error_and_changes_nothing(
    ctx: SessionContext, elixir: BridgeServer
) -> None:
    elixir.turn(refuse_values=True)
    with pytest.raises(ValidationError, match="variable_locked_for_optimization"):
        await ctx.set_variable("temperature", 1.0)
    elixir.turn(refuse_values=False)
    assert elixir.value("s", "temperature") == 0.5


@pytest.mark.usefixtures("followed")
async def test_a_protected_session_is_changed_in_elixir_alone(
    ctx: SessionContext, elixir: BridgeServer, redis_url: str, store: RedisStore
) -> None:
    rules = Fleet(redis_url).protections.aio
    with pytest.raises(ProtectionError, match=r"published by 'elixir'.*Protect a label of it.*\(s@stable\)"):
        await rules.protect("session", "s", author="root")
    await rules.protect("session", "s*", author="root")  # of those that the fleet publishes
    with pytest.raises(SessionProtectedError, match=r"protected by rule session:s\*, and published by 'elixir'"):
        await ctx.set_variable("temperature", 1.0)
    with pytest.raises(SessionProtectedError):
        await ctx.rollback((await store.head("s")).token)
    assert not {"SetVariable", "SetVariables", "RegisterVariable"} & elixir.calls.keys()
    refused = await store.change_control.trail.read(AuditFilter(session="s", outcome=AuditOutcome.REFUSED))
    assert {(entry.actor, entry.problem) for entry in refused} == {("ann", "SessionProtectedError")}
    assert await store.change_control.requests.list() == [], "nothing waits that could never be applied"
    elixir.set("s", "temperature", 0.7)

    async def is_published() -> bool:
        return (await store.read("s")).value("temperature") == 0.7

    await eventually(is_published, "what Elixir itself publishes to be followed")
    # What applications use of it can be approved: a label.
    await rules.protect("label", "s@stable", author="root")
    with pytest.raises(ApprovalRequiredError):
        await store.label("s", "stable", (await store.head("s")).token, author="ann")


@pytest.mark.usefixtures("followed")
async def test_rollback_makes_elixir_hold_the_earlier_variables(
    ctx: SessionContext, elixir: BridgeServer, store: RedisStore
) -> None:
    before = (await store.head("s")).token
    await ctx.set_variables({"temperature": 1.5, "more": [1.0, 2.0]})
    await ctx.delete_variable("style")
    token = await ctx.rollback(before)
    assert token > before
    assert await at(store, token) == {"temperature": 0.5, "style": "kind"}
    assert elixir.value("s", "style") == "kind"
    with pytest.raises(RevisionLostError):
        await ctx.rollback("1.1")


@pytest.mark.usefixtures("followed")
async def test_a_followed_session_without_a_bridge_is_owned_elsewhere(redis_url: str, store: RedisStore) -> None:
    before = await store.head("s")
    for ctx in (Fleet(redis_url).session("s"), SessionContext("s", redis_url)):
        with pytest.raises(SessionOwnedElsewhereError):
            await ctx.set_variable("temperature", 1.0)
        with pytest.raises(SessionOwnedElsewhereError):
            await ctx.rollback(before.token)
    assert (await store.head("s")).token == before.token


@pytest.mark.usefixtures("followed")
async def test_an_unreachable_elixir_is_a_named_error_and_changes_nothing(
    ctx: SessionContext, elixir: BridgeServer, store: RedisStore
) -> None:
    before = await store.head("s")
    elixir.stop()
    for change in (ctx.set_variable("temperature", 1.0), ctx.delete_variable("style"), ctx.rollback(before.token)):
        with pytest.raises(ElixirUnavailableError):
            await change
    assert (await store.head("s")).token == before.token
    elixir.start()
    assert elixir.value("s", "temperature") == 0.5


async def test_an_unpublished_session_belongs_to_elixir_if_elixir_has_it(
    elixir: BridgeServer, redis_url: str, store: RedisStore
) -> None:
    elixir.begin("fresh")
    ctx = SessionContext("fresh", redis_url, bridge=elixir.address)
    async with refreshing(elixir, redis_url, sessions=()):
        token = await ctx.set_variable("x", 1)
        snapshot = await store.read_at("fresh", token)
    assert snapshot.value("x") == elixir.value("fresh", "x") == 1
    assert snapshot.authority == "elixir"


async def test_a_session_unknown_to_elixir_belongs_to_the_store(
    elixir: BridgeServer, redis_url: str, store: RedisStore
) -> None:
    ctx = SessionContext("own", redis_url, bridge=elixir.address)
    token = await ctx.set_variable("x", 1)
    assert (await store.read_at("own", token)).authority == "store"
    elixir.stop()
    assert await ctx.set_variable("x", 2) > token
    with pytest.raises(ElixirUnavailableError):
        await SessionContext("unknown", redis_url, bridge=elixir.address).set_variable("x", 1)
    assert "unknown" not in await store.heads(["unknown"])


@pytest.mark.usefixtures("followed")
async def test_a_session_that_elixir_lost_is_not_found(ctx: SessionContext, elixir: BridgeServer) -> None:
    elixir.forget()
    with pytest.raises(ElixirSessionNotFoundError):
        await ctx.set_variable("temperature", 1.0)


async def test_a_change_without_a_refresher_is_reported_as_written_to_elixir(
    elixir: BridgeServer, redis_url: str, store: RedisStore
) -> None:
    async with refreshing(elixir, redis_url):
        await published(store)
    authority = ElixirAuthority(elixir.address, store, wait_s=0.3)
    ctx = SessionContext("s", store, bridge=authority)
    with pytest.raises(WriteNotShownError):
        await ctx.set_variable("temperature", 1.25)
    assert elixir.value("s", "temperature") == 1.25
    async with refreshing(elixir, redis_url):
        token = await SessionContext("s", store, bridge=elixir.address).set_variable("style", "late")
        assert await at(store, token) == {"temperature": 1.25, "style": "late"}


@pytest.mark.usefixtures("followed")
async def test_a_change_is_published_even_if_another_variable_is_unreadable(
    ctx: SessionContext, elixir: BridgeServer, store: RedisStore
) -> None:
    elixir.spoil("s", "style")
    token = await ctx.set_variable("temperature", 1.75)
    assert (await at(store, token))["temperature"] == 1.75


@pytest.mark.usefixtures("followed")
async def test_writers_of_one_process_register_a_new_name_once(
    ctx: SessionContext, elixir: BridgeServer, store: RedisStore
) -> None:
    tokens = await asyncio.gather(*(ctx.set_variable("shared", n) for n in range(8)))
    assert elixir.calls["RegisterVariable"] == 1
    assert (await at(store, max(tokens)))["shared"] == elixir.value("s", "shared")


@pytest.mark.usefixtures("followed")
@pytest.mark.parametrize("turns", ["turns", "none"])
async def test_a_new_name_that_two_processes_register_at_once_is_one_variable(
    turns: str, elixir: BridgeServer, redis_url: str, store: RedisStore
) -> None:
    elixir.turn(latency_s=0.01)  # so that each finds nothing before the other has registered
    arguments = ("tests.integration.writing_process", redis_url, elixir.address, turns)
    with LineProcess(*arguments) as first, LineProcess(*arguments) as other:
        for n in range(15):
            first.tell(f"new-{n} 1")
            other.tell(f"new-{n} 2")
            tokens = [Token.parse((await asyncio.to_thread(process.hear))["token"]) for process in (first, other)]
            newest = (await store.read_at("s", max(tokens))).value(f"new-{n}")
            assert newest in (1, 2)
            assert elixir.value("s", f"new-{n}") in (1, 2)
    registered = Counter(variable.name for variable in elixir._service.sessions.session("s").variables.values())
    assert set(registered.values()) == {1}, registered
    if turns == "turns":
        assert elixir.calls["RegisterVariable"] == 15
    else:
        assert elixir.calls["RegisterVariable"] > 15, "the processes never met"


@pytest.mark.usefixtures("followed")
async def test_a_name_that_elixir_forgot_is_set_without_registering_it_again(
    ctx: SessionContext, elixir: BridgeServer, store: RedisStore
) -> None:
    first = elixir.register("s", "twice", "integer", 1)
    elixir.register("s", "twice", "integer", 2)
    elixir.delete("s", first)  # with it Elixir forgets what the name means, though the newer variable is there
    assert await at(store, await ctx.set_variable("twice", 3)) == {"temperature": 0.5, "style": "kind", "twice": 3}
    assert "RegisterVariable" not in elixir.calls
    assert elixir.value("s", "twice") == 3


@pytest.mark.usefixtures("followed")
async def test_a_write_waits_for_a_read_that_began_after_it(
    ctx: SessionContext, elixir: BridgeServer, store: RedisStore
) -> None:
    elixir.turn(latency_s=0.15)
    for value in (0.2, 0.4, 0.6):
        token = await ctx.set_variable("temperature", value)
        assert (await at(store, token))["temperature"] == value


@pytest.mark.usefixtures("followed")
async def test_blocking_callers_write_back_as_well(ctx: SessionContext, elixir: BridgeServer) -> None:
    await asyncio.to_thread(ctx.blocking.set_variable, "temperature", 0.8)
    assert elixir.value("s", "temperature") == 0.8


async def test_a_shell_changes_a_followed_session_in_elixir(
    elixir: BridgeServer, followed: Refresher, redis_url: str, store: RedisStore, capsys: pytest.CaptureFixture[str]
) -> None:
    async def command(*arguments: str) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            await asyncio.to_thread(main, ["--redis-url", redis_url, *arguments])
        output = capsys.readouterr()
        assert not ended.value.code, output.err
        return output.out.strip()

    before = str((await store.read("s")).token)
    token = await command("publish", "s", "temperature=1.5", "--bridge", elixir.address)
    assert elixir.value("s", "temperature") == 1.5
    assert (await store.read_at("s", token)).value("temperature") == 1.5
    token = await command("rollback", "s", before, "--bridge", elixir.address)
    assert elixir.value("s", "temperature") == 0.5
    assert (await store.read_at("s", token)).value("temperature") == 0.5
    with pytest.raises(SystemExit):
        await asyncio.to_thread(main, ["--redis-url", redis_url, "publish", "s", "temperature=1.5"])
    assert "elixir" in capsys.readouterr().err

"""SessionContext and its blocking twin: the same answers and errors, on memory and on a real server, on any thread."""

from __future__ import annotations

import asyncio
import copy
import inspect
import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest

from snakepit_bridge import SessionContext
from snakepit_bridge.exceptions import (
    ConfigurationError,
    SessionNotFoundError,
    SessionOwnedElsewhereError,
    StoreUnavailableError,
    ValidationError,
    VariableNotFoundError,
)
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.snapshots import MemoryStore, SnapshotStore, open_store
from snakepit_bridge.variables import Variable
from tests.harness.waiting import PATIENCE_S


@pytest.fixture(params=["memory", "redis"])
def store(request: pytest.FixtureRequest) -> SnapshotStore:
    return MemoryStore() if request.param == "memory" else open_store(request.getfixturevalue("redis_url"))


@pytest.fixture
def ctx(store: SnapshotStore) -> SessionContext:
    return SessionContext("s", store)


# ---------------------------------------------------------------- get, set, list


async def test_a_value_that_was_set_is_read_back(ctx: SessionContext) -> None:
    await ctx.set_variable("temperature", 0.7)

    assert await ctx.get_variable("temperature") == 0.7


@pytest.mark.parametrize("value", [0.5, 3, True, "text", "", "ü\n'", 10**12, -0.0, float("inf")], ids=repr)
async def test_a_value_comes_back_in_its_type(ctx: SessionContext, value: Any) -> None:
    await ctx.set_variable("x", value)

    found = await ctx.get_variable("x")
    assert found == value
    assert type(found) is type(value)


async def test_each_set_is_a_later_token_and_the_same_value_again_is_the_same(ctx: SessionContext) -> None:
    first = await ctx.set_variable("x", 1)
    second = await ctx.set_variable("x", 2)

    assert isinstance(first, Token)
    assert second > first
    assert await ctx.set_variable("x", 2) == second


async def test_many_values_are_read_at_one_revision(ctx: SessionContext, store: SnapshotStore) -> None:
    await ctx.set_variables({"a": 0, "b": 0})
    other = SessionContext("s", store)

    async def publish() -> None:
        for n in range(1, 60):
            await other.set_variables({"a": n, "b": n})

    async def read() -> None:
        for _ in range(60):
            values = await ctx.get_variables(["a", "b"])
            assert values["a"] == values["b"]

    await asyncio.gather(publish(), read(), read())
    assert await ctx.get_variables(["a", "b"]) == {"a": 59, "b": 59}


async def test_all_values_are_given_where_none_is_named(ctx: SessionContext) -> None:
    await ctx.set_variables({"b": 2, "a": 1})

    assert await ctx.get_variables() == {"a": 1, "b": 2}
    assert await ctx.get_variables([]) == {}


async def test_variables_are_listed_by_name_with_type_and_constraints(ctx: SessionContext) -> None:
    await ctx.register_variable("temperature", "float", 0.7, {"min": 0, "max": 2})
    await ctx.set_variable("name", "x")

    assert await ctx.list_variables() == [
        Variable.declare("name", "x"),
        Variable.declare("temperature", 0.7, "float", {"min": 0, "max": 2}),
    ]


async def test_a_deleted_variable_is_gone_and_the_others_stay(ctx: SessionContext) -> None:
    await ctx.set_variables({"a": 1, "b": 2})
    await ctx.delete_variable("a")

    assert await ctx.get_variables() == {"b": 2}
    with pytest.raises(VariableNotFoundError):
        await ctx.delete_variable("a")


async def test_contexts_of_one_session_see_each_other_and_sessions_do_not(store: SnapshotStore) -> None:
    context, same, other = (SessionContext(name, store) for name in ("a", "a", "b"))
    await context.set_variable("x", 1)

    assert await same.get_variable("x") == 1
    with pytest.raises(VariableNotFoundError):
        await other.get_variable("x")


async def test_sets_at_the_same_time_all_land(store: SnapshotStore) -> None:
    contexts = [SessionContext("s", store) for _ in range(12)]
    await asyncio.gather(*(context.set_variable(f"v{n}", n) for n, context in enumerate(contexts)))

    assert await contexts[0].get_variables() == {f"v{n}": n for n in range(12)}


# ---------------------------------------------------------------- types and constraints


async def test_setting_keeps_the_declared_type_and_its_constraints(ctx: SessionContext) -> None:
    await ctx.register_variable("temperature", "float", 0.7, {"min": 0.0, "max": 2.0})
    await ctx.set_variable("temperature", 1)

    assert await ctx.get_variable("temperature") == 1.0
    with pytest.raises(ValidationError, match="temperature"):
        await ctx.set_variable("temperature", 5.0)
    with pytest.raises(ValidationError, match="temperature"):
        await ctx.set_variable("temperature", "hot")
    assert await ctx.get_variable("temperature") == 1.0


async def test_of_several_values_all_are_published_or_none(ctx: SessionContext) -> None:
    await ctx.register_variable("temperature", "float", 0.7, {"max": 2.0})
    before = await ctx.snapshot()

    with pytest.raises(ValidationError):
        await ctx.set_variables({"a": 1, "temperature": 9.0, "b": 2})

    assert (await ctx.snapshot()).token == before.token
    assert await ctx.get_variables() == {"temperature": 0.7}


async def test_a_type_that_is_given_declares_the_variable_anew(ctx: SessionContext) -> None:
    await ctx.set_variable("strategy", "Predict")
    await ctx.set_variables({"strategy": "ReAct"}, types={"strategy": "module"})

    assert (await ctx.list_variables())[0].type == "module"


@pytest.mark.parametrize(
    ("kind", "value", "constraints"),
    [
        ("nonsense", 1, None),
        ("float", 3.0, {"max": 2}),
        ("float", 1.0, {"min": "low"}),
        ("choice", "c", {"choices": ["a"]}),
    ],
)
async def test_a_declaration_that_does_not_hold_is_refused(
    ctx: SessionContext, kind: str, value: Any, constraints: dict[str, Any] | None
) -> None:
    with pytest.raises(ValidationError):
        await ctx.register_variable("x", kind, value, constraints)
    with pytest.raises(SessionNotFoundError):
        await ctx.snapshot()


# ---------------------------------------------------------------- errors


async def test_a_missing_variable_names_the_session_and_the_closest(ctx: SessionContext) -> None:
    await ctx.set_variable("temperature", 0.7)

    with pytest.raises(VariableNotFoundError) as missing:
        await ctx.get_variable("temprature")
    assert missing.value.variable_name == "temprature"
    assert "session 's'" in str(missing.value)
    assert "Did you mean 'temperature'" in str(missing.value)


async def test_one_missing_variable_among_several_is_named(ctx: SessionContext) -> None:
    await ctx.set_variable("a", 1)

    with pytest.raises(VariableNotFoundError, match="Variable not found: b"):
        await ctx.get_variables(["a", "b"])


async def test_a_session_that_nobody_published_has_no_variables_and_no_snapshot(ctx: SessionContext) -> None:
    assert await ctx.get_variables() == {}
    with pytest.raises(VariableNotFoundError, match="x"):
        await ctx.get_variable("x")
    with pytest.raises(SessionNotFoundError, match="publish one first"):
        await ctx.snapshot()


async def test_a_session_of_an_elixir_server_is_not_published_here(ctx: SessionContext, store: SnapshotStore) -> None:
    await store.publish("s", {"x": Variable.declare("x", 1)}, publisher="elixir@host")

    with pytest.raises(SessionOwnedElsewhereError, match="elixir@host"):
        await ctx.set_variable("x", 2)
    assert await ctx.get_variable("x") == 1


async def test_redis_away_is_a_named_error_within_its_bound() -> None:
    unreachable = SessionContext("s", open_store("redis://127.0.0.1:1/0", timeout_s=0.5))

    for attempt in (
        unreachable.get_variable("x"),
        unreachable.set_variable("x", 1),
        unreachable.list_variables(),
        unreachable.snapshot(),
    ):
        with pytest.raises(StoreUnavailableError, match="is away"):
            await attempt


def test_a_store_of_no_known_kind_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="memory://"):
        SessionContext("s", "ftp://somewhere")


# ---------------------------------------------------------------- the blocking twin

STEPS: list[tuple[str, Callable[[Any], Any]]] = [
    ("set_variable", lambda session: session.set_variable("temperature", 0.7)),
    ("get_variable", lambda session: session.get_variable("temperature")),
    ("set_variables", lambda session: session.set_variables({"a": 1, "b": 2}, reason="why")),
    ("get_variables", lambda session: session.get_variables(["a", "b"])),
    ("register_variable", lambda session: session.register_variable("c", "float", 0.5, {"max": 1})),
    ("list_variables", lambda session: session.list_variables()),
    ("delete_variable", lambda session: session.delete_variable("a")),
    ("get_variables of all", lambda session: session.get_variables()),
    ("snapshot", lambda session: dict(session.snapshot().variables)),
    ("get a missing one", lambda session: session.get_variable("missing")),
    ("set a bad one", lambda session: session.set_variable("c", 5.0)),
]


def answers(session: Any) -> list[Any]:
    """What each step answers or raises; tokens are left out, since every store has epochs of its own."""
    found: list[Any] = []
    for name, step in STEPS:
        try:
            answer = step(session)
        except (VariableNotFoundError, ValidationError) as error:
            answer = (type(error), error.args)
        found.append((name, None if isinstance(answer, Token) else answer))
    return found


async def awaited(context: SessionContext) -> list[Any]:
    class Awaiting:
        """Turns each method of the context into a call that the thread waits for, without the twin's help."""

        def __getattr__(self, name: str) -> Any:
            return lambda *args, **kwargs: asyncio.run(getattr(context, name)(*args, **kwargs))

    return await asyncio.to_thread(answers, Awaiting())


async def test_the_twin_answers_as_the_context_does() -> None:
    expected = await awaited(SessionContext("s", MemoryStore()))

    assert await asyncio.to_thread(answers, SessionContext("s", MemoryStore()).blocking) == expected


def test_the_twin_works_without_a_loop(ctx: SessionContext) -> None:
    ctx.blocking.set_variable("x", 1)

    assert ctx.blocking.get_variable("x") == 1


async def test_the_twin_works_on_a_thread_whose_loop_is_running(ctx: SessionContext) -> None:
    ctx.blocking.set_variable("x", 1)

    assert ctx.blocking.get_variable("x") == 1
    assert await ctx.get_variable("x") == 1


def test_the_twin_works_in_many_threads_at_once(ctx: SessionContext) -> None:
    faults: list[BaseException] = []

    def work(number: int) -> None:
        try:
            ctx.blocking.set_variable(f"v{number}", number)
            assert ctx.blocking.get_variable(f"v{number}") == number
        except BaseException as fault:  # noqa: BLE001  (raised below, in the test's own thread)
            faults.append(fault)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)

    assert faults == []
    assert ctx.blocking.get_variables() == {f"v{n}": n for n in range(12)}


def test_one_context_serves_loop_after_loop(ctx: SessionContext) -> None:
    for n in range(3):
        asyncio.run(ctx.set_variable("x", n))
        assert asyncio.run(ctx.get_variable("x")) == n


def test_the_twin_has_every_method_of_the_context() -> None:
    def methods(thing: Any) -> set[str]:
        return {
            name
            for name in dir(thing)
            if not name.startswith("_") and inspect.iscoroutinefunction(getattr(thing, name))
        }

    context = SessionContext("s", MemoryStore())
    assert {"get_variable", "set_variable", "get_variables", "list_variables"} <= methods(context)
    assert {name for name in methods(context) if not hasattr(context.blocking, name)} == set()


# ---------------------------------------------------------------- what it is to others


def test_without_a_store_it_keeps_the_session_in_this_process() -> None:
    SessionContext("standalone-of-this-test").blocking.set_variable("x", 1)

    assert SessionContext("standalone-of-this-test").blocking.get_variable("x") == 1


def test_no_password_is_shown() -> None:
    shown = repr(SessionContext("s", "redis://user:hunter2@127.0.0.1:1/0"))

    assert "hunter2" not in shown
    assert "'s'" in shown


def test_a_copy_is_the_same_session_and_a_pickle_carries_none(ctx: SessionContext) -> None:
    assert copy.deepcopy(ctx) is ctx
    assert pickle.loads(pickle.dumps(ctx)) is None  # noqa: S301  (our own bytes)


async def test_author_and_reason_stand_in_the_history(store: SnapshotStore) -> None:
    ctx = SessionContext("s", store, author="ada")
    await ctx.set_variables({"x": 1}, reason="warmer answers")

    change = (await store.history("s"))[0]
    assert (change.author, change.reason) == ("ada", "warmer answers")

"""Follow sessions of an Elixir server: what is published to the store, and what it holds while something fails."""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from snakepit_bridge.elixir.demand import SessionDemand
from snakepit_bridge.exceptions import SessionNotFoundError, SessionOwnedElsewhereError
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.snapshots import RedisStore
from snakepit_bridge.snapshots.snapshot import AuthoritySign, Snapshot
from snakepit_bridge.testing.elixir.server import BridgeServer
from snakepit_bridge.variables import Tensor, Variable, VariableType
from tests.harness.waiting import eventually
from tests.integration.refresher_proxy import Network
from workers.refresher import Refresher, RefresherSettings
from workers.refresher.session_status import SessionState

Start = Callable[..., Awaitable[Refresher]]

# Short to keep the tests fast, but far longer than a read takes.
QUICK = {"poll_s": 0.05, "poll_max_s": 0.2, "settle_s": 0.6, "lease_s": 3.0, "timeout_s": 1.0, "heartbeat_s": 0.1}


@pytest.fixture
def elixir() -> Generator[BridgeServer]:
    with BridgeServer() as server:
        server.begin("s")
        server.register("s", "temperature", "float", 0.5, min=0, max=2)
        server.register("s", "style", "string", "kind")
        yield server


@pytest.fixture
async def store(redis_url: str) -> AsyncGenerator[RedisStore]:
    opened = RedisStore(redis_url)
    yield opened
    await opened.aclose()


@asynccontextmanager
async def running_refresher(elixir: BridgeServer | Network, redis_url: str, **turned: Any) -> AsyncGenerator[Refresher]:
    given: dict[str, Any] = {"sessions": ("s",), **QUICK, **turned}
    name = given.pop("name", "")
    refresher = Refresher(RefresherSettings(elixir.address, redis_url, **given), name=name)
    stop = asyncio.Event()
    running = asyncio.create_task(refresher.run(stop))
    try:
        yield refresher
    finally:
        stop.set()
        await running


@pytest.fixture
async def refresher(elixir: BridgeServer, redis_url: str, store: RedisStore) -> AsyncGenerator[Refresher]:
    async with running_refresher(elixir, redis_url) as running:
        await wait_for_values(store, temperature=0.5, style="kind")
        yield running


async def read(store: RedisStore, session: str = "s") -> Snapshot | None:
    try:
        return await store.read(session)
    except SessionNotFoundError:
        return None


async def wait_for_values(store: RedisStore, session: str = "s", **values: Any) -> Snapshot:
    async def found() -> Snapshot | None:
        snapshot = await read(store, session)
        seen = {name: variable.value for name, variable in snapshot.variables.items()} if snapshot else None
        return snapshot if seen == values else None

    return await eventually(found, f"session {session} holding {values}")


async def wait_for_state(refresher: Refresher, state: SessionState, session: str = "s") -> None:
    async def found() -> bool:
        reports = refresher.statuses()
        return session in reports and reports[session].state is state

    await eventually(found, f"{session} to be {state!r}, in {refresher.statuses()}")


async def wait_for_reads(elixir: BridgeServer, count: int = 3) -> None:
    """Wait until several more reads have begun and all but the last have ended."""
    before = elixir.calls["ListVariables"]

    async def enough() -> bool:
        return elixir.calls["ListVariables"] >= before + count

    await eventually(enough, f"{count} reads")


async def wait_for_confirmation(store: RedisStore, moment: float) -> float:
    async def found() -> float | None:
        head = await store.head("s")
        return head.confirmed_at if head.confirmed_at > moment else None

    return await eventually(found, "a newer confirmation")


async def test_a_change_in_elixir_is_one_revision_and_setting_an_equal_value_is_none(
    elixir: BridgeServer, store: RedisStore, refresher: Refresher
) -> None:
    first = await store.read("s")
    assert first.authority == "elixir"
    elixir.set("s", "temperature", 0.9)
    second = await wait_for_values(store, temperature=0.9, style="kind")
    assert second.token.revision == first.token.revision + 1
    elixir.set("s", "temperature", 0.9)
    assert await refresher.sync("s") == second.token
    assert (await store.history("s"))[0].author.startswith("refresher ")


async def test_each_read_confirms_the_snapshot_even_if_nothing_changed(store: RedisStore, refresher: Refresher) -> None:
    head = await store.head("s")
    later = await wait_for_confirmation(store, head.confirmed_at)
    now = await store.head("s")
    assert later <= now.now
    assert now.token == head.token


async def test_the_token_of_a_sync_shows_what_was_set_before_it(
    elixir: BridgeServer, store: RedisStore, refresher: Refresher
) -> None:
    for value in (0.1, 0.2, 0.3):
        elixir.set("s", "temperature", value)
        token = await refresher.sync("s")
        assert (await store.read_at("s", token)).value("temperature") == value


EVERY = {
    "nan": ("float", math.nan),
    "huge": ("integer", 10**30),
    "größe 🙂": ("string", 'ü\n"\\'),
    "": ("boolean", True),
    "strategy": ("module", "ReAct"),
    "mood": ("choice", "kind"),
    "vector": ("embedding", tuple(n / 7 for n in range(3_000))),
    "short": ("embedding", (1.0, math.inf)),
    "grid": ("tensor", Tensor(tuple(n / 3 for n in range(100_000)), (100, 1_000))),
    "n" * 300: ("string", "long name"),
}


async def test_every_type_has_the_same_value_in_the_snapshot_as_in_elixir(
    elixir: BridgeServer, store: RedisStore, redis_url: str
) -> None:
    elixir.begin("all")
    wanted = {name: Variable(name, VariableType(kind), value) for name, (kind, value) in EVERY.items()}
    for name, (kind, value) in EVERY.items():
        elixir.register("all", name, kind, value)
    async with running_refresher(elixir, redis_url, sessions=("all",)):

        async def complete() -> bool:
            snapshot = await read(store, "all")
            return snapshot is not None and dict(snapshot.variables) == wanted

        await eventually(complete, "all types in the snapshot")


async def test_a_variable_deleted_in_elixir_is_deleted_once_it_stays_missing(
    elixir: BridgeServer, store: RedisStore, refresher: Refresher
) -> None:
    elixir.delete("s", "style")
    await wait_for_state(refresher, SessionState.SETTLING)
    assert set((await store.read("s")).variables) == {"temperature", "style"}
    await wait_for_values(store, temperature=0.5)


async def test_a_restart_with_equal_ids_and_versions_but_other_values_is_detected(
    elixir: BridgeServer, store: RedisStore, refresher: Refresher
) -> None:
    before = await store.read("s")
    elixir.restart()
    elixir.begin("s")
    elixir.register("s", "temperature", "float", 1.75, min=0, max=2)
    elixir.register("s", "style", "string", "stern")
    after = await wait_for_values(store, temperature=1.75, style="stern")
    assert after.token > before.token


async def test_no_variable_is_deleted_while_variables_come_back_one_by_one(
    elixir: BridgeServer, store: RedisStore, refresher: Refresher
) -> None:
    before = await store.read("s")
    elixir.restart()
    elixir.begin("s")
    elixir.register("s", "temperature", "float", 1.0)
    await wait_for_state(refresher, SessionState.SETTLING)
    elixir.register("s", "style", "string", "kind")
    after = await wait_for_values(store, temperature=1.0, style="kind")
    changes = [change for change in await store.history("s") if before.token < change.token <= after.token]
    assert [list(change.after) for change in changes] == [["temperature"]]


async def test_a_vanished_session_keeps_its_last_snapshot_unconfirmed_until_it_is_back(
    elixir: BridgeServer, store: RedisStore, refresher: Refresher
) -> None:
    elixir.end("s")
    await wait_for_state(refresher, SessionState.GONE)
    stale, gone_at = await store.read("s"), (await store.head("s")).now
    assert stale.value("temperature") == 0.5
    await wait_for_reads(elixir)
    assert (await store.head("s")).confirmed_at < gone_at, "only reads before may be confirmed after"
    elixir.begin("s")
    await wait_for_state(refresher, SessionState.EMPTY)
    assert (await store.read("s")).token == stale.token
    elixir.register("s", "temperature", "float", 0.7)
    elixir.register("s", "style", "string", "kind")
    await wait_for_values(store, temperature=0.7, style="kind")
    await wait_for_state(refresher, SessionState.FOLLOWED)


async def test_an_unreachable_server_leaves_the_snapshot_stale_until_it_is_back(
    elixir: BridgeServer, store: RedisStore, refresher: Refresher
) -> None:
    elixir.stop()
    await wait_for_state(refresher, SessionState.UNREACHABLE)
    stale = await store.head("s")
    assert "away" in refresher.statuses()["s"].problem
    elixir.start()
    await wait_for_state(refresher, SessionState.FOLLOWED)
    await wait_for_confirmation(store, stale.confirmed_at)
    assert (await store.head("s")).token == stale.token


async def test_a_silent_server_confirms_nothing(elixir: BridgeServer, store: RedisStore, refresher: Refresher) -> None:
    elixir.turn(silent=True)
    await wait_for_state(refresher, SessionState.UNREACHABLE)
    stale = await store.head("s")
    elixir.turn(silent=False)
    elixir.set("s", "temperature", 1.25)
    await wait_for_values(store, temperature=1.25, style="kind")
    assert (await store.head("s")).confirmed_at > stale.confirmed_at


async def test_a_flaky_server_is_still_followed(elixir: BridgeServer, store: RedisStore, refresher: Refresher) -> None:
    elixir.turn(flaky=0.5)
    for value in (0.1, 0.2, 0.3):
        elixir.set("s", "temperature", value)
        await wait_for_values(store, temperature=value, style="kind")


@pytest.mark.parametrize("spoilt_patterns", [False, True], ids=["patterns help", "one by one"])
async def test_a_variable_that_breaks_the_listing_is_reported_and_the_others_are_followed(
    elixir: BridgeServer, store: RedisStore, refresher: Refresher, spoilt_patterns: bool
) -> None:
    elixir.turn(odd_variables_spoil_patterns=spoilt_patterns)
    elixir.spoil("s", "style")
    await wait_for_state(refresher, SessionState.PARTIAL)
    assert list(refresher.statuses()["s"].unreadable) == ["style"]
    partial_at = (await store.head("s")).now
    elixir.set("s", "temperature", 1.5)
    await wait_for_values(store, temperature=1.5, style="kind")
    # The store still holds a value of `style` that Elixir may have changed.
    assert (await store.head("s")).confirmed_at < partial_at
    elixir.spoil("s", "style", odd=False)
    elixir.set("s", "style", "stern")
    await wait_for_values(store, temperature=1.5, style="stern")
    await wait_for_state(refresher, SessionState.FOLLOWED)


async def test_a_variable_that_was_never_readable_leaves_the_others_followed_and_confirmed(
    elixir: BridgeServer, store: RedisStore, redis_url: str
) -> None:
    elixir.register("s", "temper*", "float", 1.0)
    elixir.spoil("s", "temper*")
    async with running_refresher(elixir, redis_url) as refresher:
        first = await wait_for_values(store, temperature=0.5, style="kind")
        await wait_for_state(refresher, SessionState.PARTIAL)  # it follows the publish
        assert list(refresher.statuses()["s"].unreadable) == ["temper*"]
        await wait_for_confirmation(store, first.confirmed_at)


async def test_the_newest_of_two_variables_with_one_name_is_used(
    elixir: BridgeServer, store: RedisStore, refresher: Refresher
) -> None:
    for value in range(12):
        elixir.register("s", "style", "string", str(value))
    await wait_for_values(store, temperature=0.5, style="11")


async def test_followed_sessions_are_kept_alive_by_heartbeats(elixir: BridgeServer, refresher: Refresher) -> None:
    before = elixir.calls["Heartbeat"]

    async def beats() -> bool:
        return elixir.calls["Heartbeat"] >= before + 3

    await eventually(beats, "three heartbeats")


async def test_a_session_is_followed_while_in_demand_and_dropped_when_idle(
    elixir: BridgeServer, store: RedisStore, redis_url: str
) -> None:
    connection = RedisConnection(redis_url)
    wanted = SessionDemand(connection, idle_s=2)
    elixir.begin("late")
    elixir.register("late", "x", "integer", 7)
    async with running_refresher(elixir, redis_url, sessions=(), idle_s=2) as refresher:
        await wanted.touch(["late", "nowhere"])
        await wait_for_values(store, "late", x=7)
        await wait_for_state(refresher, SessionState.GONE, "nowhere")

        async def dropped() -> bool:
            return not refresher.statuses()

        await eventually(dropped, "idle sessions to be dropped")
    assert (await store.read("late")).value("x") == 7
    await connection.aclose()


async def test_a_session_unknown_to_elixir_can_be_published_by_others(
    elixir: BridgeServer, store: RedisStore, redis_url: str
) -> None:
    async with running_refresher(elixir, redis_url, sessions=("mine",)) as refresher:
        await wait_for_state(refresher, SessionState.GONE, "mine")
        await store.publish("mine", {"x": Variable.declare("x", 1)})
        elixir.begin("mine")
        elixir.register("mine", "x", "integer", 2)
        await wait_for_state(refresher, SessionState.OWNED_ELSEWHERE, "mine")
    assert (await store.read("mine")).value("x") == 1


async def test_a_followed_session_rejects_other_publishers(store: RedisStore, refresher: Refresher) -> None:
    with pytest.raises(SessionOwnedElsewhereError):
        await store.publish("s", {"temperature": Variable.declare("temperature", 1.0)})


async def test_a_session_dropped_from_the_store_is_published_again(
    elixir: BridgeServer, store: RedisStore, refresher: Refresher
) -> None:
    await store.drop("s")
    elixir.set("s", "temperature", 0.6)
    await wait_for_values(store, temperature=0.6, style="kind")


@pytest.mark.parametrize("watch", [False, True], ids=["polling", "watching"])
async def test_rapid_changes_converge_to_the_last_value_without_going_back(
    elixir: BridgeServer, store: RedisStore, redis_url: str, watch: bool
) -> None:
    elixir.turn(watch=watch)
    async with running_refresher(elixir, redis_url) as refresher:
        await wait_for_values(store, temperature=0.5, style="kind")
        for step in range(300):
            elixir.set("s", "temperature", step / 1000)
            await asyncio.sleep(0.002)
        token = await refresher.sync("s")
    assert (await store.read_at("s", token)).value("temperature") == 0.299
    published = [change.after["temperature"] for change in reversed(await store.history("s", 1000))][1:]
    values = [variable.value for variable in published if variable is not None]
    assert values == sorted(set(values))


async def wait_for_watch(refresher: Refresher) -> None:
    async def found() -> bool:
        return "s" in refresher.statuses() and refresher.statuses()["s"].watched

    await eventually(found, "a watch that is trusted")


async def test_a_watched_session_is_read_when_it_changes_and_otherwise_rarely(
    elixir: BridgeServer, store: RedisStore, redis_url: str
) -> None:
    elixir.turn(watch=True)
    # Polled, a change would take a minute.
    async with running_refresher(elixir, redis_url, poll_s=60.0, poll_max_s=60.0) as refresher:
        await wait_for_values(store, temperature=0.5, style="kind")
        await wait_for_watch(refresher)
        for value in (0.1, 0.2, 0.3):
            elixir.set("s", "temperature", value)
            await wait_for_values(store, temperature=value, style="kind")
        assert elixir.calls["ListVariables"] < 20


async def test_a_variable_registered_later_is_watched_too(
    elixir: BridgeServer, store: RedisStore, redis_url: str
) -> None:
    elixir.turn(watch=True)
    async with running_refresher(elixir, redis_url, poll_s=0.5, poll_max_s=60.0) as refresher:
        await wait_for_watch(refresher)
        elixir.register("s", "late", "integer", 1)
        await refresher.sync("s")
        before = elixir.calls["WatchVariables"]
        await wait_for_watch(refresher)
        elixir.set("s", "late", 2)
        await wait_for_values(store, temperature=0.5, style="kind", late=2)
        assert before <= elixir.calls["WatchVariables"] <= before + 1


async def test_a_watch_that_misses_changes_is_replaced_by_polling(
    elixir: BridgeServer, store: RedisStore, redis_url: str
) -> None:
    elixir.turn(watch=True)
    async with running_refresher(elixir, redis_url) as refresher:
        await wait_for_watch(refresher)
        elixir.turn(mute_watch=True)
        elixir.set("s", "temperature", 0.8)
        await wait_for_values(store, temperature=0.8, style="kind")

        temperatures = itertools.cycle((0.1, 0.2, 0.3))

        async def polled() -> bool:
            # The first change may be found by a read in progress when the watch stopped delivering.
            elixir.set("s", "temperature", next(temperatures))
            return not refresher.statuses()["s"].watched

        await eventually(polled, "the mute watch to be given up")


async def test_a_broken_watch_is_reopened(elixir: BridgeServer, store: RedisStore, redis_url: str) -> None:
    elixir.turn(watch=True)
    async with running_refresher(elixir, redis_url) as refresher:
        await wait_for_watch(refresher)
        elixir.stop()
        await wait_for_state(refresher, SessionState.UNREACHABLE)
        elixir.start()
        elixir.set("s", "temperature", 0.8)
        await wait_for_values(store, temperature=0.8, style="kind")
        await wait_for_watch(refresher)


async def test_two_refreshers_share_the_sessions_and_one_takes_over_what_the_other_leaves(
    elixir: BridgeServer, store: RedisStore, redis_url: str
) -> None:
    sessions = tuple(f"s{n}" for n in range(10))
    for session in sessions:
        elixir.begin(session)
        elixir.register(session, "x", "integer", 1)
    async with running_refresher(elixir, redis_url, sessions=sessions) as stays:
        async with running_refresher(elixir, redis_url, sessions=sessions) as leaves:

            async def halved() -> bool:
                both = [set(refresher.statuses()) for refresher in (stays, leaves)]
                return [len(sessions_of) for sessions_of in both] == [5, 5] and not both[0] & both[1]

            await eventually(halved, "each to follow half of the sessions")

        async def all_taken() -> bool:
            return set(stays.statuses()) == set(sessions)

        await eventually(all_taken, "the one that stays to follow all")
        for session in sessions:
            elixir.set(session, "x", 2)
            await wait_for_values(store, session, x=2)


async def test_a_refresher_that_cannot_reach_elixir_leaves_its_sessions_to_one_that_can(
    elixir: BridgeServer, store: RedisStore, redis_url: str
) -> None:
    with BridgeServer() as cut_off:
        cut_off.begin("s")
        cut_off.register("s", "temperature", "float", 0.5)
        async with running_refresher(cut_off, redis_url, lease_s=1.0) as first:
            await wait_for_values(store, temperature=0.5)
            cut_off.stop()
            async with running_refresher(elixir, redis_url, lease_s=1.0):
                await wait_for_values(store, temperature=0.5, style="kind")
            assert first.name


async def test_an_elixir_that_hangs_for_longer_than_a_lease_moves_no_session(
    elixir: BridgeServer, store: RedisStore, redis_url: str
) -> None:
    """With short leases, a pause of the server doesn't look like the death of a refresher."""
    network, connection = Network(elixir.address), RedisConnection(redis_url)
    await network.start()
    times = {"lease_s": 2.0, "timeout_s": 30.0}
    try:
        async with (
            running_refresher(network, redis_url, **times) as first,
            running_refresher(network, redis_url, **times) as second,
        ):
            await wait_for_values(store, temperature=0.5, style="kind")
            [holder] = await connection.send_each([("GET", "dspex:{s:s}:lease")])
            assert holder.decode().rpartition("/")[0] in (first.name, second.name)
            network.cut()
            until = time.monotonic() + 2.5 * times["lease_s"]
            while time.monotonic() < until:
                assert await connection.send_each([("GET", "dspex:{s:s}:lease")]) == [holder]
                await asyncio.sleep(0.05)
            network.mend()
            elixir.set("s", "temperature", 1.5)
            await wait_for_values(store, temperature=1.5, style="kind")
    finally:
        network.mend()
        await network.stop()
        await connection.aclose()


async def test_revisions_that_the_store_lost_are_published_again_before_they_are_confirmed(
    elixir: BridgeServer, store: RedisStore, redis_url: str
) -> None:
    connection = RedisConnection(redis_url)
    keys = [f"dspex:{{s:s}}:{part}" for part in ("head", "variables", "history")]
    async with running_refresher(elixir, redis_url):
        await wait_for_values(store, temperature=0.5, style="kind")
        saved: list[Any] = [await connection.client.dump(key) for key in keys]
        elixir.set("s", "temperature", 1.5)
        newer = await wait_for_values(store, temperature=1.5, style="kind")
        for key, data in zip(keys, saved, strict=True):
            await connection.client.restore(key, 0, data, replace=True)
        again = await wait_for_values(store, temperature=1.5, style="kind")
        assert again.confirmed_at >= newer.confirmed_at
    await connection.aclose()


async def wait_for_signal(store: RedisStore, moment: float) -> AuthoritySign:
    async def found() -> AuthoritySign | None:
        heard = (await store.head("s")).heard
        return heard if heard is not None and heard.at > moment else None

    return await eventually(found, "a newer sign of Elixir")


async def test_each_read_publishes_how_long_elixir_may_be_silent(store: RedisStore, refresher: Refresher) -> None:
    """With the refresher's default intervals, counted from the start of the read."""
    head = await store.head("s")
    heard = await wait_for_signal(store, head.heard.at if head.heard else 0.0)
    now = await store.head("s")
    assert now.heard is not None
    assert heard.at <= now.heard.at == now.confirmed_at <= now.now
    at_least = QUICK["poll_max_s"] * 1.1 + QUICK["timeout_s"] + QUICK["lease_s"]
    assert at_least < heard.silence_s < at_least + 5


async def test_an_inconclusive_read_still_proves_that_elixir_is_reachable(
    elixir: BridgeServer, store: RedisStore, refresher: Refresher
) -> None:
    elixir.spoil("s", "style")
    await wait_for_state(refresher, SessionState.PARTIAL)
    first = await store.head("s")
    assert first.heard is not None
    await wait_for_signal(store, (await wait_for_signal(store, first.heard.at)).at)
    assert (await store.head("s")).confirmed_at < first.now
    elixir.stop()
    stopped = (await store.head("s")).now
    await wait_for_state(refresher, SessionState.UNREACHABLE)
    await asyncio.sleep(5 * QUICK["heartbeat_s"])
    # The last confirmation may still have been in flight; it is of a read that began before.
    heard = (await store.head("s")).heard
    assert heard is not None
    assert heard.at <= stopped


async def margins(store: RedisStore, over: asyncio.Event) -> list[float]:
    """Return how long before Elixir would have counted as unreachable each confirmation arrived, until it is over."""
    found = [math.inf]
    while not over.is_set():
        head = await store.head("s")
        assert head.heard is not None
        found.append(head.heard.at + head.heard.silence_s - head.now)
        await asyncio.sleep(0.02)
    return found


async def test_a_slow_server_never_counts_as_unreachable(
    elixir: BridgeServer, store: RedisStore, redis_url: str
) -> None:
    """Neither when it suddenly becomes slow nor while it is, though a slow server is read less often."""
    over = asyncio.Event()
    async with running_refresher(elixir, redis_url, lease_s=1.0):
        await wait_for_values(store, temperature=0.5, style="kind")
        looking = asyncio.create_task(margins(store, over))
        elixir.turn(latency_s=0.8)  # of the second that a call may take
        quick = await store.head("s")
        assert quick.heard is not None
        # By then what was heard of the quick server has run out, and the slow one has been read again and again.
        heard = quick.heard
        while heard.at < quick.heard.at + quick.heard.silence_s:
            heard = await wait_for_signal(store, heard.at)
        over.set()
        assert min(await looking) > 0


async def test_the_maximum_silence_covers_the_takeover_from_a_refresher_that_dies_or_stops(
    elixir: BridgeServer, store: RedisStore, redis_url: str
) -> None:
    """Neither a takeover nor a restart counts as an outage of Elixir, even if the server is slow."""
    elixir.turn(latency_s=0.3)
    over = asyncio.Event()
    async with AsyncExitStack() as running:
        for name in ("one", "two"):
            await running.enter_async_context(running_refresher(elixir, redis_url, name=name, lease_s=1.0))
        await wait_for_values(store, temperature=0.5, style="kind")
        looking = asyncio.create_task(margins(store, over))
        for _ in range(3):  # each begins as another ends, under the same name
            async with running_refresher(elixir, redis_url, name="three", lease_s=1.0):
                await wait_for_signal(store, (await store.head("s")).now)
        await running.aclose()
        async with running_refresher(elixir, redis_url, name="one", lease_s=1.0):
            await wait_for_signal(store, (await store.head("s")).now)
            over.set()
            assert min(await looking) > 0

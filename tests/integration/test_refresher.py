"""Following sessions on an Elixir server: what reaches the store, and what stands there while something is wrong."""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from snakepit_bridge.elixir.demand import WantedSessions
from snakepit_bridge.exceptions import SessionNotFoundError, SessionOwnedElsewhereError
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.snapshots import RedisStore
from snakepit_bridge.snapshots.snapshot import Heard, Snapshot
from snakepit_bridge.testing.elixir.server import BridgeServer
from snakepit_bridge.variables import Tensor, Variable, VariableType
from tests.harness.waiting import eventually
from tests.integration.refresher_proxy import Network
from workers.refresher import Refresher, RefresherSettings
from workers.refresher.session_status import SessionState

Start = Callable[..., Awaitable[Refresher]]

# Short, so that the tests are; still far above what a look takes.
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
async def refreshing(elixir: BridgeServer | Network, redis_url: str, **turned: Any) -> AsyncGenerator[Refresher]:
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
    async with refreshing(elixir, redis_url) as running:
        await holds(store, temperature=0.5, style="kind")
        yield running


async def read(store: RedisStore, session: str = "s") -> Snapshot | None:
    try:
        return await store.read(session)
    except SessionNotFoundError:
        return None


async def holds(store: RedisStore, session: str = "s", **values: Any) -> Snapshot:
    async def found() -> Snapshot | None:
        snapshot = await read(store, session)
        seen = {name: variable.value for name, variable in snapshot.variables.items()} if snapshot else None
        return snapshot if seen == values else None

    return await eventually(found, f"session {session} holding {values}")


async def is_state(refresher: Refresher, state: SessionState, session: str = "s") -> None:
    async def found() -> bool:
        reports = refresher.statuses()
        return session in reports and reports[session].state is state

    await eventually(found, f"{session} to be {state!r}, in {refresher.statuses()}")


async def looks_on(elixir: BridgeServer, count: int = 3) -> None:
    """Returns after several more looks have begun and at least all but the last have ended."""
    before = elixir.calls["ListVariables"]

    async def looked() -> bool:
        return elixir.calls["ListVariables"] >= before + count

    await eventually(looked, f"{count} looks")


async def confirmed_after(store: RedisStore, moment: float) -> float:
    async def found() -> float | None:
        head = await store.head("s")
        return head.confirmed_at if head.confirmed_at > moment else None

    return await eventually(found, "a newer confirmation")


async def test_a_change_in_elixir_is_one_revision_and_an_equal_set_is_none(
    elixir: BridgeServer, store: RedisStore, refresher: Refresher
) -> None:
    first = await store.read("s")
    assert first.authority == "elixir"
    elixir.set("s", "temperature", 0.9)
    second = await holds(store, temperature=0.9, style="kind")
    assert second.token.revision == first.token.revision + 1
    elixir.set("s", "temperature", 0.9)
    assert await refresher.sync("s") == second.token
    assert (await store.history("s"))[0].author.startswith("refresher ")


async def test_each_look_moves_the_confirmation_though_nothing_changed(store: RedisStore, refresher: Refresher) -> None:
    head = await store.head("s")
    later = await confirmed_after(store, head.confirmed_at)
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


async def test_every_type_reaches_the_snapshot_as_elixir_has_it(
    elixir: BridgeServer, store: RedisStore, redis_url: str
) -> None:
    elixir.begin("all")
    wanted = {name: Variable(name, VariableType(kind), value) for name, (kind, value) in EVERY.items()}
    for name, (kind, value) in EVERY.items():
        elixir.register("all", name, kind, value)
    async with refreshing(elixir, redis_url, sessions=("all",)):

        async def complete() -> bool:
            snapshot = await read(store, "all")
            return snapshot is not None and dict(snapshot.variables) == wanted

        await eventually(complete, "all types in the snapshot")


async def test_a_variable_that_elixir_deleted_goes_once_it_stayed_away(
    elixir: BridgeServer, store: RedisStore, refresher: Refresher
) -> None:
    elixir.delete("s", "style")
    await is_state(refresher, SessionState.SETTLING)
    assert set((await store.read("s")).variables) == {"temperature", "style"}
    await holds(store, temperature=0.5)


async def test_a_restart_with_the_same_ids_and_versions_and_other_values_is_noticed(
    elixir: BridgeServer, store: RedisStore, refresher: Refresher
) -> None:
    before = await store.read("s")
    elixir.restart()
    elixir.begin("s")
    elixir.register("s", "temperature", "float", 1.75, min=0, max=2)
    elixir.register("s", "style", "string", "stern")
    after = await holds(store, temperature=1.75, style="stern")
    assert after.token > before.token


async def test_while_variables_come_back_one_by_one_nothing_is_taken_away(
    elixir: BridgeServer, store: RedisStore, refresher: Refresher
) -> None:
    before = await store.read("s")
    elixir.restart()
    elixir.begin("s")
    elixir.register("s", "temperature", "float", 1.0)
    await is_state(refresher, SessionState.SETTLING)
    elixir.register("s", "style", "string", "kind")
    after = await holds(store, temperature=1.0, style="kind")
    changes = [change for change in await store.history("s") if before.token < change.token <= after.token]
    assert [list(change.after) for change in changes] == [["temperature"]]


async def test_a_session_that_is_gone_keeps_its_last_snapshot_unconfirmed_and_is_resumed(
    elixir: BridgeServer, store: RedisStore, refresher: Refresher
) -> None:
    elixir.end("s")
    await is_state(refresher, SessionState.GONE)
    stale = await store.read("s")
    assert stale.value("temperature") == 0.5
    await looks_on(elixir)
    assert (await store.head("s")).confirmed_at == stale.confirmed_at
    elixir.begin("s")
    await is_state(refresher, SessionState.EMPTY)
    assert (await store.read("s")).token == stale.token
    elixir.register("s", "temperature", "float", 0.7)
    elixir.register("s", "style", "string", "kind")
    await holds(store, temperature=0.7, style="kind")
    await is_state(refresher, SessionState.FOLLOWED)


async def test_a_server_that_is_away_leaves_the_snapshot_stale_and_says_so_until_it_is_back(
    elixir: BridgeServer, store: RedisStore, refresher: Refresher
) -> None:
    elixir.stop()
    await is_state(refresher, SessionState.UNREACHABLE)
    stale = await store.head("s")
    assert "away" in refresher.statuses()["s"].problem
    elixir.start()
    await is_state(refresher, SessionState.FOLLOWED)
    await confirmed_after(store, stale.confirmed_at)
    assert (await store.head("s")).token == stale.token


async def test_a_silent_server_confirms_nothing(elixir: BridgeServer, store: RedisStore, refresher: Refresher) -> None:
    elixir.turn(silent=True)
    await is_state(refresher, SessionState.UNREACHABLE)
    stale = await store.head("s")
    elixir.turn(silent=False)
    elixir.set("s", "temperature", 1.25)
    await holds(store, temperature=1.25, style="kind")
    assert (await store.head("s")).confirmed_at > stale.confirmed_at


async def test_a_flaky_server_is_followed_all_the_same(
    elixir: BridgeServer, store: RedisStore, refresher: Refresher
) -> None:
    elixir.turn(flaky=0.5)
    for value in (0.1, 0.2, 0.3):
        elixir.set("s", "temperature", value)
        await holds(store, temperature=value, style="kind")


@pytest.mark.parametrize("spoilt_patterns", [False, True], ids=["patterns help", "one by one"])
async def test_a_variable_that_breaks_the_list_is_named_and_the_others_go_on(
    elixir: BridgeServer, store: RedisStore, refresher: Refresher, spoilt_patterns: bool
) -> None:
    elixir.turn(odd_variables_spoil_patterns=spoilt_patterns)
    elixir.spoil("s", "style")
    await is_state(refresher, SessionState.PARTIAL)
    assert list(refresher.statuses()["s"].unreadable) == ["style"]
    stale = (await store.head("s")).confirmed_at
    elixir.set("s", "temperature", 1.5)
    await holds(store, temperature=1.5, style="kind")
    # The store still holds a value of `style` that Elixir may have changed.
    assert (await store.head("s")).confirmed_at == stale
    elixir.spoil("s", "style", odd=False)
    elixir.set("s", "style", "stern")
    await holds(store, temperature=1.5, style="stern")
    await is_state(refresher, SessionState.FOLLOWED)


async def test_a_variable_that_was_never_readable_leaves_the_others_followed_and_confirmed(
    elixir: BridgeServer, store: RedisStore, redis_url: str
) -> None:
    elixir.register("s", "temper*", "float", 1.0)
    elixir.spoil("s", "temper*")
    async with refreshing(elixir, redis_url) as refresher:
        first = await holds(store, temperature=0.5, style="kind")
        assert list(refresher.statuses()["s"].unreadable) == ["temper*"]
        await confirmed_after(store, first.confirmed_at)


async def test_of_a_name_registered_twice_the_newest_counts(
    elixir: BridgeServer, store: RedisStore, refresher: Refresher
) -> None:
    for value in range(12):
        elixir.register("s", "style", "string", str(value))
    await holds(store, temperature=0.5, style="11")


async def test_followed_sessions_are_kept_alive_by_heartbeats(elixir: BridgeServer, refresher: Refresher) -> None:
    before = elixir.calls["Heartbeat"]

    async def beats() -> bool:
        return elixir.calls["Heartbeat"] >= before + 3

    await eventually(beats, "three heartbeats")


async def test_a_session_is_followed_when_it_is_wanted_and_dropped_when_it_is_idle(
    elixir: BridgeServer, store: RedisStore, redis_url: str
) -> None:
    connection = RedisConnection(redis_url)
    wanted = WantedSessions(connection, idle_s=2)
    elixir.begin("late")
    elixir.register("late", "x", "integer", 7)
    async with refreshing(elixir, redis_url, sessions=(), idle_s=2) as refresher:
        await wanted.want(["late", "nowhere"])
        await holds(store, "late", x=7)
        await is_state(refresher, SessionState.GONE, "nowhere")

        async def dropped() -> bool:
            return not refresher.statuses()

        await eventually(dropped, "idle sessions to be dropped")
    assert (await store.read("late")).value("x") == 7
    await connection.aclose()


async def test_a_session_that_elixir_does_not_have_stays_free_for_others_to_publish(
    elixir: BridgeServer, store: RedisStore, redis_url: str
) -> None:
    async with refreshing(elixir, redis_url, sessions=("mine",)) as refresher:
        await is_state(refresher, SessionState.GONE, "mine")
        await store.publish("mine", {"x": Variable.declare("x", 1)})
        elixir.begin("mine")
        elixir.register("mine", "x", "integer", 2)
        await is_state(refresher, SessionState.OWNED_ELSEWHERE, "mine")
    assert (await store.read("mine")).value("x") == 1


async def test_a_followed_session_takes_no_publish_from_elsewhere(store: RedisStore, refresher: Refresher) -> None:
    with pytest.raises(SessionOwnedElsewhereError):
        await store.publish("s", {"temperature": Variable.declare("temperature", 1.0)})


async def test_a_session_that_was_dropped_from_the_store_is_published_anew(
    elixir: BridgeServer, store: RedisStore, refresher: Refresher
) -> None:
    await store.drop("s")
    elixir.set("s", "temperature", 0.6)
    await holds(store, temperature=0.6, style="kind")


@pytest.mark.parametrize("watch", [False, True], ids=["polling", "watching"])
async def test_quick_changes_end_at_the_last_value_and_never_go_back(
    elixir: BridgeServer, store: RedisStore, redis_url: str, watch: bool
) -> None:
    elixir.turn(watch=watch)
    async with refreshing(elixir, redis_url) as refresher:
        await holds(store, temperature=0.5, style="kind")
        for step in range(300):
            elixir.set("s", "temperature", step / 1000)
            await asyncio.sleep(0.002)
        token = await refresher.sync("s")
    assert (await store.read_at("s", token)).value("temperature") == 0.299
    published = [change.after["temperature"] for change in reversed(await store.history("s", 1000))][1:]
    values = [variable.value for variable in published if variable is not None]
    assert values == sorted(set(values))


async def watched(refresher: Refresher) -> None:
    async def found() -> bool:
        return "s" in refresher.statuses() and refresher.statuses()["s"].watched

    await eventually(found, "a watch that is trusted")


async def test_a_watched_session_is_looked_at_when_it_changes_and_seldom_else(
    elixir: BridgeServer, store: RedisStore, redis_url: str
) -> None:
    elixir.turn(watch=True)
    # Polled, a change would take a minute.
    async with refreshing(elixir, redis_url, poll_s=60.0, poll_max_s=60.0) as refresher:
        await holds(store, temperature=0.5, style="kind")
        await watched(refresher)
        for value in (0.1, 0.2, 0.3):
            elixir.set("s", "temperature", value)
            await holds(store, temperature=value, style="kind")
        assert elixir.calls["ListVariables"] < 20


async def test_a_variable_registered_later_is_watched_too(
    elixir: BridgeServer, store: RedisStore, redis_url: str
) -> None:
    elixir.turn(watch=True)
    async with refreshing(elixir, redis_url, poll_s=0.5, poll_max_s=60.0) as refresher:
        await watched(refresher)
        elixir.register("s", "late", "integer", 1)
        await refresher.sync("s")
        before = elixir.calls["WatchVariables"]
        await watched(refresher)
        elixir.set("s", "late", 2)
        await holds(store, temperature=0.5, style="kind", late=2)
        assert before <= elixir.calls["WatchVariables"] <= before + 1


async def test_a_watch_that_tells_nothing_is_found_out_and_polled_instead(
    elixir: BridgeServer, store: RedisStore, redis_url: str
) -> None:
    elixir.turn(watch=True)
    async with refreshing(elixir, redis_url) as refresher:
        await watched(refresher)
        elixir.turn(mute_watch=True)
        elixir.set("s", "temperature", 0.8)
        await holds(store, temperature=0.8, style="kind")

        temperatures = itertools.cycle((0.1, 0.2, 0.3))

        async def polled() -> bool:
            # The first change may be found by a look that was under way when the watch fell silent.
            elixir.set("s", "temperature", next(temperatures))
            return not refresher.statuses()["s"].watched

        await eventually(polled, "the mute watch to be given up")


async def test_a_broken_watch_is_opened_again(elixir: BridgeServer, store: RedisStore, redis_url: str) -> None:
    elixir.turn(watch=True)
    async with refreshing(elixir, redis_url) as refresher:
        await watched(refresher)
        elixir.stop()
        await is_state(refresher, SessionState.UNREACHABLE)
        elixir.start()
        elixir.set("s", "temperature", 0.8)
        await holds(store, temperature=0.8, style="kind")
        await watched(refresher)


async def test_two_refreshers_share_the_sessions_and_one_takes_over_what_the_other_leaves(
    elixir: BridgeServer, store: RedisStore, redis_url: str
) -> None:
    sessions = tuple(f"s{n}" for n in range(10))
    for session in sessions:
        elixir.begin(session)
        elixir.register(session, "x", "integer", 1)
    async with refreshing(elixir, redis_url, sessions=sessions) as stays:
        async with refreshing(elixir, redis_url, sessions=sessions) as leaves:

            async def halved() -> bool:
                both = [set(one.statuses()) for one in (stays, leaves)]
                return [len(one) for one in both] == [5, 5] and not both[0] & both[1]

            await eventually(halved, "each to follow half of the sessions")

        async def all_taken() -> bool:
            return set(stays.statuses()) == set(sessions)

        await eventually(all_taken, "the one that stays to follow all")
        for session in sessions:
            elixir.set(session, "x", 2)
            await holds(store, session, x=2)


async def test_a_refresher_that_cannot_reach_elixir_leaves_its_sessions_to_one_that_can(
    elixir: BridgeServer, store: RedisStore, redis_url: str
) -> None:
    with BridgeServer() as cut_off:
        cut_off.begin("s")
        cut_off.register("s", "temperature", "float", 0.5)
        async with refreshing(cut_off, redis_url, lease_s=1.0) as first:
            await holds(store, temperature=0.5)
            cut_off.stop()
            async with refreshing(elixir, redis_url, lease_s=1.0):
                await holds(store, temperature=0.5, style="kind")
            assert first.name


async def test_an_elixir_that_hangs_for_longer_than_a_lease_moves_no_session(
    elixir: BridgeServer, store: RedisStore, redis_url: str
) -> None:
    """KINDS 28: with short leases, a pause of the server isn't taken for the death of a refresher."""
    network, connection = Network(elixir.address), RedisConnection(redis_url)
    await network.start()
    times = {"lease_s": 2.0, "timeout_s": 30.0}
    try:
        async with refreshing(network, redis_url, **times) as one, refreshing(network, redis_url, **times) as two:
            await holds(store, temperature=0.5, style="kind")
            [holder] = await connection.send_each([("GET", "dspex:{s:s}:lease")])
            assert holder.decode().rpartition("/")[0] in (one.name, two.name)
            network.cut()
            until = time.monotonic() + 2.5 * times["lease_s"]
            while time.monotonic() < until:
                assert await connection.send_each([("GET", "dspex:{s:s}:lease")]) == [holder]
                await asyncio.sleep(0.05)
            network.mend()
            elixir.set("s", "temperature", 1.5)
            await holds(store, temperature=1.5, style="kind")
    finally:
        network.mend()
        await network.stop()
        await connection.aclose()


async def test_a_store_that_lost_its_latest_revisions_gets_them_again_before_it_is_confirmed(
    elixir: BridgeServer, store: RedisStore, redis_url: str
) -> None:
    connection = RedisConnection(redis_url)
    keys = [f"dspex:{{s:s}}:{part}" for part in ("head", "variables", "history")]
    async with refreshing(elixir, redis_url):
        await holds(store, temperature=0.5, style="kind")
        saved: list[Any] = [await connection.client.dump(key) for key in keys]
        elixir.set("s", "temperature", 1.5)
        newer = await holds(store, temperature=1.5, style="kind")
        for key, data in zip(keys, saved, strict=True):
            await connection.client.restore(key, 0, data, replace=True)
        again = await holds(store, temperature=1.5, style="kind")
        assert again.confirmed_at >= newer.confirmed_at
    await connection.aclose()


async def heard_after(store: RedisStore, moment: float) -> Heard:
    async def found() -> Heard | None:
        heard = (await store.head("s")).heard
        return heard if heard is not None and heard.at > moment else None

    return await eventually(found, "a newer sign of Elixir")


async def test_each_look_says_for_how_long_elixir_may_be_silent(store: RedisStore, refresher: Refresher) -> None:
    """KINDS 27: with the refresher's own intervals, from the beginning of the look on."""
    head = await store.head("s")
    heard = await heard_after(store, head.heard.at if head.heard else 0.0)
    now = await store.head("s")
    assert now.heard is not None
    assert heard.at <= now.heard.at == now.confirmed_at <= now.now
    at_least = QUICK["poll_max_s"] * 1.1 + QUICK["timeout_s"] + QUICK["lease_s"]
    assert at_least < heard.silence_s < at_least + 5


async def test_a_look_that_confirms_nothing_is_a_sign_of_elixir_nevertheless(
    elixir: BridgeServer, store: RedisStore, refresher: Refresher
) -> None:
    elixir.spoil("s", "style")
    await is_state(refresher, SessionState.PARTIAL)
    first = await store.head("s")
    assert first.heard is not None
    await heard_after(store, (await heard_after(store, first.heard.at)).at)
    assert (await store.head("s")).confirmed_at == first.confirmed_at
    elixir.stop()
    stopped = (await store.head("s")).now
    await is_state(refresher, SessionState.UNREACHABLE)
    await asyncio.sleep(1.0)
    # The last sign may have been on its way still; it is of a look that began before.
    heard = (await store.head("s")).heard
    assert heard is not None
    assert heard.at <= stopped


async def margins(store: RedisStore, seconds: float) -> list[float]:
    """How long before Elixir would have counted as away it was heard of again, looked at all the time."""
    found, until = [math.inf], time.monotonic() + seconds
    while time.monotonic() < until:
        head = await store.head("s")
        assert head.heard is not None
        found.append(head.heard.at + head.heard.silence_s - head.now)
        await asyncio.sleep(0.02)
    return found


async def test_a_server_that_answers_slowly_is_never_away(
    elixir: BridgeServer, store: RedisStore, refresher: Refresher
) -> None:
    """KINDS 27: not when it becomes slow of a sudden, nor while it is, though a slow server is looked at less often."""
    looking = asyncio.create_task(margins(store, 9.0))
    elixir.turn(latency_s=0.8)  # of the second that a call may take
    assert min(await looking) > 0


async def test_a_refresher_that_dies_or_goes_leaves_time_for_the_next_one(
    elixir: BridgeServer, store: RedisStore, redis_url: str
) -> None:
    """KINDS 27: neither a hand-over nor a restart is taken for an outage of Elixir, on a slow server either."""
    elixir.turn(latency_s=0.3)
    async with AsyncExitStack() as running:
        for name in ("one", "two"):
            await running.enter_async_context(refreshing(elixir, redis_url, name=name, lease_s=1.0))
        await holds(store, temperature=0.5, style="kind")
        looking = asyncio.create_task(margins(store, 12.0))
        for _ in range(3):  # each begins as another ends, under the same name
            async with refreshing(elixir, redis_url, name="three", lease_s=1.0):
                await heard_after(store, (await store.head("s")).now)
        await running.aclose()
        async with refreshing(elixir, redis_url, name="one", lease_s=1.0):
            assert min(await looking) > 0

"""Replicas: what they ask the store, what they give while it is silent, slow or away, and what they never do."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from types import TracebackType
from typing import Any, Self

import pytest
from typing_extensions import override

from snakepit_bridge.exceptions import (
    AuthorityAwayError,
    ConfigurationError,
    RevisionLostError,
    RevisionNotReachedError,
    SessionNotFoundError,
    StalenessExceededError,
    StoreUnavailableError,
)
from snakepit_bridge.process.home_loop import get_home_loop, run_blocking, run_on_home_loop
from snakepit_bridge.protocol.messages import DEFAULT_SESSION, Requirement
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.snapshots import Confirmation, Head, MemoryStore, Watch
from snakepit_bridge.snapshots import sync as follower
from snakepit_bridge.snapshots.freshness import FAIL, FreshnessPolicy, OutagePolicy, StoreContact
from snakepit_bridge.snapshots.memory_watch import MemoryWatch
from snakepit_bridge.snapshots.replica import Replica
from snakepit_bridge.snapshots.snapshot import AuthoritySign, Snapshot
from snakepit_bridge.telemetry.metrics import APPLY_LAG
from snakepit_bridge.variables import Variable
from tests.harness.meter import recorded_meter
from tests.harness.waiting import PATIENCE_S, eventually

LEASE_S = 0.2
ELIXIR = "elixir.example:50051"


def declared(**values: Any) -> dict[str, Variable | None]:
    return {name: Variable.declare(name, value) for name, value in values.items()}


class Shaky(MemoryStore):
    """A store that counts what it is asked, and can fall silent or go away."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = self.compared = self.watches = 0
        self.silent = self.mute = self.away = self.unreadable = False
        self.refused: list[Exception] = []
        self.behind: list[Token] = []

    def read_count(self) -> int:
        return self.reads + self.compared

    async def read(self, session: str, have: Snapshot | None = None) -> Snapshot:
        self.reads += 1
        await self._answer()
        if self.unreadable:
            raise StoreUnavailableError("memory://", "it can't be read")
        return await super().read(session, have)

    async def read_at(self, session: str, token: Token) -> Snapshot:  # pyright: ignore[reportIncompatibleMethodOverride]
        self.reads += 1
        await self._answer()
        return await super().read_at(session, token)

    async def heads(self, sessions: Iterable[str]) -> dict[str, Head]:
        self.compared += 1
        await self._answer()
        return await super().heads(sessions)

    def open_watch(self) -> Watch:
        self.watches += 1
        return _ShakyWatch(self)

    async def watches_s(self) -> bool:
        """Return whether a watch has session ``s``."""
        return any("s" in watch._sessions for watch in self._watches._watches)

    async def _answer(self) -> None:
        await asyncio.sleep(0.001)
        if self.away:
            raise StoreUnavailableError("memory://", "it is away")


class _ShakyWatch(MemoryWatch):
    """Silent: it tells nothing, and looks fine. Mute: it can't be opened, and gives no pong."""

    def __init__(self, store: Shaky) -> None:
        super().__init__(store._watches)
        self._store = store

    @override
    def notify(self, session: str, token: Token | None) -> None:
        if not self._store.silent:
            super().notify(session, token)

    async def __aenter__(self) -> Self:
        self._refuse()
        return await super().__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await super().__aexit__(kind, error, trace)

    @override
    async def add(self, sessions: Iterable[str]) -> None:
        if self._store.refused:
            raise self._store.refused.pop()
        await super().add(sessions)

    async def ping(self) -> None:
        self._refuse()
        await super().ping()

    def _refuse(self) -> None:
        if self._store.mute or self._store.away:
            raise StoreUnavailableError("memory://", "no pong")


@pytest.fixture
def store() -> Shaky:
    return Shaky()


@pytest.fixture
async def replica(store: Shaky) -> AsyncGenerator[Replica]:
    replica = Replica(store, 0.3, watch_lease_s=LEASE_S)
    yield replica
    await replica.aclose()


@pytest.fixture
async def patient(store: Shaky) -> AsyncGenerator[Replica]:
    """A replica that waits for a revision for as long as no test does."""
    replica = Replica(store, 60.0, watch_lease_s=LEASE_S)
    yield replica
    await replica.aclose()


async def connected(replica: Replica, session: str = "s") -> Snapshot:
    """What the process holds, once it needs no look at the store."""
    await replica.snapshot(session)

    async def warm() -> Snapshot | None:
        return replica.peek(session)

    return await eventually(warm, "a replica that hears from its store")


async def sees(replica: Replica, token: Token, session: str = "s") -> Snapshot:
    async def there() -> Snapshot | None:
        shot = replica.peek(session)
        return shot if shot and shot.token == token else None

    return await eventually(there, f"the replica to hold {token}", timeout_s=5)


class TestLatest:
    async def test_while_connected_no_task_asks_the_store(self, store: Shaky, replica: Replica) -> None:
        await store.publish("s", declared(a=1))
        first = await connected(replica)
        reads, loop = store.reads, asyncio.get_running_loop()
        until, calls = loop.time() + 3 * LEASE_S, 0
        while loop.time() < until:
            assert (await replica.snapshot("s")).token == first.token
            calls += 1
            await asyncio.sleep(0.001)
        assert calls > 50
        assert store.reads == reads

    async def test_a_publish_arrives_without_being_asked_for(self, store: Shaky, replica: Replica) -> None:
        await store.publish("s", declared(a=1))
        await connected(replica)
        token = await store.publish("s", declared(a=2))
        assert (await sees(replica, token)).value("a") == 2

    async def test_a_burst_of_publishes_ends_at_the_head(self, store: Shaky, replica: Replica) -> None:
        await store.publish("s", declared(a=0))
        await connected(replica)
        tokens = [await store.publish("s", declared(a=n)) for n in range(1, 200)]
        await sees(replica, tokens[-1])
        assert replica.held_tokens()["s"] == tokens[-1]

    async def test_lost_notifications_are_found_within_a_lease(self, store: Shaky, replica: Replica) -> None:
        await store.publish("s", declared(a=1))
        await connected(replica)
        store.silent = True
        token = await store.publish("s", declared(a=2))
        published = read_at = asyncio.get_running_loop().time()
        while (shot := await replica.snapshot("s")).token != token:
            assert read_at - published <= LEASE_S, "it was asked later, and had no newer one"
            await asyncio.sleep(0.002)
            read_at = asyncio.get_running_loop().time()
        assert shot.value("a") == 2

    async def test_while_not_connected_each_task_reads(self, store: Shaky, replica: Replica) -> None:
        store.mute = True
        for n in range(5):
            token = await store.publish("s", declared(a=n))
            assert (await replica.snapshot("s")).token == token
        assert store.reads == 5
        assert replica.peek("s") is None
        assert not replica.connected

    async def test_a_watch_that_gives_no_pong_is_opened_again(self, store: Shaky, replica: Replica) -> None:
        await store.publish("s", declared(a=1))
        await connected(replica)
        store.mute = True

        async def alone() -> bool:
            return not replica.connected

        await eventually(alone, "the lease to run out")
        token = await store.publish("s", declared(a=2))
        assert (await replica.snapshot("s")).token == token
        store.mute = False
        await connected(replica)
        assert store.watches > 1
        await sees(replica, await store.publish("s", declared(a=3)))

    async def test_a_session_whose_subscription_failed_is_subscribed_to_by_its_next_read(
        self, store: Shaky, replica: Replica
    ) -> None:
        await store.publish("other", declared(a=1))
        await connected(replica, "other")
        await store.publish("s", declared(a=1))
        store.refused = [ConfigurationError("no such database")]
        with pytest.raises(ConfigurationError):
            await replica.snapshot("s")
        await replica.snapshot("s")
        await eventually(store.watches_s, "the subscription")

    async def test_a_session_whose_subscriptions_got_no_reply_is_subscribed_to_by_a_comparison(
        self, store: Shaky, replica: Replica
    ) -> None:
        await store.publish("other", declared(a=1))
        await connected(replica, "other")
        await store.publish("s", declared(a=1))
        store.refused = [StoreUnavailableError("memory://", "no reply")] * 3
        await replica.snapshot("s")  # two of them
        await eventually(store.watches_s, "the subscription")
        assert store.watches == 1, "the watch is the first one"

    async def test_tasks_that_start_together_share_one_read(
        self, store: Shaky, replica: Replica, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # What follows the store in the background reads by itself as soon as it hears from it; here tasks' reads count.
        monkeypatch.setattr(replica._sync, "start", lambda: None)
        await store.publish("s", declared(a=1))

        async def together() -> list[Snapshot]:
            return await asyncio.gather(*(replica.snapshot("s") for _ in range(100)))

        # On the replicas' own loop all begin in one turn, before any answer; from another they come one by one.
        shots = await run_on_home_loop(together())
        assert len({id(shot) for shot in shots}) == 1
        assert store.reads == 1

    async def test_one_look_compares_all_sessions_in_use(self, store: Shaky, replica: Replica) -> None:
        for n in range(50):
            await store.publish(f"s{n}", declared(a=n))
            await replica.snapshot(f"s{n}")
        await connected(replica, "s0")
        compared, loop = store.compared, asyncio.get_running_loop()
        await asyncio.sleep(LEASE_S)
        assert 1 <= store.compared - compared <= 4
        assert all(replica.peek(f"s{n}") for n in range(50))
        assert loop.is_running()

    async def test_an_idle_session_is_left_alone_and_read_at_its_next_use(
        self, store: Shaky, replica: Replica, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await store.publish("s", declared(a=1))
        await connected(replica)
        monkeypatch.setattr(follower, "_IDLE_S", 0.0)
        compared, reads = store.compared, store.reads
        token = await store.publish("s", declared(a=2))
        await asyncio.sleep(LEASE_S)
        assert (store.compared, store.reads) == (compared, reads)
        assert (await replica.snapshot("s")).token == token

    async def test_how_late_a_revision_is_served_is_recorded_while_its_session_is_in_use(
        self, store: Shaky, replica: Replica, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await store.publish("s", declared(a=1))
        with recorded_meter() as meter:
            await connected(replica)
            assert not meter.of(APPLY_LAG), "what is read for the first time may be days old"
            await sees(replica, await store.publish("s", declared(a=2)))
            [(lag_s, _)] = meter.of(APPLY_LAG)
            assert 0 <= lag_s < 5
            monkeypatch.setattr(follower, "_IDLE_S", -1.0)
            token = await store.publish("s", declared(a=3))
            assert (await replica.snapshot("s", Requirement("at_least", token))).token == token
            assert len(meter.of(APPLY_LAG)) == 1

    async def test_the_stores_time_is_known_from_its_replies(self, store: Shaky, replica: Replica) -> None:
        assert abs(replica.store_time() - time.time()) < 5
        await store.publish("s", declared(a=1))
        await connected(replica)
        assert abs(replica.store_time() - (await store.head("s")).now) < 5

    async def test_a_session_nobody_published_is_not_found_until_somebody_does(
        self, store: Shaky, replica: Replica
    ) -> None:
        for _ in range(2):
            with pytest.raises(SessionNotFoundError):
                await replica.snapshot("s")
        token = await store.publish("s", declared(a=1))
        assert (await replica.snapshot("s")).token == token

    async def test_a_dropped_session_is_gone_and_its_successor_is_seen(self, store: Shaky, replica: Replica) -> None:
        first = await store.publish("s", declared(a=1))
        await connected(replica)
        await store.drop("s")

        async def gone() -> bool:
            try:
                await replica.snapshot("s")
            except SessionNotFoundError:
                return True
            return False

        await eventually(gone, "the drop to be seen", timeout_s=LEASE_S + 1)
        second = await store.publish("s", declared(b=1))
        assert second > first
        assert list((await replica.snapshot("s")).variables) == ["b"]

    async def test_the_default_session_is_empty_until_its_first_publish(self, store: Shaky, replica: Replica) -> None:
        empty = await connected(replica, DEFAULT_SESSION)
        assert (empty.token, dict(empty.variables)) == (Token(0, 0), {})
        reads = store.reads
        await asyncio.sleep(LEASE_S)
        assert await replica.snapshot(DEFAULT_SESSION) == empty
        assert store.reads == reads
        for requirement in (Requirement.of(at_least=Token(1, 1)), Requirement.of(exactly=Token(1, 1))):
            with pytest.raises(SessionNotFoundError):
                await replica.snapshot(DEFAULT_SESSION, requirement)
        token = await store.publish(DEFAULT_SESSION, declared(a=1))
        await sees(replica, token, DEFAULT_SESSION)
        await store.drop(DEFAULT_SESSION)
        await sees(replica, Token(0, 0), DEFAULT_SESSION)


class TestAtLeast:
    async def test_a_publisher_reads_its_own_write_without_notifications(self, store: Shaky, replica: Replica) -> None:
        await store.publish("s", declared(a=0))
        await connected(replica)
        for n in range(1, 50):
            store.silent = n % 2 == 0
            token = await store.publish("s", declared(a=n))
            assert (await replica.snapshot("s", Requirement.of(at_least=token))).value("a") == n

    async def test_a_requirement_that_is_met_needs_no_request(self, store: Shaky, replica: Replica) -> None:
        token = await store.publish("s", declared(a=0))
        await connected(replica)
        reads = store.reads
        for _ in range(20):
            await replica.snapshot("s", Requirement.of(at_least=token))
        assert store.reads == reads

    async def test_a_revision_to_come_is_waited_for_and_a_hint_ends_the_wait(
        self, store: Shaky, replica: Replica
    ) -> None:
        token = await store.publish("s", declared(a=0))
        await connected(replica)
        coming = Token(token.epoch, 2)
        waiting = asyncio.create_task(replica.snapshot("s", Requirement.of(at_least=coming)))
        await asyncio.sleep(0.02)
        reads = store.reads
        assert await store.publish("s", declared(a=1)) == coming
        assert (await waiting).token == coming
        assert store.reads <= reads + 1

    @pytest.mark.parametrize("how", ["silent", "mute"])
    async def test_a_wait_ends_without_hints_too(self, store: Shaky, replica: Replica, how: str) -> None:
        token = await store.publish("s", declared(a=0))
        setattr(store, how, True)
        coming = Token(token.epoch, 2)
        waiting = asyncio.create_task(replica.snapshot("s", Requirement.of(at_least=coming)))
        await asyncio.sleep(0.02)
        await store.publish("s", declared(a=1))
        assert (await waiting).token == coming

    async def test_a_revision_that_never_comes_is_given_up(self, store: Shaky, replica: Replica) -> None:
        token = await store.publish("s", declared(a=0))
        with pytest.raises(RevisionNotReachedError) as raised:
            await replica.snapshot("s", Requirement.of(at_least=Token(token.epoch, 9)))
        assert (raised.value.found, 0.3 <= raised.value.waited_s < 2) == (str(token), True)

    async def test_a_lost_revision_is_not_waited_for(self, store: Shaky, replica: Replica) -> None:
        old = await store.publish("s", declared(a=0))
        await store.drop("s")
        await store.publish("s", declared(a=0))
        async with asyncio.timeout(0.2):
            with pytest.raises(RevisionLostError):
                await replica.snapshot("s", Requirement.of(at_least=old))
        await connected(replica)
        with pytest.raises(RevisionLostError):
            await replica.snapshot("s", Requirement.of(at_least=old))

    async def test_a_store_that_goes_away_during_the_wait_is_named(self, store: Shaky, replica: Replica) -> None:
        token = await store.publish("s", declared(a=0))
        await connected(replica)
        waiting = asyncio.create_task(replica.snapshot("s", Requirement.of(at_least=Token(token.epoch, 2))))
        await asyncio.sleep(0.02)
        store.away = True
        with pytest.raises(StoreUnavailableError):
            await waiting


class TestExactly:
    async def test_a_pin_never_moves_and_is_read_once(self, store: Shaky, replica: Replica) -> None:
        tokens = [await store.publish("s", declared(a=n)) for n in range(3)]
        await connected(replica)
        for n, token in enumerate(tokens):
            assert (await replica.snapshot("s", Requirement.of(exactly=token))).value("a") == n
        reads = store.reads
        await store.publish("s", declared(a=9))
        store.away = True
        for n, token in enumerate(tokens[:2]):
            assert (await replica.snapshot("s", Requirement.of(exactly=token))).value("a") == n
        assert store.reads <= reads + 1  # the hint's

    async def test_a_missing_revision_is_reported_with_the_reason(self, store: Shaky, replica: Replica) -> None:
        old = await store.publish("s", declared(a=0))
        await store.drop("s")
        new = await store.publish("s", declared(a=0))
        with pytest.raises(RevisionLostError):
            await replica.snapshot("s", Requirement.of(exactly=old))
        with pytest.raises(RevisionNotReachedError):
            await replica.snapshot("s", Requirement.of(exactly=Token(new.epoch, 2)))


class TestBounds:
    async def test_the_cache_is_bounded_and_keeps_sessions_in_use(self, store: Shaky) -> None:
        replica = Replica(store, watch_lease_s=LEASE_S, max_sessions=4)
        for n in range(40):
            await store.publish(f"s{n}", declared(a=n))
            await replica.snapshot(f"s{n}")
            assert (await connected(replica, "s0")).value("a") == 0
        assert len(replica.held_tokens()) == 4
        assert "s0" in replica.held_tokens()
        assert (await replica.snapshot("s5")).value("a") == 5
        await replica.aclose()

    async def test_an_evicted_session_is_watched_again_when_it_is_used(self, store: Shaky) -> None:
        replica = Replica(store, watch_lease_s=30, max_sessions=2)
        for n in range(4):
            await store.publish(f"s{n}", declared(a=0))
        await connected(replica, "s0")
        for n in (1, 2, 3, 0, 1, 2, 0, 3, 0):
            await replica.snapshot(f"s{n}")
        token = await store.publish("s0", declared(a=1))
        await sees(replica, token, "s0")
        await replica.aclose()

    async def test_a_closed_replica_is_empty_and_can_be_used_again(self, store: Shaky, replica: Replica) -> None:
        await store.publish("s", declared(a=1))
        await connected(replica)
        await replica.aclose()
        assert replica.held_tokens() == {}
        assert (await connected(replica)).value("a") == 1

    def test_threads_share_it_and_none_goes_back(self, store: Shaky) -> None:
        replica = Replica(store, watch_lease_s=LEASE_S)
        run_blocking(store.publish("s", declared(a=0, b=0)))
        wrong: list[object] = []
        done = threading.Event()

        def read() -> None:
            last = Token(0, 0)
            while not done.is_set():
                shot = replica.peek("s") or run_blocking(replica.snapshot("s"))
                if shot.token < last or shot.value("a") != shot.value("b"):
                    wrong.append((last, shot))
                last = shot.token
                done.wait(0.0005)

        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        tokens = [run_blocking(store.publish("s", declared(a=n, b=n))) for n in range(1, 100)]
        done.set()
        for thread in threads:
            thread.join()
        assert wrong == []
        last = Requirement.of(at_least=tokens[-1])
        assert run_blocking(replica.snapshot("s", last)).token == tokens[-1]
        run_blocking(replica.aclose())


class TestNumbers:
    async def test_staleness_of_a_followed_session_is_since_its_authority_confirmed(
        self, store: Shaky, replica: Replica
    ) -> None:
        assert replica.staleness("s") == math.inf
        await store.publish("s", declared(a=0), publisher=ELIXIR, age_s=60)
        await connected(replica)
        assert 60 <= replica.staleness("s") < 70
        await store.publish("s", declared(a=0), publisher=ELIXIR)

        async def confirmed() -> bool:
            return replica.staleness("s") < 5

        await eventually(confirmed, "the confirmation that no hint tells")

    async def test_staleness_of_a_session_of_the_store_is_since_the_store_was_asked(
        self, store: Shaky, replica: Replica
    ) -> None:
        await store.publish("s", declared(a=0), age_s=3_600)
        await connected(replica)
        assert replica.staleness("s") <= LEASE_S


class TestTerms:
    async def test_connected_reflects_the_stores_replies(self, store: Shaky, replica: Replica) -> None:
        await store.publish("s", declared(a=0))
        for _ in range(2):
            served = await replica.serve("s")
            assert (served.store_away, served.outage) == (False, False)
            assert 0 <= served.staleness_s < 1
            await connected(replica)

    async def test_the_fail_policy_raises_while_the_store_is_unreachable(self, store: Shaky, replica: Replica) -> None:
        await store.publish("s", declared(a=0))
        await connected(replica)
        await _lose(store, replica)
        with pytest.raises(StoreUnavailableError):
            await replica.serve("s", policy=FreshnessPolicy(FAIL))
        with pytest.raises(StoreUnavailableError):
            await replica.snapshot("s")

    async def test_serve_stale_serves_the_cached_snapshot_and_marks_it(self, store: Shaky, replica: Replica) -> None:
        token = await store.publish("s", declared(a=0))
        await connected(replica)
        await _lose(store, replica)
        served = await replica.serve("s", policy=FreshnessPolicy(OutagePolicy.serve_stale(60)))
        assert (served.snapshot.token, served.store_away, served.outage) == (token, True, True)
        assert 0 < served.staleness_s < 60
        served = await replica.serve("s", Requirement.of(at_least=token), FreshnessPolicy(OutagePolicy.serve_stale(60)))
        assert served.store_away

    async def test_serve_stale_respects_the_maximum_age_and_the_requirement(
        self, store: Shaky, replica: Replica
    ) -> None:
        token = await store.publish("s", declared(a=0))
        await connected(replica)
        await _lose(store, replica)
        with pytest.raises(StoreUnavailableError, match=r"session 's' was last confirmed 0\.\d s ago"):
            await replica.serve("s", policy=FreshnessPolicy(OutagePolicy.serve_stale(0.05)))
        for requirement in (Requirement.of(at_least=Token(token.epoch, 2)), Requirement.of(exactly=Token(1, 1))):
            with pytest.raises(StoreUnavailableError):
                await replica.serve("s", requirement, FreshnessPolicy(OutagePolicy.serve_stale(60)))
        with pytest.raises(StoreUnavailableError):
            await replica.serve("never seen", policy=FreshnessPolicy(OutagePolicy.serve_stale(60)))

    async def test_max_staleness_is_met_by_a_read_if_the_store_is_the_authority(
        self, store: Shaky, replica: Replica
    ) -> None:
        await store.publish("s", declared(a=0), age_s=3_600)
        await connected(replica)
        for most_s in (0.0, 0.05, 10.0):
            assert not (await replica.serve("s", policy=FreshnessPolicy(max_staleness_s=most_s))).outage

    async def test_max_staleness_waits_for_the_authority(self, store: Shaky, replica: Replica) -> None:
        await store.publish("s", declared(a=0), publisher=ELIXIR, age_s=60)
        await connected(replica)
        waiting = asyncio.create_task(replica.serve("s", policy=FreshnessPolicy(max_staleness_s=5)))
        await asyncio.sleep(0.02)
        await store.publish("s", declared(a=0), publisher=ELIXIR)
        served = await waiting
        assert (served.outage, served.staleness_s < 5) == (False, True)

    async def test_the_outage_policy_decides_if_the_authority_stays_unreachable(
        self, store: Shaky, replica: Replica
    ) -> None:
        await store.publish("s", declared(a=0), publisher=ELIXIR, age_s=60)
        with pytest.raises(StalenessExceededError, match="last confirmed by its authority 60"):
            await replica.serve("s", policy=FreshnessPolicy(max_staleness_s=5))
        with pytest.raises(StalenessExceededError):
            await replica.serve("s", policy=FreshnessPolicy(OutagePolicy.serve_stale(30), max_staleness_s=5))
        served = await replica.serve("s", policy=FreshnessPolicy(OutagePolicy.serve_stale(120), max_staleness_s=5))
        assert (served.outage, served.store_away, served.staleness_s > 60) == (True, False, True)

    async def test_the_default_policy_applies(self) -> None:
        stale = OutagePolicy.serve_stale(9)
        assert (FreshnessPolicy.of(), FreshnessPolicy.of(default=stale)) == (
            FreshnessPolicy(FAIL),
            FreshnessPolicy(stale),
        )
        assert FreshnessPolicy.of(None, "fail", stale) == FreshnessPolicy(FAIL)

    @pytest.mark.parametrize(
        ("text", "outage"),
        [("fail", FAIL), ("serve_stale(30)", OutagePolicy(30.0)), ("serve_stale=0.5", OutagePolicy.serve_stale(0.5))],
    )
    def test_an_outage_policy_survives_its_text_form(self, text: str, outage: OutagePolicy) -> None:
        assert OutagePolicy.parse(text) == outage
        assert OutagePolicy.parse(str(outage)) == outage

    @pytest.mark.parametrize("text", ["", "serve", "serve_stale", "serve_stale()", "serve_stale(-1)", "serve_stale(x)"])
    def test_an_invalid_outage_policy_is_rejected(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"serve_stale|could not convert"):
            OutagePolicy.parse(text)


class TestAuthorityAway:
    """The authority is away once it has been silent for longer than whoever follows it says."""

    SILENCE_S = 0.3

    async def heard(self, store: Shaky, ago_s: float = 0.0, silence_s: float = SILENCE_S) -> Token:
        at = time.time() - ago_s
        return await store.publish(
            "s", declared(a=0), publisher=ELIXIR, looked_at=at, heard=AuthoritySign(at, silence_s)
        )

    async def grown_up(self, store: Shaky, replica: Replica) -> None:
        """A process that has heard from the store for longer than the silence that is judged here."""
        await store.publish("other", declared(a=0))
        await connected(replica, "other")
        await asyncio.sleep(self.SILENCE_S + 0.05)

    @pytest.mark.parametrize("most_s", [None, 0.01, 3_600.0])
    async def test_an_unreachable_authority_fails_at_once(
        self, store: Shaky, patient: Replica, most_s: float | None
    ) -> None:
        replica = patient
        await self.grown_up(store, replica)
        token = await self.heard(store, ago_s=46)
        for requirement in (Requirement(), Requirement.of(at_least=token)):
            async with asyncio.timeout(PATIENCE_S):  # far below the wait for a revision
                with pytest.raises(AuthorityAwayError, match="last confirmed 46") as raised:
                    await replica.serve("s", requirement, FreshnessPolicy(max_staleness_s=most_s))
        error = raised.value
        assert (error.session, error.authority, error.silence_s, error.outage) == ("s", ELIXIR, 0.3, "fail")
        assert 46 <= error.silent_s < 47
        assert type(error)(*error.args).args == error.args

    async def test_the_outage_policy_bounds_the_age(self, store: Shaky, replica: Replica) -> None:
        await self.grown_up(store, replica)
        token = await self.heard(store, ago_s=46)
        for most_s in (None, 5.0):
            with pytest.raises(AuthorityAwayError, match=r"contract is serve_stale\(5\)"):
                await replica.serve("s", policy=FreshnessPolicy(OutagePolicy.serve_stale(5), most_s))
            served = await replica.serve("s", policy=FreshnessPolicy(OutagePolicy.serve_stale(60), most_s))
            assert (served.snapshot.token, served.outage, served.store_away) == (token, True, False)
            assert 46 <= served.staleness_s < 47

    async def test_cached_snapshots_are_treated_alike(self, store: Shaky, replica: Replica) -> None:
        await self.grown_up(store, replica)
        await self.heard(store)
        assert not (await replica.serve("s")).outage
        await connected(replica)
        await asyncio.sleep(self.SILENCE_S)
        with pytest.raises(AuthorityAwayError):
            await replica.serve("s")
        assert (await replica.serve("s", policy=FreshnessPolicy(OutagePolicy.serve_stale(60)))).outage
        await self.heard(store)
        served = await replica.serve("s", policy=FreshnessPolicy(OutagePolicy.serve_stale(60)))
        assert (served.outage, served.staleness_s < 0.2) == (False, True)

    async def test_an_authority_without_limit_is_never_unreachable(self, store: Shaky, replica: Replica) -> None:
        await self.grown_up(store, replica)
        await store.publish("s", declared(a=0), publisher=ELIXIR, age_s=3_600)
        await store.publish("own", declared(a=0), age_s=3_600, heard=AuthoritySign(1.0, 0.1))
        for session in ("s", "own"):
            assert not (await replica.serve(session)).outage

    async def test_a_heartbeat_without_confirmation_counts(self, store: Shaky, replica: Replica) -> None:
        """A session with a variable that can't be read is never confirmed as a whole, and its authority isn't away."""
        await self.grown_up(store, replica)
        token = await self.heard(store, ago_s=46)
        look = Confirmation(0, 0.0, token, AuthoritySign(time.time(), self.SILENCE_S))
        assert await store.confirm({"s": look}, publisher=ELIXIR) == {}
        served = await replica.serve("s")
        assert (served.outage, served.staleness_s > 45) == (False, True)

    async def test_a_pinned_revision_needs_no_authority(self, store: Shaky, replica: Replica) -> None:
        await self.grown_up(store, replica)
        token = await self.heard(store, ago_s=46)
        for _ in range(2):
            assert not (await replica.serve("s", Requirement.of(exactly=token))).outage

    async def test_a_new_process_waits_for_the_authoritys_heartbeat(self, store: Shaky, replica: Replica) -> None:
        await self.heard(store, ago_s=46, silence_s=2.0)
        waiting = asyncio.create_task(replica.serve("s"))
        await asyncio.sleep(0.1)
        await self.heard(store, silence_s=2.0)
        assert not (await waiting).outage

    async def test_a_new_process_does_not_wait_forever(self, store: Shaky, replica: Replica) -> None:
        await self.heard(store, ago_s=46)
        with pytest.raises(AuthorityAwayError):
            await asyncio.wait_for(replica.serve("s"), PATIENCE_S)

    async def test_an_outage_of_the_store_is_not_one_of_the_authority(self, store: Shaky, replica: Replica) -> None:
        """While Redis is away nobody can confirm anything there; behind it there is time to do so."""
        await self.heard(store, ago_s=0.8, silence_s=1.0)
        await connected(replica)
        await _lose(store, replica)
        await asyncio.sleep(0.3)
        with pytest.raises(StoreUnavailableError):
            await replica.serve("s")
        store.away = False
        waiting = asyncio.create_task(replica.serve("s"))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        await self.heard(store, silence_s=1.0)
        assert not (await waiting).outage


class TestChanges:
    async def test_the_newest_comes_first_and_then_each_newer_one(self, store: Shaky, replica: Replica) -> None:
        tokens = [await store.publish("s", declared(a=n)) for n in range(2)]
        async with aclosing(replica.changes("s")) as changes:
            assert (await anext(changes)).token == tokens[-1]
            for n in range(2, 5):
                token = await store.publish("s", declared(a=n))
                snapshot = await anext(changes)
                assert (snapshot.token, snapshot.value("a")) == (token, n)

    async def test_a_slow_reader_skips_some_but_never_the_last(self, store: Shaky, replica: Replica) -> None:
        await store.publish("s", declared(a=0))
        async with aclosing(replica.changes("s")) as changes:
            await anext(changes)
            published = [await store.publish("s", declared(a=n)) for n in range(1, 20)]
            seen = [await anext(changes)]
            while seen[-1].token != published[-1]:
                seen.append(await anext(changes))
            assert [each.token for each in seen] == sorted({each.token for each in seen})

    @pytest.mark.parametrize("silent", [False, True])
    async def test_a_session_is_followed_before_its_first_publish_and_after_a_drop(
        self, store: Shaky, replica: Replica, silent: bool
    ) -> None:
        store.silent = silent
        for session in ("s", DEFAULT_SESSION):
            async with aclosing(replica.changes(session)) as changes:
                waiting = asyncio.ensure_future(anext(changes))
                await asyncio.wait([waiting], timeout=LEASE_S)
                assert not waiting.done()
                first = await store.publish(session, declared(a=1))
                async with asyncio.timeout(PATIENCE_S):
                    assert (await waiting).token == first
                    await store.drop(session)
                    second = await store.publish(session, declared(a=2))
                    assert (await anext(changes)).token == second

    async def test_an_idle_session_stays_in_sync_while_it_is_followed(
        self, store: Shaky, replica: Replica, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(follower, "_IDLE_S", 0.0)
        await store.publish("s", declared(a=1))
        async with aclosing(replica.changes("s")) as changes, asyncio.timeout(PATIENCE_S):
            await anext(changes)
            token = await store.publish("s", declared(a=2))
            assert (await anext(changes)).token == token

    async def test_it_goes_on_after_an_outage(self, store: Shaky, replica: Replica) -> None:
        async with aclosing(replica.changes("s")) as changes:
            store.away = True
            waiting = asyncio.ensure_future(anext(changes))
            await asyncio.wait([waiting], timeout=2 * LEASE_S)
            token = await store.publish("s", declared(a=1))
            store.away = False
            async with asyncio.timeout(PATIENCE_S):
                assert (await waiting).token == token

    async def test_readers_share_each_read_and_leave_no_subscription(self, store: Shaky, replica: Replica) -> None:
        async def read(changes: AsyncGenerator[Snapshot]) -> Snapshot:
            async with asyncio.timeout(PATIENCE_S):
                return await anext(changes)

        readers = [replica.changes("new") for _ in range(50)]
        waiting = [asyncio.ensure_future(read(reader)) for reader in readers]
        await asyncio.wait(waiting, timeout=LEASE_S)
        reads = store.reads
        token = await store.publish("new", declared(a=1))
        assert {snapshot.token for snapshot in await asyncio.gather(*waiting)} == {token}
        assert store.reads - reads <= 2
        await asyncio.gather(*(reader.aclose() for reader in readers))
        assert not await run_on_home_loop(_followed(replica))

    async def test_a_reader_that_ends_while_the_loop_is_busy_follows_nothing(self, replica: Replica) -> None:
        cancelled = threading.Event()
        get_home_loop().call_soon_threadsafe(cancelled.wait, PATIENCE_S)
        waiting = asyncio.ensure_future(anext(replica.changes("new")))
        await asyncio.sleep(0)  # it has begun
        waiting.cancel()
        await asyncio.wait([waiting])
        cancelled.set()
        assert not await run_on_home_loop(_followed(replica))
        assert not await run_on_home_loop(_followed(replica)), "nor a turn later"

    async def test_sessions_that_never_exist_are_forgotten(self, store: Shaky, replica: Replica) -> None:
        await store.publish("s", declared(a=1))
        await connected(replica)
        for n in range(20):
            with pytest.raises(SessionNotFoundError):
                await replica.snapshot(f"nobody-{n}")
            changes = replica.changes(f"nobody-{n}")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await anext(changes)
            await changes.aclose()

        async def forgotten() -> bool:
            return replica._sync._watched == {"s"}

        await eventually(forgotten, "only the session that exists to be watched", timeout_s=PATIENCE_S)


async def _followed(replica: Replica) -> list[str]:
    return list(replica._cache.followed)


class TestContact:
    def test_only_time_with_a_reachable_store_counts(self) -> None:
        contact = StoreContact(1.0)
        assert contact.reachable_s(0.0, 100.0) == 0.0, "it has never been heard"
        for moment in (100.0, 100.5, 101.5):
            contact.note_answer(moment)
        assert contact.reachable_s(0.0, 101.5) == 1.5
        assert contact.reachable_s(101.0, 102.0) == 1.0
        assert contact.reachable_s(101.0, 110.0) == 0.5, "silent by now"
        contact.note_answer(111.5)
        assert contact.reachable_s(101.0, 112.0) == 1.0
        assert contact.reachable_s(105.0, 112.0) == 0.5


async def _lose(store: Shaky, replica: Replica) -> None:
    """Take the store away, until what was heard from it isn't relied on any more."""
    store.away = True

    async def cold() -> bool:
        return replica.peek("s") is None and replica.staleness("s") > LEASE_S

    await eventually(cold, "the lease to run out")

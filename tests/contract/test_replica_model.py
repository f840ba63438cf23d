"""Whatever is done to a session, in whatever order: store and replica agree with a model of a few lines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, cast

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from snakepit_bridge.exceptions import RevisionLostError, RevisionNotReachedError, SessionNotFoundError, StaleTokenError
from snakepit_bridge.process.home_loop import run_blocking
from snakepit_bridge.protocol.messages import Requirement
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.snapshots import MemoryStore, RedisStore, SnapshotStore
from snakepit_bridge.snapshots.replica import Replica
from snakepit_bridge.snapshots.snapshot import Snapshot
from snakepit_bridge.variables import Variable

KEPT = 5

State = dict[str, int]
names = st.sampled_from("abc")
updates = st.dictionaries(names, st.none() | st.integers(0, 2), max_size=3)
anywhere = st.integers(0, 10**6)


def plain(snapshot: Snapshot) -> State:
    return {name: variable.value for name, variable in snapshot.variables.items()}


class Sessions(RuleBasedStateMachine):
    """One session; ``past`` is what the model knows: each token of its life with its state, oldest first."""

    open_store: ClassVar[Callable[[], SnapshotStore]]

    @initialize()
    def begin(self) -> None:
        self.store = self.__class__.open_store()  # pyright: ignore[reportAttributeAccessIssue]
        self.replica = Replica(self.store, 0.05, watch_lease_s=0.2)
        self.past: list[tuple[Token, State]] = []
        self.gone: list[Token] = []
        self.session = "s"
        self.seen = Token(0, 0)

    def teardown(self) -> None:
        if hasattr(self, "replica"):
            run_blocking(self.replica.aclose())
            run_blocking(self.store.drop(self.session))
            run_blocking(self.store.aclose())

    def committed(self, token: Token, state: State) -> None:
        if self.past and self.past[-1][1] == state:
            assert token == self.past[-1][0]
            return
        last = self.past[-1][0] if self.past else max([Token(0, 0), *self.gone])
        assert token > last
        assert token.revision == len(self.past) + 1
        self.past.append((token, state))

    @rule(changes=updates, replace=st.booleans(), expects=st.none() | anywhere)
    def publish(self, changes: dict[str, int | None], replace: bool, expects: int | None) -> None:
        state = {} if replace or not self.past else dict(self.past[-1][1])
        state = {name: value for name, value in {**state, **changes}.items() if value is not None}
        known = [token for token, _ in self.past] or [Token(0, 0)]
        expected = None if expects is None else known[expects % len(known)]
        variables = {n: None if v is None else Variable.declare(n, v) for n, v in changes.items()}
        publishing = self.store.publish(self.session, variables, replace=replace, expected=expected)
        if expected is not None and expected != known[-1]:
            with pytest.raises(StaleTokenError):
                run_blocking(publishing)
        else:
            self.committed(run_blocking(publishing), state)

    @rule(where=anywhere)
    def rollback(self, where: int) -> None:
        if not self.past:
            return
        place = where % len(self.past)
        token, state = self.past[place]
        if place < len(self.past) - 1 - KEPT:
            with pytest.raises(RevisionLostError):
                run_blocking(self.store.rollback(self.session, token))
        else:
            self.committed(run_blocking(self.store.rollback(self.session, token)), dict(state))

    @rule()
    def drop(self) -> None:
        run_blocking(self.store.drop(self.session))
        self.gone += [token for token, _ in self.past]
        self.past.clear()

    @rule()
    def latest(self) -> None:
        try:
            snapshot = run_blocking(self.replica.snapshot(self.session))
        except SessionNotFoundError:
            assert not self.past
            return
        assert snapshot.token >= self.seen
        self.seen = snapshot.token
        state = dict(self.past).get(snapshot.token)
        # It may be what was there before a drop, for as long as a lease.
        assert (plain(snapshot) == state) if state is not None else (snapshot.token in self.gone)

    @rule(where=anywhere)
    def at_least(self, where: int) -> None:
        if not self.past:
            return
        snapshot = run_blocking(
            self.replica.snapshot(self.session, Requirement.of(at_least=self.past[where % len(self.past)][0]))
        )
        assert plain(snapshot) == dict(self.past)[snapshot.token]
        assert snapshot.token >= max(self.past[where % len(self.past)][0], self.seen)
        self.seen = snapshot.token

    @rule()
    def own_write(self) -> None:
        if self.past:
            token, state = self.past[-1]
            snapshot = run_blocking(self.replica.snapshot(self.session, Requirement.of(at_least=token)))
            assert (snapshot.token, plain(snapshot)) == (token, state)
            self.seen = token

    @rule(where=anywhere)
    def exactly(self, where: int) -> None:
        if not self.past:
            return
        place = where % len(self.past)
        token, state = self.past[place]
        try:
            pinned = run_blocking(self.replica.snapshot(self.session, Requirement.of(exactly=token)))
        except RevisionLostError:
            assert place < len(self.past) - 1 - KEPT
        else:
            assert (pinned.token, plain(pinned)) == (token, state)

    @rule()
    def what_is_not_there(self) -> None:
        if not self.past:
            return
        ahead = Token(self.past[-1][0].epoch, len(self.past) + 1)
        for requirement in (Requirement.of(at_least=ahead), Requirement.of(exactly=ahead)):
            with pytest.raises(RevisionNotReachedError):
                run_blocking(self.replica.snapshot(self.session, requirement))

    @rule()
    def what_went_with_a_drop(self) -> None:
        if self.past and self.gone:
            with pytest.raises(RevisionLostError):
                run_blocking(self.store.read_at(self.session, self.gone[-1]))
            with pytest.raises(RevisionLostError):
                run_blocking(self.replica.snapshot(self.session, Requirement.of(at_least=self.gone[-1])))

    @invariant()
    def staleness_is_not_negative(self) -> None:
        if hasattr(self, "replica"):
            assert self.replica.staleness(self.session) >= 0


def run(open_store: Callable[[], SnapshotStore], examples: int) -> None:
    machine: Any = type("Machine", (Sessions,), {"open_store": staticmethod(open_store)})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=cast("Any", [*HealthCheck]),
        ),
    )


@pytest.mark.parametrize("kind", ["memory", "redis"])
def test_store_and_replica_agree_with_the_model(kind: str, redis_url: str) -> None:
    run(opener(kind, redis_url), 12)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", ["memory", "redis"])
def test_store_and_replica_agree_with_the_model_for_long(kind: str, redis_url: str) -> None:
    run(opener(kind, redis_url), 1_000)


def opener(kind: str, url: str) -> Callable[[], SnapshotStore]:
    if kind == "memory":
        return lambda: MemoryStore(retention=KEPT)
    return lambda: RedisStore(url, retention=KEPT)

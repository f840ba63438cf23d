"""The contract of every snapshot store: one suite, run on each of them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from typing import Any

import pytest

from snakepit_bridge.exceptions import (
    FencedError,
    RevisionLostError,
    RevisionNotReachedError,
    SessionNotFoundError,
    SessionOwnedElsewhereError,
    StaleTokenError,
    ValidationError,
)
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.snapshots import STORE, Confirmation, SnapshotStore
from snakepit_bridge.snapshots.snapshot import Snapshot
from snakepit_bridge.variables import Variable, VariableType
from tests.contract.conftest import OpenStore

ELIXIR = "elixir.example:50051"


def declared(**values: Any) -> dict[str, Variable | None]:
    return {name: None if value is None else Variable.declare(name, value) for name, value in values.items()}


def plain(variables: Mapping[str, Variable | None]) -> dict[str, Any]:
    return {name: None if variable is None else variable.value for name, variable in variables.items()}


async def state(store: SnapshotStore, session: str = "s") -> dict[str, Any]:
    return plain((await store.read(session)).variables)


class TestPublish:
    async def test_variables_are_read_as_they_were_published(self, store: SnapshotStore) -> None:
        published = Variable.declare("temperature", 0.5, constraints={"min": 0, "max": 2, "step": 0.1})
        token = await store.publish("s", {"temperature": published})
        shot = await store.read("s")
        assert (shot.session, shot.token, dict(shot.variables)) == ("s", token, {"temperature": published})
        assert token.revision == 1

    async def test_each_publish_is_one_revision(self, store: SnapshotStore) -> None:
        tokens = [await store.publish("s", declared(a=n, b=n, c=n)) for n in range(3)]
        assert [token.revision for token in tokens] == [1, 2, 3]
        assert len({token.epoch for token in tokens}) == 1
        assert tokens == sorted(tokens)

    async def test_a_snapshot_tells_when_its_revision_was_published(self, store: SnapshotStore) -> None:
        await store.publish("s", declared(a=1), age_s=100)
        first = await store.read("s")
        assert abs(first.published_at - (await store.head("s")).now) < 5, "not when its values were read"
        await asyncio.sleep(0.002)
        await store.publish("s", declared(a=1))
        await store.confirm({"s": Confirmation(0, (await store.head("s")).now)}, publisher=STORE)
        assert (await store.read("s")).published_at == first.published_at, "neither of these made a revision"
        await store.publish("s", declared(a=2))
        for have in (None, first):
            second = await store.read("s", have)
            assert first.published_at < second.published_at <= (await store.head("s")).now
        assert (await store.read_at("s", first.token)).published_at == 0

    async def test_unnamed_variables_are_kept(self, store: SnapshotStore) -> None:
        await store.publish("s", declared(a=1, b=2))
        await store.publish("s", declared(b=3))
        assert await state(store) == {"a": 1, "b": 3}

    async def test_none_deletes_a_variable(self, store: SnapshotStore) -> None:
        await store.publish("s", declared(a=1, b=2))
        await store.publish("s", declared(a=None))
        assert await state(store) == {"b": 2}

    async def test_replace_makes_the_changes_the_whole_state(self, store: SnapshotStore) -> None:
        await store.publish("s", declared(a=1, b=2, c=3))
        token = await store.publish("s", declared(b=2, d=4), replace=True)
        assert await state(store) == {"b": 2, "d": 4}
        assert token.revision == 2

    async def test_an_equal_state_is_no_new_revision(self, store: SnapshotStore) -> None:
        token = await store.publish("s", declared(a=1, b=math.nan))
        assert await store.publish("s", declared(b=math.nan)) == token
        assert await store.publish("s", declared(a=1, b=math.nan), replace=True) == token
        assert await store.publish("s", {}) == token
        assert await store.publish("s", declared(never_there=None)) == token
        assert len(await store.history("s")) == 1

    async def test_a_change_of_type_or_constraints_alone_is_a_revision(self, store: SnapshotStore) -> None:
        await store.publish("s", declared(a=1))
        await store.publish("s", declared(a=1.0))
        token = await store.publish("s", {"a": Variable.declare("a", 1.0, constraints={"max": 2})})
        assert token.revision == 3

    async def test_a_session_can_be_published_empty(self, store: SnapshotStore) -> None:
        token = await store.publish("s", {})
        assert token.revision == 1
        assert await state(store) == {}

    async def test_sessions_are_isolated(self, store: SnapshotStore) -> None:
        await store.publish("one", declared(a=1))
        await store.publish("other", declared(a=2))
        assert await state(store, "one") == {"a": 1}
        assert await state(store, "other") == {"a": 2}

    @pytest.mark.parametrize("session", ["", "a b", "ünï🎈", "a}b", "{x}", "}", "a:head", "x" * 300])
    async def test_any_text_names_a_session(self, store: SnapshotStore, session: str) -> None:
        await store.publish(session, declared(a=1))
        assert await state(store, session) == {"a": 1}
        assert list(await store.sessions()) == [session]

    async def test_unusual_names_and_values_survive_the_round_trip(self, store: SnapshotStore) -> None:
        odd = {
            "nan": math.nan, "infinite": -math.inf, "exact": 10**30 + 1, "digits": 0.30000000000000004,
            "ünï 🎈": "ünï 🎈", "quotes": '"\\\n\0', "long": [n / 7 for n in range(3000)], "empty": [],
            "tensor": {"data": [[1, 2.5], ["NaN", 4]], "shape": [2, 2]}, "yes": True, "n" * 300: 1,
        }  # fmt: skip
        # Elixir, and earlier releases, may have a name that can't be declared here.
        published = declared(**odd) | {"": Variable("", VariableType.STRING, "")}
        await store.publish("s", published)
        shot = await store.read("s")
        assert dict(shot.variables) == published
        assert shot.digest == Snapshot("s", Token(0, 0), {k: v for k, v in published.items() if v}, 0.0).digest

    async def test_thousands_of_variables_are_one_revision(
        self, store: SnapshotStore, request: pytest.FixtureRequest
    ) -> None:
        # More than a script can unpack at once. A cluster runs the same scripts, and memory none.
        count = 9_000 if request.node.callspec.params["open_one"] == "redis" else 1_000
        many = declared(**{f"v{n}": n for n in range(count)})
        first = await store.publish("s", many)
        have = await store.read("s")
        second = await store.publish("s", declared(**{f"v{n}": -1 - n for n in range(count)}), expected=first)
        assert second.revision == 2
        assert (await store.read("s", have)).value(f"v{count - 1}") == -count
        assert (await store.read_at("s", first)).digest == have.digest
        assert (await store.rollback("s", first)).revision == 3
        assert (await store.read("s")).digest == have.digest

    @pytest.mark.parametrize("wrong", [0.5, "text", {"a": 1}])
    async def test_only_variables_are_taken(self, store: SnapshotStore, wrong: Any) -> None:
        with pytest.raises(ValidationError, match=r"made by Variable\.declare"):
            await store.publish("s", {"a": wrong})

    async def test_a_variable_is_published_under_its_own_name(self, store: SnapshotStore) -> None:
        with pytest.raises(ValidationError, match="under its own name"):
            await store.publish("s", {"a": Variable.declare("b", 1)})
        with pytest.raises(SessionNotFoundError):
            await store.read("s")


class TestExpected:
    async def test_a_publish_on_top_of_the_current_token_succeeds(self, store: SnapshotStore) -> None:
        token = await store.publish("s", declared(a=1))
        assert (await store.publish("s", declared(a=2), expected=token)).revision == 2

    async def test_a_publish_on_top_of_an_older_token_is_rejected(self, store: SnapshotStore) -> None:
        first = await store.publish("s", declared(a=1))
        second = await store.publish("s", declared(a=2))
        with pytest.raises(StaleTokenError) as raised:
            await store.publish("s", declared(a=3), expected=first)
        assert (raised.value.expected, raised.value.found) == (str(first), str(second))
        assert await state(store) == {"a": 2}
        assert (await store.head("s")).token == second

    async def test_a_session_that_is_not_there_is_at_zero(self, store: SnapshotStore) -> None:
        with pytest.raises(StaleTokenError, match=r"is at 0\.0, not at the expected 7\.7"):
            await store.publish("s", declared(a=1), expected=Token(7, 7))
        first = await store.publish("s", declared(a=1), expected=Token(0, 0))
        with pytest.raises(StaleTokenError, match=f"is at {first}, not at the expected 0.0"):
            await store.publish("s", declared(a=2), expected=Token(0, 0))

    async def test_of_publishers_that_expect_the_same_exactly_one_wins(self, store: SnapshotStore) -> None:
        token = await store.publish("s", declared(a=0))
        tries = [store.publish("s", declared(a=n), expected=token) for n in range(1, 9)]
        answers = await asyncio.gather(*tries, return_exceptions=True)
        won = [answer for answer in answers if isinstance(answer, Token)]
        assert [token.revision for token in won] == [2]
        assert sum(isinstance(answer, StaleTokenError) for answer in answers) == 7
        assert (await store.head("s")).token == won[0]

    async def test_counting_together_loses_no_count(self, store: SnapshotStore) -> None:
        await store.publish("s", declared(count=0))

        async def count() -> None:
            while True:
                shot = await store.read("s")
                try:
                    await store.publish("s", declared(count=shot.value("count") + 1), expected=shot.token)
                    return
                except StaleTokenError:
                    continue

        await asyncio.gather(*(count() for _ in range(12)))
        assert await state(store) == {"count": 12}


class TestAuthority:
    async def test_the_first_publisher_is_the_authority(self, store: SnapshotStore) -> None:
        await store.publish("followed", declared(a=1), publisher=ELIXIR)
        await store.publish("own", declared(a=1))
        assert (await store.head("followed")).authority == ELIXIR
        assert (await store.head("own")).authority == STORE

    async def test_nobody_else_publishes_or_rolls_back(self, store: SnapshotStore) -> None:
        token = await store.publish("s", declared(a=1), publisher=ELIXIR)
        for attempt in (store.publish("s", declared(a=2)), store.rollback("s", token)):
            with pytest.raises(SessionOwnedElsewhereError) as raised:
                await attempt
            assert (raised.value.authority, raised.value.publisher) == (ELIXIR, STORE)
        with pytest.raises(SessionOwnedElsewhereError):
            await store.raise_fence("s", publisher=STORE)
        assert await state(store) == {"a": 1}
        assert (await store.publish("s", declared(a=2), publisher=ELIXIR)).revision == 2

    async def test_a_dropped_session_can_have_another_authority(self, store: SnapshotStore) -> None:
        await store.publish("s", declared(a=1), publisher=ELIXIR)
        await store.drop("s")
        await store.publish("s", declared(a=1))
        assert (await store.head("s")).authority == STORE


class TestFence:
    async def test_a_fence_can_come_before_the_session(self, store: SnapshotStore) -> None:
        fence = await store.raise_fence("s", publisher=ELIXIR)
        with pytest.raises(SessionNotFoundError):
            await store.read("s")
        assert await store.sessions() == {}
        token = await store.publish("s", declared(a=1), publisher=ELIXIR, fence=fence)
        assert token.revision == 1
        assert (await store.head("s")).fence == fence

    async def test_an_older_fence_is_rejected(self, store: SnapshotStore) -> None:
        paused = await store.raise_fence("s", publisher=ELIXIR)
        current = await store.raise_fence("s", publisher=ELIXIR)
        assert current > paused
        await store.publish("s", declared(a=1), publisher=ELIXIR, fence=current)
        with pytest.raises(FencedError) as raised:
            await store.publish("s", declared(a=2), publisher=ELIXIR, fence=paused)
        assert (raised.value.fence, raised.value.current) == (paused, current)
        assert await state(store) == {"a": 1}

    async def test_a_fenced_session_requires_a_fence(self, store: SnapshotStore) -> None:
        fence = await store.raise_fence("s", publisher=ELIXIR)
        with pytest.raises(FencedError):
            await store.publish("s", declared(a=1), publisher=ELIXIR)
        token = await store.publish("s", declared(a=1), publisher=ELIXIR, fence=fence)
        with pytest.raises(FencedError):
            await store.rollback("s", token, publisher=ELIXIR)

    async def test_a_session_without_fence_rejects_one(self, store: SnapshotStore) -> None:
        with pytest.raises(FencedError):
            await store.publish("s", declared(a=1), fence=1)

    async def test_a_fence_of_a_dropped_session_never_comes_again(self, store: SnapshotStore) -> None:
        old = await store.raise_fence("s", publisher=ELIXIR)
        await store.drop("s")
        assert await store.raise_fence("s", publisher=ELIXIR) > old


class TestRead:
    async def test_an_unknown_session_says_so_everywhere(self, store: SnapshotStore) -> None:
        calls = (
            store.read("nobody"), store.read_at("nobody", Token(1, 1)), store.head("nobody"), store.history("nobody"),
            store.rollback("nobody", Token(1, 1)),
        )  # fmt: skip
        for question in calls:
            with pytest.raises(SessionNotFoundError, match="Session not found: nobody"):
                await question

    async def test_an_up_to_date_reader_gets_its_own_snapshot_back(self, store: SnapshotStore) -> None:
        await store.publish("s", declared(a=1))
        have = await store.read("s")
        assert await store.read("s", have) is have

    async def test_a_reader_behind_gets_what_changed_and_keeps_the_rest(self, store: SnapshotStore) -> None:
        await store.publish("s", declared(same=1, changed=1, gone=1, back=1))
        have = await store.read("s")
        await store.publish("s", declared(changed=2, gone=None, back=2))
        await store.publish("s", declared(changed=3, new=1, back=1))
        now = await store.read("s", have)
        assert plain(now.variables) == {"same": 1, "changed": 3, "new": 1, "back": 1}
        assert now.variables["same"] is have.variables["same"]
        assert now.token == (await store.head("s")).token
        assert now.digest == (await store.read("s")).digest
        assert plain(have.variables) == {"same": 1, "changed": 1, "gone": 1, "back": 1}

    @pytest.mark.parametrize("behind", [1, 3, 4, 10, 200])
    async def test_a_reader_behind_the_retention_gets_the_full_state(self, open_one: OpenStore, behind: int) -> None:
        store = open_one(retention=3)
        await store.publish("s", declared(a=0, early=0))
        have = await store.read("s")
        await store.publish("s", declared(early=1))
        for n in range(1, behind):
            await store.publish("s", declared(a=n))
        assert plain((await store.read("s", have)).variables) == {"a": behind - 1, "early": 1}

    async def test_a_reader_of_a_dropped_session_gets_no_mixed_state(self, store: SnapshotStore) -> None:
        await store.publish("s", declared(a=1, old=1))
        await store.publish("s", declared(a=2))
        have = await store.read("s")
        await store.drop("s")
        for n in range(3):
            await store.publish("s", declared(a=n))
        assert plain((await store.read("s", have)).variables) == {"a": 2}

    async def test_no_reader_sees_half_a_publish(self, store: SnapshotStore) -> None:
        await store.publish("s", declared(a=0, b=0))
        shot = await store.read("s")

        async def write() -> None:
            for n in range(1, 60):
                await store.publish("s", declared(a=n, b=n))

        writing = asyncio.create_task(write())
        while not writing.done():
            newer = await store.read("s", shot)
            assert newer.value("a") == newer.value("b")
            assert newer.token >= shot.token
            shot = newer
            await asyncio.sleep(0)
        await writing
        assert (await store.read("s", shot)).value("a") == 59


class TestConfirmedAt:
    async def test_each_publish_confirms_changed_or_not(self, store: SnapshotStore) -> None:
        await store.publish("s", declared(a=1), age_s=60)
        before = await store.read("s")
        await store.publish("s", declared(a=1))
        after = await store.read("s", before)
        assert after.token == before.token
        assert after.variables is before.variables
        assert 59 < after.confirmed_at - before.confirmed_at < 120

    async def test_a_paused_read_confirms_nothing_newer(self, store: SnapshotStore) -> None:
        await store.publish("s", declared(a=1))
        before = (await store.head("s")).confirmed_at
        await store.publish("s", declared(a=2), age_s=3_600)
        assert (await store.head("s")).confirmed_at == before
        assert (await store.read("s")).confirmed_at == before


class TestPast:
    async def test_every_retained_token_gives_its_state_again(self, store: SnapshotStore) -> None:
        states: list[dict[str, Any]] = [{"a": 1}, {"a": 2, "b": 1}, {"b": 2}, {"a": 1}, {}]
        tokens = [await store.publish("s", declared(**values), replace=True) for values in states]
        for token, values in zip(tokens, states, strict=True):
            shot = await store.read_at("s", token)
            assert (shot.token, plain(shot.variables)) == (token, values)

    async def test_a_token_that_is_not_published_is_not_waited_for(self, store: SnapshotStore) -> None:
        token = await store.publish("s", declared(a=1))
        for ahead in (Token(token.epoch, 2), Token(token.epoch + 1, 1)):
            with pytest.raises(RevisionNotReachedError) as raised:
                await store.read_at("s", ahead)
            assert (raised.value.token, raised.value.found) == (str(ahead), str(token))

    async def test_a_trimmed_token_names_the_oldest_that_is_left(self, open_one: OpenStore) -> None:
        store = open_one(retention=3)
        tokens = [await store.publish("s", declared(a=n)) for n in range(10)]
        for token in tokens[:6]:
            with pytest.raises(RevisionLostError) as raised:
                await store.read_at("s", token)
            assert raised.value.oldest == str(tokens[6])
        assert [plain((await store.read_at("s", token)).variables) for token in tokens[6:]] == [
            {"a": 6}, {"a": 7}, {"a": 8}, {"a": 9}
        ]  # fmt: skip
        assert len(await store.history("s", 100)) == 3

    async def test_a_token_of_a_dropped_session_is_lost(self, store: SnapshotStore) -> None:
        old = await store.publish("s", declared(a=1))
        await store.drop("s")
        new = await store.publish("s", declared(a=2))
        assert new.epoch > old.epoch
        with pytest.raises(RevisionLostError):
            await store.read_at("s", old)
        with pytest.raises(RevisionLostError):
            (await store.read("s")).satisfies(old)
        with pytest.raises(StaleTokenError):
            await store.publish("s", declared(a=3), expected=old)

    async def test_history_says_who_when_why_and_what(self, store: SnapshotStore) -> None:
        first = await store.publish("s", declared(a=1, b=1), author="ann", reason="début")
        second = await store.publish("s", declared(a=2, b=None, c=3), author="bob")
        latest, earliest = await store.history("s")
        assert (latest.token, latest.author, latest.reason) == (second, "bob", "")
        assert plain(latest.before) == {"a": 1, "b": 1, "c": None}
        assert plain(latest.after) == {"a": 2, "b": None, "c": 3}
        assert (earliest.token, earliest.author, earliest.reason) == (first, "ann", "début")
        assert plain(earliest.before) == {"a": None, "b": None}
        confirmed_at = (await store.head("s")).confirmed_at
        assert earliest.at <= latest.at <= confirmed_at
        assert [change.token for change in await store.history("s", 1)] == [second]

    async def test_rollback_is_a_new_revision_with_an_old_state(self, store: SnapshotStore) -> None:
        first = await store.publish("s", declared(a=1, b=1))
        second = await store.publish("s", declared(a=2, b=None, c=3))
        third = await store.rollback("s", first, author="ann")
        assert third.revision == 3
        assert await state(store) == {"a": 1, "b": 1}
        assert plain((await store.read_at("s", second)).variables) == {"a": 2, "c": 3}
        latest = (await store.history("s", 1))[0]
        assert (latest.author, latest.reason) == ("ann", f"rollback to {first}")
        assert await store.rollback("s", third) == third

    async def test_rollback_takes_what_publish_and_read_at_refuse(self, open_one: OpenStore) -> None:
        store = open_one(retention=1)
        tokens = [await store.publish("s", declared(a=n)) for n in range(4)]
        with pytest.raises(StaleTokenError):
            await store.rollback("s", tokens[2], expected=tokens[2])
        with pytest.raises(RevisionLostError):
            await store.rollback("s", tokens[0])
        with pytest.raises(RevisionNotReachedError):
            await store.rollback("s", Token(tokens[3].epoch, 5))
        assert (await store.head("s")).token == tokens[3]


class TestSessions:
    async def test_all_sessions_are_listed_with_their_heads(self, store: SnapshotStore) -> None:
        assert await store.sessions() == {}
        tokens = {name: await store.publish(name, declared(a=1)) for name in ("b", "a", "c")}
        tokens["b"] = await store.publish("b", declared(a=2))
        heads = await store.sessions()
        assert {name: head.token for name, head in heads.items()} == tokens
        assert heads["b"] == await store.head("b")
        assert await store.session_names() == ["a", "b", "c"]

    async def test_a_dropped_session_is_gone(self, store: SnapshotStore) -> None:
        await store.publish("s", declared(a=1))
        await store.publish("other", declared(a=1))
        await store.drop("s")
        await store.drop("s")
        assert list(await store.sessions()) == ["other"]
        with pytest.raises(SessionNotFoundError):
            await store.read("s")

    async def test_a_refused_first_publish_leaves_no_session(self, store: SnapshotStore) -> None:
        with pytest.raises(StaleTokenError):
            await store.publish("s", declared(a=1), expected=Token(1, 1))
        assert await store.sessions() == {}


async def test_a_store_works_from_several_event_loops_at_once(store: SnapshotStore) -> None:
    await store.publish("s", declared(count=0))

    async def use(name: str) -> None:
        for n in range(10):
            await store.publish("s", declared(**{name: n}))
            assert (await store.read("s")).value(name) == n
        await store.aclose()

    elsewhere = (asyncio.to_thread(asyncio.run, use(f"thread{n}")) for n in range(3))
    await asyncio.gather(use("here"), *elsewhere)
    assert (await store.head("s")).token.revision == 41


async def test_a_closed_store_opens_again_when_it_is_used(store: SnapshotStore) -> None:
    await store.publish("s", declared(a=1))
    await store.aclose()
    assert await state(store) == {"a": 1}

"""Labels and other references to revisions, and what is made of them: diff, rollback, reads of the past."""

from __future__ import annotations

import asyncio

import pytest

from snakepit_bridge.exceptions import (
    LabelMovedError,
    LabelNotFoundError,
    RevisionLostError,
    RevisionNotReachedError,
    SessionNotFoundError,
)
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.snapshots import SnapshotStore
from tests.contract.conftest import OpenStore
from tests.contract.sample import declared, plain, state


async def test_a_label_names_the_present_revision_and_stays_there(store: SnapshotStore) -> None:
    token = await store.publish("s", declared(a=1))
    assert await store.label("s", "stable", author="ann", reason="tried") == token
    await store.publish("s", declared(a=2))
    assert await state(store, at="stable") == {"a": 1}
    label = (await store.labels("s"))["stable"]
    assert (label.token, label.author, label.reason) == (token, "ann", "tried")
    assert label.at >= (await store.history("s"))[-1].at


async def test_a_label_moves_and_goes(store: SnapshotStore) -> None:
    first = await store.publish("s", declared(a=1))
    second = await store.publish("s", declared(a=2))
    await store.label("s", "canary", second)
    await store.label("s", "stable", first)
    await store.label("s", "stable", "canary")
    assert {name: label.token for name, label in (await store.labels("s")).items()} == {
        "canary": second,
        "stable": second,
    }
    await store.unlabel("s", "canary")
    await store.unlabel("s", "canary")
    assert list(await store.labels("s")) == ["stable"]
    assert await state(store, at="stable") == {"a": 2}


async def test_a_labelled_revision_outlives_the_history(open_one: OpenStore) -> None:
    store = open_one(retention=2)
    tokens = [await store.publish("s", declared(a=n, b=n)) for n in range(3)]
    await store.label("s", "stable", tokens[1])
    for n in range(3, 9):
        await store.publish("s", declared(a=n))
    assert await state(store, at="stable") == await state(store, at=tokens[1]) == {"a": 1, "b": 1}
    # A label can be given on from it, and it can be gone back to.
    await store.label("s", "old", "stable")
    await store.unlabel("s", "stable")
    assert await state(store, at=tokens[1]) == {"a": 1, "b": 1}
    await store.rollback("s", "old")
    assert await state(store) == {"a": 1, "b": 1}
    await store.unlabel("s", "old")
    with pytest.raises(RevisionLostError):
        await store.read_at("s", tokens[1])


async def test_a_label_can_name_an_empty_state(open_one: OpenStore) -> None:
    store = open_one(retention=1)
    await store.publish("s", {})
    await store.label("s", "blank")
    for n in range(3):
        await store.publish("s", declared(a=n))
    assert await state(store, at="blank") == {}


async def test_a_label_moves_only_from_where_it_is_expected(store: SnapshotStore) -> None:
    first = await store.publish("s", declared(a=1))
    second = await store.publish("s", declared(a=2))
    with pytest.raises(LabelMovedError, match=f"'stable' of session 's' is at 0.0, not at the expected {first}"):
        await store.label("s", "stable", second, expected=first)
    await store.label("s", "stable", first, expected=Token(0, 0))
    with pytest.raises(LabelMovedError) as raised:
        await store.label("s", "stable", second, expected=Token(0, 0))
    assert (raised.value.label, raised.value.found) == ("stable", str(first))
    await store.label("s", "stable", second, expected=first)
    assert (await store.labels("s"))["stable"].token == second


async def test_one_of_several_concurrent_label_moves_wins(store: SnapshotStore) -> None:
    tokens = [await store.publish("s", declared(a=n)) for n in range(6)]
    moves = [store.label("s", "stable", token, expected=Token(0, 0)) for token in tokens]
    answers = await asyncio.gather(*moves, return_exceptions=True)
    [won] = [answer for answer in answers if isinstance(answer, Token)]
    assert (await store.labels("s"))["stable"].token == won


@pytest.mark.parametrize("name", ["", "latest", "1.2", "9", "a b", "a.b", "é", "x" * 65, "a\n"])
async def test_ambiguous_label_names_are_rejected(store: SnapshotStore, name: str) -> None:
    await store.publish("s", declared(a=1))
    with pytest.raises(ValueError, match="A label is a letter and"):
        await store.label("s", name)
    assert await store.labels("s") == {}


async def test_only_existing_revisions_can_be_labelled(store: SnapshotStore) -> None:
    with pytest.raises(SessionNotFoundError):
        await store.label("s", "stable")
    token = await store.publish("s", declared(a=1))
    with pytest.raises(RevisionNotReachedError):
        await store.label("s", "stable", Token(token.epoch, 2))
    with pytest.raises(RevisionLostError):
        await store.label("s", "stable", Token(1, 1))
    assert await store.labels("s") == {}


async def test_a_session_that_is_not_there_has_no_labels(store: SnapshotStore) -> None:
    for question in (store.labels("s"), store.unlabel("s", "a"), store.resolve("s", "a"), store.diff("s", "a")):
        with pytest.raises(SessionNotFoundError):
            await question


async def test_a_drop_takes_the_labels_along(store: SnapshotStore) -> None:
    await store.publish("s", declared(a=1))
    await store.label("s", "stable")
    await store.drop("s")
    await store.publish("s", declared(a=2))
    assert await store.labels("s") == {}
    with pytest.raises(LabelNotFoundError):
        await store.read_at("s", "stable")


async def test_every_way_to_name_a_revision_reads_it(store: SnapshotStore) -> None:
    first = await store.publish("s", declared(a=1))
    second = await store.publish("s", declared(a=2))
    await store.label("s", "stable", first)
    for at, token in ((first, first), (str(first), first), ("stable", first), ("latest", second)):
        assert await store.resolve("s", at) == token
        assert (await store.read_at("s", at)).token == token


async def test_a_label_that_is_not_there_names_those_that_are(store: SnapshotStore) -> None:
    await store.publish("s", declared(a=1))
    await store.label("s", "stable")
    with pytest.raises(LabelNotFoundError, match="has no label 'stabel'. Did you mean 'stable'"):
        await store.read_at("s", "stabel")
    with pytest.raises(ValueError, match="A token reads epoch.revision"):
        await store.read_at("s", "12")


async def test_diff_shows_both_sides_of_what_differs(store: SnapshotStore) -> None:
    first = await store.publish("s", declared(same=1, changed=1, gone=1))
    await store.publish("s", declared(changed=2))
    second = await store.publish("s", declared(gone=None, new=1))
    differing = {"changed": (1, 2), "gone": (1, None), "new": (None, 1)}
    diff = await store.diff("s", first, second)
    assert {n: tuple(plain({"x": each})["x"] for each in pair) for n, pair in diff.items()} == differing
    assert await store.diff("s", first) == diff
    await store.label("s", "stable", first)
    assert await store.diff("s", "latest", "stable") == {name: pair[::-1] for name, pair in diff.items()}
    assert await store.diff("s", first, first) == {}


async def test_rollback_takes_a_label_and_says_so_in_the_history(store: SnapshotStore) -> None:
    await store.publish("s", declared(a=1))
    await store.label("s", "stable")
    await store.publish("s", declared(a=2))
    token = await store.rollback("s", "stable", author="ann")
    assert await state(store) == {"a": 1}
    latest = (await store.history("s", 1))[0]
    assert (latest.token, latest.author, latest.reason) == (token, "ann", "rollback to stable")

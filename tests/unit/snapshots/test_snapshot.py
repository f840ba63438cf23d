"""Snapshots: immutable, comparable by content, and sure of which tokens they meet."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from snakepit_bridge.exceptions import RevisionLostError, VariableNotFoundError
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.snapshots.snapshot import AuthoritySign, Lineage, Snapshot
from snakepit_bridge.variables import Variable


def snapshot(token: Token = Token(1, 1), lineage: Lineage = Lineage(), **values: Any) -> Snapshot:
    variables = {name: Variable.declare(name, value) for name, value in values.items()}
    return Snapshot("s", token, variables, 100.0, lineage)


def test_values_are_read_by_name() -> None:
    shot = snapshot(a=1, b="x", c=True)
    assert shot.value("a") == 1
    assert shot.values(["a", "c"]) == {"a": 1, "c": True}


def test_a_missing_variable_names_the_session_and_what_it_has() -> None:
    with pytest.raises(VariableNotFoundError, match="Did you mean 'temperature'") as raised:
        snapshot(temperature=1.0, model="m").value("temprature")
    assert raised.value.available == ("model", "temperature")
    assert raised.value.session == "s"


def test_variables_are_immutable() -> None:
    given = {"a": Variable.declare("a", 1)}
    shot = Snapshot("s", Token(1, 1), given, 0.0)
    given.clear()
    assert shot.value("a") == 1
    with pytest.raises(TypeError):
        shot.variables["a"] = Variable.declare("a", 2)  # type: ignore[index]


def test_the_digest_is_of_the_content_alone() -> None:
    assert snapshot(Token(1, 1), a=1, b=2).digest == snapshot(Token(2, 9), b=2, a=1).digest
    digests = [
        snapshot().digest,
        snapshot(a=1).digest,
        snapshot(a=2).digest,
        snapshot(b=1).digest,
        snapshot(a=1.0).digest,
    ]
    assert len(set(digests)) == len(digests)
    assert len(snapshot().digest) == 64


def test_the_digest_does_not_depend_on_where_names_end() -> None:
    assert snapshot(ab=1, c=2).digest != snapshot(a=1, bc=2).digest


def test_a_diff_names_what_is_new_gone_and_changed() -> None:
    older, newer = snapshot(same=1, changed=1, gone=1), snapshot(same=1, changed=2, new=1)
    diff = newer.diff(older)
    assert list(diff) == ["changed", "gone", "new"]
    assert diff["changed"] == (older.variables["changed"], newer.variables["changed"])
    assert diff["gone"] == (older.variables["gone"], None)
    assert diff["new"] == (None, newer.variables["new"])
    assert newer.diff(newer) == {}


def test_a_newer_confirmation_keeps_the_rest() -> None:
    shot = snapshot(a=1)
    digest = shot.digest
    later = shot.with_confirmation(200.0, AuthoritySign(199.0, 5.0))
    assert (later.confirmed_at, later.token, later.digest) == (200.0, shot.token, digest)
    assert later.variables is shot.variables
    assert later.heard == AuthoritySign(199.0, 5.0)
    assert shot.with_confirmation(100.0, None) is shot
    assert shot.confirmed_at == 100.0


def test_a_copy_is_the_snapshot_itself() -> None:
    shot = snapshot(a=1)
    assert copy.copy(shot) is shot
    assert copy.deepcopy({"held": shot})["held"] is shot


def test_a_token_is_met_from_its_own_revision_on() -> None:
    shot = snapshot(Token(10, 5), Lineage(((10, 0),)))
    assert shot.satisfies(Token(10, 4))
    assert shot.satisfies(Token(10, 5))
    assert not shot.satisfies(Token(10, 6))
    assert not shot.satisfies(Token(11, 1))


def test_tokens_of_an_older_epoch_are_met_up_to_where_it_broke_off() -> None:
    shot = snapshot(Token(30, 70), Lineage(((10, 0), (20, 48), (30, 60))))
    assert shot.satisfies(Token(10, 48))
    assert shot.satisfies(Token(20, 60))
    for lost in (Token(10, 49), Token(20, 61), Token(5, 1)):
        with pytest.raises(RevisionLostError, match=str(lost)):
            shot.satisfies(lost)


def test_a_token_of_an_epoch_that_another_server_opened_is_lost() -> None:
    """Its revision compares as one that the session went through, and its state was never part of it."""
    shot = snapshot(Token(30, 70), Lineage(((10, 0), (20, 48), (30, 60))))
    for foreign in (Token(15, 48), Token(25, 60), Token(25, 49), Token(9, 1)):
        with pytest.raises(RevisionLostError, match=str(foreign)):
            shot.satisfies(foreign)
    # Nor did an epoch give out what was published before it began.
    with pytest.raises(RevisionLostError):
        shot.satisfies(Token(20, 47))
    assert shot.satisfies(Token(20, 48))
    assert not shot.satisfies(Token(31, 60))


def test_a_lineage_knows_the_epoch_of_a_revision() -> None:
    lineage = Lineage.parse("10:0 20:48 30:48 40:60")
    assert lineage.token(1) == Token(10, 1)
    assert lineage.token(48) == Token(10, 48)
    assert lineage.token(49) == Token(30, 49)
    assert lineage.token(61) == Token(40, 61)
    assert lineage == Lineage().with_epoch(10, 0).with_epoch(20, 48).with_epoch(30, 48).with_epoch(40, 60)

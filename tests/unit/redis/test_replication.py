"""Durabilities: how they read, what they send to the server, and how its answer is counted."""

from __future__ import annotations

import pytest

from snakepit_bridge.exceptions import NotReplicatedError, SubmitOptionError
from snakepit_bridge.redis.durable_writes import fsync_problem
from snakepit_bridge.redis.replication import ON_PRIMARY, Replication


@pytest.mark.parametrize(
    ("text", "shown", "command"),
    [
        ("replicated", "replicated(1, 1)", ("WAIT", 1, 1_000)),
        ("replicated(2)", "replicated(2, 1)", ("WAIT", 2, 1_000)),
        ("replicated( 2 , 0.5 )", "replicated(2, 0.5)", ("WAIT", 2, 500)),
        ("fsynced", "fsynced(0, 3)", ("WAITAOF", 1, 0, 3_000)),
        ("fsynced(1)", "fsynced(1, 3)", ("WAITAOF", 1, 1, 3_000)),
        ("fsynced(0, 0.0001)", "fsynced(0, 0.0001)", ("WAITAOF", 1, 0, 1)),
    ],
)
def test_a_durability_is_a_command_that_waits_and_a_header(text: str, shown: str, command: tuple[object, ...]) -> None:
    replication = Replication.parse(text)
    assert (str(replication), replication.command) == (shown, command)
    assert replication.waits
    assert Replication.of_headers(replication.headers()) == replication


def test_the_primary_alone_waits_for_nothing_and_needs_no_header() -> None:
    assert Replication.parse("primary") == ON_PRIMARY == Replication.of_headers({})
    assert (str(ON_PRIMARY), ON_PRIMARY.waits, ON_PRIMARY.headers()) == ("primary", False, {})


@pytest.mark.parametrize("wrong", ["forever", "replicated(0)", "replicated(1, 0)", "fsynced(1, 61)", "fsynced(-1)", ""])
def test_another_word_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="A durability is primary, replicated"):
        Replication.parse(wrong)
    with pytest.raises(SubmitOptionError, match="durability"):
        Replication.of_headers({"durability": wrong})


@pytest.mark.parametrize(
    ("text", "reply", "confirmed", "wanted"),
    [
        ("replicated(2)", 1, 1, 2),
        ("fsynced", [0, 2], 0, 1),
        ("fsynced", [1, 0], 1, 1),
        ("fsynced(1)", [0, 2], 1, 2),
        ("fsynced(2)", [1, 1], 2, 3),
    ],
)
def test_another_servers_disk_does_not_stand_for_the_primarys(
    text: str, reply: int | list[int], confirmed: int, wanted: int
) -> None:
    replication = Replication.parse(text)
    assert (replication.count(reply), replication.wanted) == (confirmed, wanted)
    if confirmed < wanted:
        with pytest.raises(NotReplicatedError, match=f"{confirmed} of {wanted} (replicas|servers)"):
            replication.check(confirmed, "It")


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ("unknown command 'WAITAOF', with args beginning with: '1' '0' '1'", "it is older than Redis 7.2. Upgrade it"),
        ("WAITAOF cannot be used when numlocal is set but appendonly is disabled.", "Set appendonly yes there"),
    ],
)
def test_a_server_that_can_not_wait_for_its_disk_is_named_with_what_to_do(answer: str, says: str) -> None:
    problem = fsync_problem(answer, "redis://cache:6379/0")
    assert says in problem
    assert "redis://cache:6379/0" in problem

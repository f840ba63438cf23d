"""The holding: which claims are open, and which ends the broker has yet to be told of."""

from __future__ import annotations

import threading

import pytest

from snakepit_bridge.delivery.keys import DeliveryKeys
from workers.broker import settlement
from workers.broker.lease_settings import LeaseSettings
from workers.broker.leases import LeaseTable


@pytest.fixture
def holding() -> LeaseTable:
    return LeaseTable(DeliveryKeys(), LeaseSettings(hold_limit_s=100, hold_grace_s=1))


def test_a_claim_that_ends_is_closed_at_once_and_told_until_it_is_confirmed(holding: LeaseTable) -> None:
    holding.add("w.1", "q", {})
    end = settlement.ack("w.1")
    holding.settle(end)
    assert (dict(holding.held), holding.take_unsent(), holding.take_unsent()) == ({}, [end], [])
    assert holding.overdue_settlements(0) == [end], "whoever took it may fail to tell"
    assert holding.overdue_settlements(60) == []
    holding.confirm([end])
    holding.confirm([end])
    assert holding.overdue_settlements(0) == []
    assert holding.idle


def test_a_holding_with_anything_open_is_not_idle(holding: LeaseTable) -> None:
    assert holding.idle
    holding.add("w.1", "q", {})
    assert not holding.idle
    holding.settle(settlement.ack("w.1"))
    assert not holding.idle


def test_claim_numbers_are_used_once_by_whichever_thread(holding: LeaseTable) -> None:
    firsts: list[int] = []
    threads = [
        threading.Thread(target=lambda: firsts.extend(holding.reserve_numbers(3) for _ in range(200))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(firsts) == list(range(1, 2_400, 3))


@pytest.mark.parametrize(
    ("headers", "limit"),
    [(None, 100), ({}, 100), ({"timelimit": [None, 5]}, 100), ({"timelimit": [20, 5]}, 21), ({"timelimit": "x"}, 100)],
)
def test_a_claim_is_held_no_longer_than_its_tasks_hard_limit(
    headers: object, limit: float, holding: LeaseTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.broker.leases.time.monotonic", lambda: 1_000.0)
    holding.add("w.1", "q", {"headers": headers})
    assert holding.held["w.1"].held_until == 1_000 + limit
    assert holding.overdue_claims() == []
    monkeypatch.setattr("workers.broker.leases.time.monotonic", lambda: 1_000.0 + limit)
    assert [tag for tag, _ in holding.overdue_claims()] == ["w.1"]

"""Keepers: what a process holds outlives its channels, but not its fork."""

from __future__ import annotations

import multiprocessing
from typing import Any

from snakepit_bridge.delivery.keys import DeliveryKeys
from tests.harness.waiting import PATIENCE_S
from workers.broker.lease_keepers import KeeperRegistry
from workers.broker.lease_settings import LeaseSettings


def connect() -> Any:
    raise AssertionError("nothing is to be connected")


def test_channels_of_one_broker_share_a_keeper_and_others_do_not() -> None:
    keepers = KeeperRegistry()
    keeper = keepers.get(("host", 1), DeliveryKeys(), LeaseSettings(), connect)
    keeper.leases.add("w.1", "q", {})
    assert keepers.get(("host", 1), DeliveryKeys(), LeaseSettings(), connect) is keeper
    assert keepers.get(("host", 2), DeliveryKeys(), LeaseSettings(), connect) is not keeper
    assert keepers.get(("host", 1), DeliveryKeys.of("team"), LeaseSettings(), connect) is not keeper
    assert keepers.get(("host", 1), DeliveryKeys(), LeaseSettings(), connect) is keeper, "it holds something"


def test_a_keeper_that_holds_nothing_is_dropped() -> None:
    keepers = KeeperRegistry()
    keeper = keepers.get(("host", 1), DeliveryKeys(), LeaseSettings(), connect)
    keepers.get(("host", 2), DeliveryKeys(), LeaseSettings(), connect)
    assert keepers.get(("host", 1), DeliveryKeys(), LeaseSettings(), connect) is not keeper


def _in_child(answer: Any) -> None:
    from workers.broker.lease_keepers import KEEPERS

    answer.put(len(KEEPERS._keepers))


def test_a_forked_child_holds_nothing() -> None:
    from workers.broker.lease_keepers import KEEPERS

    keeper = KEEPERS.get(("nowhere", 1), DeliveryKeys(), LeaseSettings(), connect)
    context = multiprocessing.get_context("fork")
    answer: Any = context.Queue()
    child = context.Process(target=_in_child, args=(answer,))
    child.start()
    assert answer.get(timeout=PATIENCE_S) == 0
    child.join(PATIENCE_S)
    assert KEEPERS.get(("nowhere", 1), DeliveryKeys(), LeaseSettings(), connect) is keeper

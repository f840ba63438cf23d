"""The layout of claims: one place in Redis for all who read it."""

from __future__ import annotations

import re

from snakepit_bridge.delivery.keys import SEPARATOR, DeliveryKeys
from tests.harness.leaks import permanent


def test_keys_begin_with_kombus_prefix_and_the_namespace() -> None:
    layout = DeliveryKeys.of("team-a", "shared:")
    keys = (layout.workers, layout.ticks, layout.delayed, layout.dead, layout.dead_entries, layout.held("w"))
    assert all(key.startswith("shared:team-a:delivery:") for key in keys)
    assert len(set(keys)) == len(keys)
    assert DeliveryKeys() == DeliveryKeys.of("dspex")


def test_a_queues_lists_are_celerys_own() -> None:
    assert DeliveryKeys().waiting("predictions") == "predictions"
    assert DeliveryKeys.of("x", "shared:").waiting("predictions", 6) == f"shared:predictions{SEPARATOR}6"


def test_every_key_is_listed_as_permanent() -> None:
    layout = DeliveryKeys()
    kept = permanent()
    for key in (layout.workers, layout.ticks, layout.delayed, layout.dead, layout.dead_entries, layout.held("0a1b")):
        assert kept(key), key
    assert not kept(f"{layout.base}:done:w.1"), "it expires"
    assert re.fullmatch(r"\x06\x16", SEPARATOR)

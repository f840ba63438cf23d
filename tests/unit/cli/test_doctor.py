"""``doctor``: what it says of the log of the server's changes, of replicas, and of a broker's features."""

from __future__ import annotations

from typing import Any

import pytest

from snakepit_bridge.cli.doctor import _durability
from snakepit_bridge.cli.replication_checks import check_rabbitmq_features, check_replicas
from snakepit_bridge.redis.replication import Replication

ON = {"aof_enabled": 1, "aof_last_write_status": "ok", "aof_delayed_fsync": 0}


@pytest.mark.parametrize(
    ("info", "fsync", "level", "says"),
    [
        ({"aof_enabled": 0}, "everysec", "warn", "off"),
        (ON, "always", "ok", "nothing confirmed is lost"),
        (ON, "everysec", "ok", "1 to 3 s"),
        (ON, "no", "warn", "30 s"),
        (ON, None, "ok", "on"),
        ({**ON, "aof_delayed_fsync": 3}, "everysec", "warn", "delayed 3 times"),
        ({**ON, "aof_delayed_fsync": 3}, "always", "ok", "always"),
        ({**ON, "aof_last_write_status": "err"}, "everysec", "fail", "its last write failed"),
    ],
)
def test_it_says_what_a_loss_would_cost(info: dict[str, Any], fsync: str | None, level: str, says: str) -> None:
    check = _durability(info, fsync)
    assert check.level == level
    assert says in check.found
    assert bool(check.fix) == (level != "ok")


ONLINE = {"ip": "10.0.0.2", "port": 6379, "state": "online", "lag": 0}
GUARDED = {"role": "master", "connected_slaves": 1, "slave0": ONLINE, "min_slaves_good_slaves": 1}
UNGUARDED = {name: value for name, value in GUARDED.items() if name != "min_slaves_good_slaves"}


@pytest.mark.parametrize(
    ("info", "durability", "by_sentinel", "level", "says"),
    [
        ({"role": "master", "connected_slaves": 0}, "primary", False, "ok", "none"),
        ({"role": "master", "connected_slaves": 0}, "primary", True, "warn", "nothing to promote"),
        ({"role": "master", "connected_slaves": 0}, "replicated", False, "fail", "waits for 1"),
        (GUARDED, "replicated", True, "ok", "1 in step"),
        (GUARDED, "replicated(2)", True, "fail", "1, and the fleet's durability waits for 2"),
        (UNGUARDED, "primary", True, "warn", "goes on accepting writes"),
        ({**GUARDED, "slave0": {**ONLINE, "lag": 30}}, "primary", True, "warn", "10.0.0.2:6379 was last heard of 30 s"),
        ({**GUARDED, "slave0": {**ONLINE, "state": "wait_bgsave"}}, "primary", True, "warn", "isn't in step"),
        ({"role": "slave", "master_host": "10.0.0.1", "master_port": 6379}, "primary", False, "fail", "replica of 10"),
    ],
)
def test_it_says_what_is_wrong_with_replicas(
    info: dict[str, Any], durability: str, by_sentinel: bool, level: str, says: str
) -> None:
    check = check_replicas(info, Replication.parse(durability), by_sentinel=by_sentinel)
    assert check.level == level
    assert says in check.found
    assert bool(check.fix) == (level != "ok")


def test_it_says_which_features_a_rabbitmq_lacks() -> None:
    assert check_rabbitmq_features("RabbitMQ 3.10.8", ()) is None
    check = check_rabbitmq_features("LavinMQ 2.0", ("basic.nack",))
    assert check is not None
    assert (check.level, check.found.startswith("LavinMQ 2.0 lacks basic.nack")) == ("fail", True)

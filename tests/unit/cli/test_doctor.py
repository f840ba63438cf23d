"""``doctor``: what it says of the log of the server's changes, of replicas, and of a broker's features."""

from __future__ import annotations

from typing import Any, cast

import pytest

from snakepit_bridge.cli.doctor import _durability
from snakepit_bridge.cli.replication_checks import check_fsync, check_rabbitmq_features, check_replicas
from snakepit_bridge.exceptions import ConfigurationError
from snakepit_bridge.redis.durable_writes import fsync_problem
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


class Disk:
    """Stands for a Redis that knows how to wait for its disk, or answers with an error."""

    def __init__(self, answer: str) -> None:
        self._answer = answer
        self.durable = self

    async def check(self, replication: Replication) -> None:
        if self._answer:
            raise ConfigurationError(fsync_problem(self._answer, "redis://cache:6379/0"))


@pytest.mark.parametrize(
    ("durability", "appendfsync", "answer", "level", "says"),
    [
        ("fsynced", "everysec", "unknown command 'WAITAOF'", "fail", "older than Redis 7.2"),
        ("fsynced", "everysec", "appendonly is disabled", "fail", "Set appendonly yes there"),
        ("fsynced", "no", "", "fail", "never says what is on disk"),
        ("fsynced(0, 1)", "everysec", "", "warn", "the disk may take 2 s"),
        ("fsynced(0, 1)", "always", "", "ok", "by WAITAOF"),
        ("fsynced", None, "", "ok", "by WAITAOF"),
    ],
)
async def test_it_says_why_a_write_can_not_wait_for_the_disk(
    durability: str, appendfsync: str | None, answer: str, level: str, says: str
) -> None:
    check = await check_fsync(cast(Any, Disk(answer)), Replication.parse(durability), appendfsync)
    assert check is not None
    assert (check.level, bool(check.fix)) == (level, level != "ok")
    assert says in check.found
    assert await check_fsync(cast(Any, Disk("away")), Replication.parse("replicated"), appendfsync) is None

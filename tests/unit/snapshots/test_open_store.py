"""Stores by URL."""

from __future__ import annotations

from collections import OrderedDict

import pytest

from snakepit_bridge.exceptions import ConfigurationError, ValidationError
from snakepit_bridge.snapshots import MemoryStore, RedisStore, open_store
from snakepit_bridge.snapshots.records import check_changes
from snakepit_bridge.variables import Variable


def test_a_process_has_one_memory_store() -> None:
    assert isinstance(open_store("memory://"), MemoryStore)
    assert open_store("memory://") is open_store("memory://")


@pytest.mark.parametrize(
    "url", ["redis://h", "rediss://h", "unix:///s", "redis+socket:///s", "valkey://h", "valkeys://h"]
)
def test_a_redis_url_opens_a_redis_store_without_connecting(url: str) -> None:
    assert repr(open_store(url, namespace="other")) == f"RedisStore({url!r}, namespace='other')"
    assert isinstance(open_store(url), RedisStore)


@pytest.mark.parametrize("url", ["", "redis", "http://u:s3cret@h", "memory"])
def test_any_other_url_is_rejected_with_the_supported_schemes(url: str) -> None:
    with pytest.raises(ConfigurationError, match="memory:// or one of redis, rediss, unix") as raised:
        open_store(url)
    assert "s3cret" not in str(raised.value)


def test_changes_are_checked_before_anything_is_sent() -> None:
    changes = OrderedDict(a=Variable.declare("a", 1), b=None)
    assert check_changes(changes) is changes
    with pytest.raises(ValidationError, match="under its own name"):
        check_changes({"x": Variable.declare("a", 1)})

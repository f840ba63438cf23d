"""Stores by URL."""

from __future__ import annotations

from collections import OrderedDict

import pytest

from snakepit_bridge import snapshots
from snakepit_bridge.exceptions import ConfigurationError, ValidationError
from snakepit_bridge.session_context import SessionContext
from snakepit_bridge.snapshots import MemoryStore, RedisStore, open_store, register_store_scheme
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


def test_a_registered_scheme_opens_the_users_own_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "_openers", {})
    opened: list[tuple[str, dict[str, object]]] = []

    def opener(url: str, **options: object) -> MemoryStore:
        opened.append((url, options))
        return MemoryStore()

    register_store_scheme("mine", opener)
    register_store_scheme("mine", opener)  # as when a module is imported again
    assert SessionContext("s", "mine://here").store is not open_store("memory://")
    open_store("mine://there", namespace="other")
    assert opened == [("mine://here", {}), ("mine://there", {"namespace": "other"})]
    with pytest.raises(ConfigurationError, match=", mine"):
        open_store("yours://here")


@pytest.mark.parametrize("scheme", ["memory", "redis", "mine", "", "My Store", "mine://"])
def test_a_scheme_that_is_taken_or_malformed_is_refused(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "_openers", {"mine": MemoryStore})
    with pytest.raises(ValueError, match="scheme"):
        register_store_scheme(scheme, RedisStore)


def test_changes_are_checked_before_anything_is_sent() -> None:
    changes = OrderedDict(a=Variable.declare("a", 1), b=None)
    assert check_changes(changes) is changes
    with pytest.raises(ValidationError, match="under its own name"):
        check_changes({"x": Variable.declare("a", 1)})

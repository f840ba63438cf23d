"""Storage of sessions: the snapshot store interface, its implementations, and replicas."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Any

from snakepit_bridge.exceptions import ConfigurationError
from snakepit_bridge.redis.urls import SCHEMES, mask_url
from snakepit_bridge.snapshots.checks import Check, CheckFunction, register_check
from snakepit_bridge.snapshots.memory import MemoryStore
from snakepit_bridge.snapshots.records import (
    DEFAULT_REVISIONS,
    LATEST,
    STORE,
    Change,
    Changes,
    Confirmation,
    Head,
    Label,
    Retention,
    RevisionRef,
)
from snakepit_bridge.snapshots.redis_store import RedisStore
from snakepit_bridge.snapshots.store import SnapshotStore
from snakepit_bridge.snapshots.watch import Moves, Watch

__all__ = [
    "LATEST",
    "DEFAULT_REVISIONS",
    "STORE",
    "RevisionRef",
    "Change",
    "Changes",
    "Check",
    "CheckFunction",
    "Head",
    "Label",
    "Confirmation",
    "MemoryStore",
    "Moves",
    "RedisStore",
    "Retention",
    "SnapshotStore",
    "Watch",
    "open_store",
    "register_check",
    "register_store_scheme",
]

StoreOpener = Callable[..., SnapshotStore]
"""Called with the URL and the options of ``open_store``; returns a store that connects on its first use."""

_openers: dict[str, StoreOpener] = {}


def open_store(url: str, **options: Any) -> SnapshotStore:
    """Return the store for a URL; it connects on its first use.

    Args:
        url: ``memory://`` for the one store that this process shares, a Redis URL, or one of a registered scheme.
        options: further arguments of ``RedisStore``, or of the registered opener.

    Raises:
        ConfigurationError: no store supports the URL.
    """
    scheme, separator, _ = url.partition("://")
    opener = _BUILT_IN.get(scheme) or _openers.get(scheme)
    if not separator or opener is None:
        others = ", ".join((*SCHEMES, *_openers))
        raise ConfigurationError(f"No snapshot store at {mask_url(url)}; give memory:// or one of {others}.")
    return opener(url, **options)


def register_store_scheme(scheme: str, opener: StoreOpener) -> None:
    """Register a store of the user's own for URLs ``scheme://…``, in this process.

    Args:
        scheme: such as ``sqlite``.
        opener: returns the store for a URL; a :class:`SnapshotStore` subclass that takes the URL will do.

    Raises:
        ValueError: the scheme is malformed or taken.
    """
    if not _SCHEME.fullmatch(scheme):
        raise ValueError(f"A URL's scheme is lower-case letters, digits, +, - and ., such as sqlite; not {scheme!r}.")
    if scheme in _BUILT_IN or _openers.setdefault(scheme, opener) is not opener:
        raise ValueError(f"There is a store for {scheme}:// already; choose another scheme.")


_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")


@cache
def _shared_memory() -> MemoryStore:
    return MemoryStore()


def _open_memory(_url: str, **_options: Any) -> SnapshotStore:
    return _shared_memory()


_BUILT_IN: dict[str, StoreOpener] = {"memory": _open_memory, **dict.fromkeys(SCHEMES, RedisStore)}

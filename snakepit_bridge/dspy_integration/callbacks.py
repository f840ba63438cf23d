"""Callbacks that run when a sync changes a bound attribute."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self

SyncCallback = Callable[[str, Any, Any], object]
Changes = dict[str, tuple[Any, Any]]


class SyncCallbacks:
    """The callbacks of a module's bindings, each for one attribute or, appended without one, for every attribute.

    A copied module keeps its callbacks. A saved one loses them, as DSPy's modules lose theirs.
    """

    def __init__(self, of: Mapping[str, tuple[SyncCallback, ...]] | None = None) -> None:
        self._by_attribute: dict[str, tuple[SyncCallback, ...]] = dict(of or {})

    def add(self, attribute: str, callback: SyncCallback) -> None:
        """Add a callback, called with (attribute, old, new) whenever the attribute changes."""
        self._by_attribute = {**self._by_attribute, attribute: (*self._by_attribute.get(attribute, ()), callback)}

    def append(self, callback: SyncCallback) -> None:
        """Add a callback for every bound attribute."""
        self.add("", callback)

    def remove(self, attribute: str) -> None:
        """Remove an attribute's callbacks."""
        self._by_attribute = {name: kept for name, kept in self._by_attribute.items() if name != attribute}

    def __len__(self) -> int:
        return sum(map(len, self._by_attribute.values()))

    def notify(self, changes: Changes) -> None:
        """Call every callback, then raise what they raised; the values stay synced."""
        errors: list[Exception] = []
        for name, (old, new) in changes.items():
            for callback in (*self._by_attribute.get(name, ()), *self._by_attribute.get("", ())):
                try:
                    callback(name, old, new)
                except Exception as exc:  # noqa: BLE001  (raised below, after the others have run)
                    errors.append(exc)
        if errors:
            raise errors[0] if len(errors) == 1 else ExceptionGroup("sync callbacks failed", errors)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return type(self)(self._by_attribute)

    def __reduce__(self) -> tuple[type[Self], tuple[()]]:
        return type(self), ()

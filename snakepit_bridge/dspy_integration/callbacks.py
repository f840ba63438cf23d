"""Sync callbacks: who is told when a bound attribute changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self

SyncCallback = Callable[[str, Any, Any], object]
Changes = dict[str, tuple[Any, Any]]


class SyncCallbacks:
    """The callbacks of a module's bindings, each for one attribute or, appended without one, for every attribute.

    A copied module tells the same callbacks. A saved one forgets them, as DSPy's modules do with theirs.
    """

    def __init__(self, of: Mapping[str, tuple[SyncCallback, ...]] | None = None) -> None:
        self._of: dict[str, tuple[SyncCallback, ...]] = dict(of or {})

    def add(self, attribute: str, callback: SyncCallback) -> None:
        """Calls back with (attribute, old, new) whenever the attribute changes."""
        self._of = {**self._of, attribute: (*self._of.get(attribute, ()), callback)}

    def append(self, callback: SyncCallback) -> None:
        """Calls back whenever any bound attribute changes."""
        self.add("", callback)

    def drop(self, attribute: str) -> None:
        """Forgets an attribute's callbacks."""
        self._of = {name: kept for name, kept in self._of.items() if name != attribute}

    def __len__(self) -> int:
        return sum(map(len, self._of.values()))

    def tell(self, changes: Changes) -> None:
        """Calls every callback, then raises what they raised: the values stay taken, the fault doesn't hide."""
        faults: list[Exception] = []
        for name, (old, new) in changes.items():
            for callback in (*self._of.get(name, ()), *self._of.get("", ())):
                try:
                    callback(name, old, new)
                except Exception as fault:  # noqa: BLE001  (raised below, once the others had their turn)
                    faults.append(fault)
        if faults:
            raise faults[0] if len(faults) == 1 else ExceptionGroup("sync callbacks failed", faults)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return type(self)(self._of)

    def __reduce__(self) -> tuple[type[Self], tuple[()]]:
        return type(self), ()

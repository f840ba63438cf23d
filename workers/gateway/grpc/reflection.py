"""What the reflection service looks symbols up in: methods and fields too, which protobuf's own pool doesn't find.

Without it `grpcurl describe SERVICE.METHOD` is told that there is no such symbol.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pool


class SymbolPool:
    """The descriptors of this process, for ``enable_server_reflection``."""

    def __init__(self) -> None:
        self._pool: Any = descriptor_pool.Default()

    def FindFileContainingSymbol(self, symbol: str) -> Any:  # noqa: N802 - the name that the servicer calls
        """Returns the file of a symbol, or of the service or message that it is a part of.

        Raises:
            KeyError: there is none.
        """
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            holder, _, part = symbol.rpartition(".")
            found = self._pool.FindFileContainingSymbol(holder)
            if part not in _part_names(found, holder):
                raise
            return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)


def _part_names(file: Any, holder: str) -> set[str]:
    """Returns the names of a service's methods or a message's fields."""
    name = holder.rpartition(".")[2]
    service, message = file.services_by_name.get(name), file.message_types_by_name.get(name)
    return {*(service.methods_by_name if service else ()), *(message.fields_by_name if message else ())}

"""A descriptor pool for the reflection service that also finds methods and fields.

Protobuf's own pool doesn't, so that ``grpcurl describe SERVICE.METHOD`` would report a missing symbol.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pool


class SymbolPool:
    """The descriptor pool of this process, for ``enable_server_reflection``."""

    def __init__(self) -> None:
        self._pool: Any = descriptor_pool.Default()

    def FindFileContainingSymbol(self, symbol: str) -> Any:  # noqa: N802 - called by this name
        """Return the file of a symbol, or of the service or message that it is a part of.

        Raises:
            KeyError: the symbol is unknown.
        """
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            holder, _, part = symbol.rpartition(".")
            file = self._pool.FindFileContainingSymbol(holder)
            if part not in _part_names(file, holder):
                raise
            return file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)


def _part_names(file: Any, holder: str) -> set[str]:
    """Return the names of a service's methods or a message's fields."""
    name = holder.rpartition(".")[2]
    service, message = file.services_by_name.get(name), file.message_types_by_name.get(name)
    return {*(service.methods_by_name if service else ()), *(message.fields_by_name if message else ())}

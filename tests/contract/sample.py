"""What the tests of the contract share: variables from plain values, and plain values from variables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from snakepit_bridge.snapshots import RevisionRef, SnapshotStore
from snakepit_bridge.variables import Variable

ELIXIR = "elixir.example:50051"


def declared(**values: Any) -> dict[str, Variable | None]:
    return {name: None if value is None else Variable.declare(name, value) for name, value in values.items()}


def plain(variables: Mapping[str, Variable | None]) -> dict[str, Any]:
    return {name: None if variable is None else variable.value for name, variable in variables.items()}


async def state(store: SnapshotStore, session: str = "s", at: RevisionRef = "latest") -> dict[str, Any]:
    return plain((await store.read_at(session, at)).variables)

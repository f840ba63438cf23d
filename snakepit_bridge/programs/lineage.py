"""Where a version of a program comes from, if an optimizer found it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Self

from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.key_names import FleetKeys


@dataclass(frozen=True, slots=True)
class ProgramLineage:
    """Where a version comes from.

    Attributes:
        parent: the program that the optimizer began with, ``NAME:VERSION``.
        optimizer: its class.
        run_id: the optimization.
        metric: what scored predictions.
        trainset, valset: digests of the examples; empty for none.
        score, parent_score: the mean scores of both in the optimization; None for one that wasn't scored.
        predictions: how many the optimization requested.
        usd: what they cost, as decimal text.
        author: who ran it.
        at: when it was registered, in Unix seconds.
    """

    parent: str
    optimizer: str
    run_id: str
    metric: str
    trainset: str
    valset: str = ""
    score: float | None = None
    parent_score: float | None = None
    predictions: int = 0
    usd: str = "0"
    author: str = ""
    at: float = 0.0

    def encode(self) -> str:
        """Return its JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def decode(cls, text: str | bytes) -> Self:
        """Decode it; fields of a later version are ignored."""
        found: dict[str, Any] = json.loads(text)
        return cls(**{name: value for name, value in found.items() if name in cls.__dataclass_fields__})


async def store_lineage(
    connection: RedisConnection, keys: FleetKeys, name: str, version: int, found: ProgramLineage
) -> None:
    """Store where a version comes from.

    Raises:
        StoreUnavailableError: Redis can't be reached.
    """
    await connection.execute("HSET", keys.program_lineage(name), str(version), found.encode())


async def read_lineage(connection: RedisConnection, keys: FleetKeys, name: str, version: int) -> ProgramLineage | None:
    """Return where a version comes from; None if no optimizer found it.

    Raises:
        StoreUnavailableError: Redis can't be reached.
    """
    found = await connection.execute_read("HGET", keys.program_lineage(name), str(version))
    return None if found is None else ProgramLineage.decode(found)

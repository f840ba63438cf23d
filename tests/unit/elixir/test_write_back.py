"""Write-back's wait: the token that a caller gets is of a revision that includes the change."""

from __future__ import annotations

from collections.abc import Iterable

from snakepit_bridge.elixir.write_back import ElixirAuthority
from snakepit_bridge.snapshots import Changes, MemoryStore
from snakepit_bridge.snapshots.records import Head
from snakepit_bridge.testing.elixir.server import BridgeServer
from snakepit_bridge.variables import Variable


class MovingStore(MemoryStore):
    """A store whose refresher publishes the next changes right after each look at the heads."""

    def __init__(self, *upcoming: Changes) -> None:
        super().__init__()
        self._upcoming = list(upcoming)

    async def heads(self, sessions: Iterable[str]) -> dict[str, Head]:
        found = await super().heads(sessions)
        if self._upcoming:
            await self.publish("s", self._upcoming.pop(0), publisher="elixir")
        return found


async def test_the_token_includes_the_change_although_the_session_moved_on_between_head_and_snapshot() -> None:
    store = MovingStore({"style": Variable.declare("style", "newer")}, {"style": None})
    await store.publish("s", {"style": Variable.declare("style", "kind")}, publisher="elixir")
    with BridgeServer() as elixir:
        elixir.begin("s")
        elixir.register("s", "style", "string", "newer")
        authority = ElixirAuthority(elixir.address, store)
        token = await authority.change("s", ["style"], lambda _: {"style": None})
        await authority.aclose()

    assert "style" not in (await store.read_at("s", token)).variables

"""Follow the events of a target: by the announcements of its store where there are any, and by polling."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack

from snakepit_bridge.exceptions import StoreUnavailableError
from snakepit_bridge.releases.targets import RolloutTarget
from snakepit_bridge.rollouts.events import RolloutEvent
from snakepit_bridge.snapshots import SnapshotStore

_POLL_INTERVAL_S = 1.0
_PATIENCE_S = 30.0
_RECONNECT_DELAY_S = 0.1


async def watch_events(target: RolloutTarget, store: SnapshotStore, after: str = "") -> AsyncGenerator[RolloutEvent]:
    """Yield a target's events and then each new one, each once and in order.

    It survives lost announcements, and outages of half a minute.

    Args:
        target: what is staged.
        store: announces the steps of sessions.
        after: the position of an event: only those behind it are yielded.

    Raises:
        BridgeError: the events can't be read, or the store stays away.
    """
    reached_at = time.monotonic()
    while True:
        try:
            async with AsyncExitStack() as stack:
                watch = None
                if target.name.kind == "session":
                    watch = await stack.enter_async_context(store.open_watch())
                    await watch.add([target.name.name])
                while True:
                    newer = await target.events(after)
                    reached_at = time.monotonic()
                    for event in newer:
                        after = event.position
                        yield event
                    if not newer:
                        await (asyncio.sleep(_POLL_INTERVAL_S) if watch is None else watch.moves(_POLL_INTERVAL_S))
        except StoreUnavailableError:
            if time.monotonic() - reached_at > _PATIENCE_S:
                raise
            await asyncio.sleep(_RECONNECT_DELAY_S)

"""What moves on a page: fragments that are rendered while somebody watches, once for all viewers of a grant."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable
from contextlib import suppress

from snakepit_bridge.exceptions import BridgeError
from snakepit_bridge.process.aio import cancel_tasks
from workers.gateway.errors import log_failure

_log = logging.getLogger(__name__)

INTERVAL_S = 2.0
"""Seconds between two renderings of a fragment, at the least."""

# What takes long to render is rendered less often, so that a page that is watched takes no more of a core.
_MAX_SHARE, _MAX_INTERVAL_S = 0.02, 6.0

_KEEP_ALIVE_S = 15.0

FeedKey = tuple[Hashable, ...]


class Feed:
    """The newest rendering of one fragment.

    Attributes:
        event: the server-sent event that shows it; empty until it has been rendered.
    """

    def __init__(self) -> None:
        self.event = b""
        self._changed = asyncio.Event()

    def show(self, event: bytes) -> None:
        """Let the viewers have an event, if it differs from what they have."""
        if event != self.event:
            self.event = event
            self._changed.set()
            self._changed = asyncio.Event()

    async def wait_for_change(self, timeout_s: float) -> bool:
        """Wait for another event, and return whether one came in time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                return await self._changed.wait()
        return False


class LiveFeeds:
    """The feeds that somebody watches; each has one poller, however many watch it.

    Args:
        interval_s: seconds between two renderings.
    """

    def __init__(self, interval_s: float = INTERVAL_S) -> None:
        self._interval_s = interval_s
        self._feeds: dict[FeedKey, tuple[Feed, asyncio.Task[None], int]] = {}

    async def events(
        self, key: FeedKey, render: Callable[[], Awaitable[str]], stop: asyncio.Event
    ) -> AsyncGenerator[bytes]:
        """Yield a feed's newest event now and whenever it changes, and comments meanwhile, until ``stop`` is set.

        Args:
            key: what tells the feed from others.
            render: renders the fragment.
            stop: set when the gateway shuts down.
        """
        feed = self._enter(key, render)
        try:
            shown = b""
            while not stop.is_set():
                if feed.event != shown:
                    shown = feed.event
                    yield shown
                elif not await feed.wait_for_change(min(_KEEP_ALIVE_S, self._interval_s)):
                    yield b":\n\n"
        finally:
            await self._leave(key)

    def _enter(self, key: FeedKey, render: Callable[[], Awaitable[str]]) -> Feed:
        if key in self._feeds:
            feed, poller, viewers = self._feeds[key]
        else:
            feed, viewers = Feed(), 0
            poller = asyncio.create_task(self._poll(feed, render), name=f"dspex-console-{key[0]}")
        self._feeds[key] = feed, poller, viewers + 1
        return feed

    async def _leave(self, key: FeedKey) -> None:
        feed, poller, viewers = self._feeds[key]
        if viewers > 1:
            self._feeds[key] = feed, poller, viewers - 1
            return
        del self._feeds[key]
        await cancel_tasks(poller)

    async def _poll(self, feed: Feed, render: Callable[[], Awaitable[str]]) -> None:
        while True:
            began = time.monotonic()
            try:
                feed.show(encode_event("fragment", await render()))
            except BridgeError as exc:  # Redis is away, or a limit is exceeded: viewers are told, and it may pass
                feed.show(encode_event("problem", str(exc)))
            except Exception as exc:  # noqa: BLE001 - logged, and the page says that it isn't up to date
                log_failure(exc, "the console's live page")
                feed.show(encode_event("problem", "The gateway failed; see its log."))
            await asyncio.sleep(self._rest_s(time.monotonic() - began))

    def _rest_s(self, took_s: float) -> float:
        """Return how long to rest after a rendering that took so long."""
        return max(self._interval_s, min(took_s / _MAX_SHARE, _MAX_INTERVAL_S))


def encode_event(kind: str, text: str) -> bytes:
    """Return a server-sent event.

    Args:
        kind: ``fragment``, or ``problem`` where there is none.
        text: what it carries.
    """
    lines = "".join(f"data: {line}\n" for line in text.splitlines())
    return f"event: {kind}\n{lines}\n".encode()

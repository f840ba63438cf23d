"""A client for plain Celery that waits for thousands of results at once, so that no peer is held up by its client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from uuid import uuid4

from celery import Celery
from redis.asyncio import Redis

_CHANNEL = "celery-task-meta-"


class PlainClient:
    """Sends tasks of one app and awaits their results: one subscription, a future for each task."""

    def __init__(self, url: str, queue: str) -> None:
        self._queue = queue
        self._app = Celery("plain-client", broker=url, set_as_current=False)
        self._waiting: dict[str, asyncio.Future[None]] = {}

    async def predict(self, number: int) -> None:
        """Send one question and return when it is answered."""
        task_id = str(uuid4())
        done = self._waiting[task_id] = asyncio.get_running_loop().create_future()
        self._app.send_task("plain.predict", (f"What is {number} + 1?",), task_id=task_id, queue=self._queue)
        await done

    async def listen(self, redis: Redis, subscribed: asyncio.Event) -> None:
        """Hear of results until it is cancelled; the event is set once none can be missed."""
        async with redis.pubsub() as heard:
            await heard.psubscribe(f"{_CHANNEL}*")
            async for message in heard.listen():
                if message["type"] == "psubscribe":
                    subscribed.set()
                elif message["type"] == "pmessage":
                    task_id = message["channel"].decode().removeprefix(_CHANNEL)
                    if waiting := self._waiting.pop(task_id, None):
                        waiting.set_result(None)


@asynccontextmanager
async def plain_client(url: str, queue: str) -> AsyncGenerator[PlainClient]:
    """Give a client that sends to a queue and listens; what ends its listening ends the block."""
    client, subscribed = PlainClient(url, queue), asyncio.Event()
    async with Redis.from_url(url, socket_timeout=None) as redis, asyncio.TaskGroup() as tasks:
        listening = tasks.create_task(client.listen(redis, subscribed))
        try:
            await subscribed.wait()
            yield client
        finally:
            listening.cancel()

"""Celery's Redis backend, which commits a task's end once: the first final result counts, whatever comes after it.

Stock Celery lets a prediction that was cancelled while it ran overwrite its cancellation, and reads before each write
to find out whether there is a result already. Here one script looks and writes. Results on the wire are the stock ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, cast

from celery.backends.redis import RedisBackend
from celery.exceptions import BackendStoreError, Reject
from celery.states import EXCEPTION_STATES, FAILURE, READY_STATES

from snakepit_bridge.client.lua import ENDED
from snakepit_bridge.exceptions import StoreUnavailableError
from snakepit_bridge.loop import can_switch_out, run_blocking
from snakepit_bridge.messages import REPLY_CHANNEL
from snakepit_bridge.redaction import redact_all
from snakepit_bridge.scripts import source
from snakepit_bridge.stores.connection import Script
from tasks.runtime import HasRuntime

_COMMIT = Script(source("workers", "commit", ended=ENDED))
# How long an end is tried to be stored before its task is given to others: seconds between the tries.
_TRIES_S = (0.5, 1.0, 2.0, 4.0, 4.0, 4.0)


def _plain_meta(result: Any, state: str, traceback: Any) -> dict[str, Any]:
    """What Celery stores of a task that no request describes, such as an input of a batch, for a tenth of the price."""
    done = datetime.now(UTC).isoformat() if state in READY_STATES else None
    return {"status": state, "result": result, "traceback": traceback, "children": None, "date_done": done}


class CommitBackend(RedisBackend):
    """The backend ``workers.backend:CommitBackend``."""

    def _store_result(
        self, task_id: str, result: Any, state: str, traceback: Any = None, request: Any = None, **_: Any
    ) -> Any:
        replies = str((getattr(request, "headers", None) or {}).get(REPLY_CHANNEL) or "")
        keys, args = self._call(task_id, result, state, traceback, request, replies)
        if can_switch_out():
            run_blocking(self._commit_soon(keys, args))
        else:
            self.ensure(self._commit, (keys, args))
        return result

    async def acommit(
        self,
        task_id: str,
        result: Any,
        state: str,
        *,
        traceback: Any = None,
        request: Any = None,
        reply_channel: str | None = None,
    ) -> bytes | None:
        """Commits a task's end from the home loop; returns the winner's bytes if somebody committed before.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        encoded = self.encode_result(result, state)
        keys, args = self._call(task_id, encoded, state, traceback, request, reply_channel or "")
        return await self._soon(keys, args)

    async def _commit_soon(self, keys: Sequence[Any], args: Sequence[Any]) -> None:
        """Commits among what else is asked in this tick; a task whose end can't be stored goes back to its queue."""
        for pause_s in _TRIES_S:
            try:
                await self._soon(keys, args)
            except StoreUnavailableError:
                await asyncio.sleep(pause_s)
            else:
                return
        try:
            await self._soon(keys, args)
        except StoreUnavailableError as away:
            raise Reject(str(away), requeue=True) from away

    async def _soon(self, keys: Sequence[Any], args: Sequence[Any]) -> bytes | None:
        results = cast(HasRuntime, self.app).runtime.results
        return cast("bytes | None", await results.soon_script(_COMMIT, keys, args))

    def _call(
        self, task_id: str, result: Any, state: str, traceback: Any, request: Any, replies: str
    ) -> tuple[list[Any], list[Any]]:
        """The keys and the arguments with which the script commits this end."""
        if state in EXCEPTION_STATES:
            # Errors of ours are redacted as they are made; what came from elsewhere, and any traceback, is here.
            result, traceback = redact_all(result), redact_all(traceback)
        if request is None:
            meta = _plain_meta(result, state, traceback)
        else:
            meta = self._get_result_meta(result=result, state=state, traceback=traceback, request=request)
        encoded = self.encode({**meta, "task_id": task_id})
        if len(encoded) > self._MAX_STR_VALUE_SIZE:
            raise BackendStoreError("The result is too large for Redis.", state=state, task_id=task_id)
        expires = self.failure_expires if state == FAILURE else None
        return [self.get_key_for_task(task_id)], [encoded, expires or self.expires or 0, replies, task_id]

    def _commit(self, keys: list[Any], args: list[Any]) -> None:
        self._script(keys=keys, args=args)

    @cached_property
    def _script(self) -> Any:
        return self.client.register_script(_COMMIT.text)

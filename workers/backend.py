"""Celery's Redis backend, which commits a task's end once: the first final result counts, whatever comes after it.

Stock Celery lets a prediction that was cancelled while it ran overwrite its cancellation, and reads before each write
to find out whether there is a result already. Here one script looks and writes. Results on the wire are the stock ones.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, cast

from celery.backends.redis import RedisBackend
from celery.exceptions import BackendStoreError
from celery.states import FAILURE

from snakepit_bridge.messages import REPLY_CHANNEL
from tasks.runtime import HasRuntime

# Celery writes a result's status first; a result that somebody else wrote is decoded to find it.
_COMMIT = """
local there = redis.call('GET', KEYS[1])
if there then
  local status = string.match(there, '^{"status": "(%u+)"')
  if not status then
    local read, result = pcall(cjson.decode, there)
    status = read and type(result) == 'table' and result.status
  end
  if status == 'SUCCESS' or status == 'FAILURE' or status == 'REVOKED' then
    return 0
  end
end
if ARGV[2] == '0' then
  redis.call('SET', KEYS[1], ARGV[1])
else
  redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
end
redis.call('PUBLISH', KEYS[1], ARGV[1])
if ARGV[3] ~= '' then
  redis.call('PUBLISH', ARGV[3], ARGV[4])
end
return 1
"""


class CommitBackend(RedisBackend):
    """The backend ``workers.backend:CommitBackend``."""

    def _store_result(
        self, task_id: str, result: Any, state: str, traceback: Any = None, request: Any = None, **_: Any
    ) -> Any:
        replies = str((getattr(request, "headers", None) or {}).get(REPLY_CHANNEL) or "")
        self.ensure(self._commit, self._call(task_id, result, state, traceback, request, replies))
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
        connection = cast(HasRuntime, self.app).runtime.results
        script = connection.client.register_script(_COMMIT)
        if await connection.bounded(script(keys, args)):
            return None
        return cast("bytes | None", await connection.bounded(connection.client.get(keys[0])))

    def _call(
        self, task_id: str, result: Any, state: str, traceback: Any, request: Any, replies: str
    ) -> tuple[list[Any], list[Any]]:
        """The keys and the arguments with which the script commits this end."""
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
        return self.client.register_script(_COMMIT)

"""Celery's Redis result backend with first-write-wins for final results.

With stock Celery, a prediction that was cancelled while it ran overwrites its cancellation, and each write needs a
read before it. Here one script checks and writes. The format of stored results is Celery's.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, cast

from celery.exceptions import BackendStoreError, Reject
from celery.states import EXCEPTION_STATES, FAILURE, SUCCESS
from celery.worker import state as worker
from pydantic_core import PydanticSerializationError, to_json

from config.settings import FleetSettings
from snakepit_bridge.client.lua import FINAL_STATE
from snakepit_bridge.client.sentinel_backend import PrimaryBackend
from snakepit_bridge.costs.hourly_sums import SUMS, EndedPrediction, script_arguments
from snakepit_bridge.costs.usage import LMUsage, sum_usage
from snakepit_bridge.datasets.recorded import RECORD
from snakepit_bridge.encryption.cipher import Cipher
from snakepit_bridge.exceptions import BridgeError, copy_error
from snakepit_bridge.process.home_loop import can_switch_out, run_blocking
from snakepit_bridge.protocol.error_encryption import decrypt_error, encrypt_error
from snakepit_bridge.protocol.messages import DURABILITY, REPLY_CHANNEL, is_final_state, is_result
from snakepit_bridge.redaction import redact_all
from snakepit_bridge.redis.key_names import FleetKeys
from snakepit_bridge.redis.outages import is_transient
from snakepit_bridge.redis.replication import ON_PRIMARY, Replication, read_durability
from snakepit_bridge.redis.scripts import Script, source
from snakepit_bridge.releases.commit_counts import COUNTS, count_arguments, count_failure, count_success
from snakepit_bridge.telemetry import TELEMETRY
from tasks.durability import run_durably
from tasks.preparation import decode_arms
from tasks.recording import commit_arguments
from tasks.runtime import HasRuntime
from tasks.spending import find_spending
from tasks.subject import assume_arms, current_subject
from tasks.telemetry import record_commit
from workers import PACKAGE
from workers.encryption import load_encryption
from workers.task_ends import GUARDED_TASKS, program_reference, to_bridge_error

_COMMIT = Script(source(PACKAGE, "commit", final_state=FINAL_STATE, sums=SUMS, counts=COUNTS, record=RECORD))
# An answer has been paid for: retry storing it for long before the task is requeued.
_MAX_WAIT_S = 600.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 3.0

# What a stored result names of its task's request, and the request's attributes for it.
_LINKS = {"group_id": "group", "parent_id": "parent_id"}

_log = logging.getLogger(__name__)


def _stopping() -> bool:
    """Check whether this worker is shutting down, so that retries must stop."""
    return any(why is not None and why is not False for why in (worker.should_stop, worker.should_terminate))


async def _retry_commit(commit: Callable[[], Awaitable[object]]) -> None:
    """Run a commit, with retries during an outage.

    Raises:
        Reject: it couldn't be stored; the task is requeued.
    """
    pause_s, until = _FIRST_PAUSE_S, time.monotonic() + _MAX_WAIT_S
    while True:
        try:
            await commit()
        except Exception as exc:
            if not is_transient(exc) or time.monotonic() >= until or _stopping():
                await asyncio.sleep(_FIRST_PAUSE_S)  # the task may be redelivered here at once
                raise Reject(str(exc), requeue=True) from exc
        else:
            return
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def _earlier_state(reply: bytes | int | None) -> bytes | None:
    """Return the earlier final state of a commit's reply, if there is one; log sums that couldn't be added to."""
    if isinstance(reply, int):
        _warn_of_lost_costs()
        return None
    return reply


@functools.cache
def _warn_of_lost_costs() -> None:
    """Log once for each process, since each further prediction would."""
    _log.warning(
        "The cost of a prediction isn't in the hourly sums, only in its provenance: a key of theirs has another type, "
        "or a sum would be too large. Look for keys 'NAMESPACE:cost:…' that your application has written."
    )


def _is_guarded(request: Any) -> bool:
    return getattr(request, "task", None) in GUARDED_TASKS


def _encode_plain(meta: Mapping[str, Any]) -> bytes | None:
    """Return a result of JSON values alone as pydantic writes it, in a quarter of the time that kombu takes.

    It is None where pydantic can't write it: nested too deeply, or with half of a surrogate pair.
    """
    try:
        return to_json(meta, inf_nan_mode="constants")
    except PydanticSerializationError:
        return None


def _message_arguments(task_id: str, state: str, *, first_key: int) -> tuple[list[Any], list[Any]]:
    """Return the lists of the messages that the commit script enqueues, and its arguments for them."""
    subject = current_subject.get()
    if subject is None or subject.task_id != task_id or state != SUCCESS:
        return [], [0]
    args: list[Any] = [len(subject.messages)]
    for place, each in enumerate(subject.messages, first_key):
        args += [place, each.message]
    return [each.key for each in subject.messages], args


class CommitBackend(PrimaryBackend):
    """The backend ``workers.result_backend:CommitBackend``."""

    def store_result(
        self, task_id: str, result: Any, state: str, traceback: Any = None, request: Any = None, **kwargs: Any
    ) -> Any:
        """Store a task's state; errors of predictions are converted to bridge errors."""
        if isinstance(result, BaseException) and state == FAILURE and _is_guarded(request):
            result = to_bridge_error(result, program_reference(request.headers or {}, request.args or ()))
        return super().store_result(task_id, result, state, traceback=traceback, request=request, **kwargs)

    def encode_result(self, result: Any, state: str) -> Any:
        """Encode a result, with secrets redacted if it is an error."""
        encoded = super().encode_result(result, state)
        return redact_all(encoded) if state in EXCEPTION_STATES else encoded

    def chord_error_from_stack(self, callback: Any, exc: BaseException | None = None) -> Any:
        """Fail a chord's body with the bridge error of the part that failed, not with Celery's ``ChordError``."""
        handled = sys.exc_info()[1]
        around = (exc, getattr(exc, "__cause__", None), handled, getattr(handled, "__cause__", None))
        named = next((each for each in around if isinstance(each, BridgeError)), None)
        return super().chord_error_from_stack(callback, exc=exc if named is None else copy_error(named))

    def _store_result(
        self, task_id: str, result: Any, state: str, traceback: Any = None, request: Any = None, **_: Any
    ) -> Any:
        headers: Mapping[str, Any] = getattr(request, "headers", None) or {}
        replies = str(headers.get(REPLY_CHANNEL) or "")
        call = task_id, result, state, traceback, request, replies
        if can_switch_out() or cast(Any, self.app).slot.built:
            keys, args = self._script_arguments(*call)
            durability = read_durability(headers) if DURABILITY in headers and is_final_state(state) else ON_PRIMARY
            commit = functools.partial(self._commit_pipelined, task_id, keys, args, state, result, durability)
            run_blocking(_retry_commit(commit))
        else:
            # A prefork parent has no event loop.
            self.ensure(self._commit_from_outside, call)
        return result

    def _commit_from_outside(self, task_id: str, *call: Any) -> Any:
        """Commit what ends without its own process, for the arms that it is kept to run under."""
        arms = decode_arms(self.client.get(self._fleet_keys.prediction_arms(task_id)))
        with assume_arms(task_id, arms):
            return self._commit(*self._script_arguments(task_id, *call, has_journal=True))

    def commit_now(
        self,
        task_id: str,
        result: Any,
        state: str,
        *,
        reply_channel: str = "",
        headers: Mapping[str, Any] | None = None,
    ) -> None:
        """Commit a task's final state from any thread, without retries.

        Args:
            task_id: the task.
            result: its result, or its error.
            state: Celery's state.
            reply_channel: the channel on which its client is notified.
            headers: of its message, to record its end.

        Raises:
            RedisError, OSError: Redis is unreachable.
        """
        encoded = self.encode_result(result, state)
        if self._commit_from_outside(task_id, encoded, state, None, None, reply_channel) is None:
            record_commit(task_id, state, encoded, headers or {})

    async def acommit(
        self,
        task_id: str,
        result: Any,
        state: str,
        *,
        traceback: Any = None,
        request: Any = None,
        reply_channel: str | None = None,
        durability: Replication = ON_PRIMARY,
    ) -> bytes | None:
        """Commit a task's final state from the home loop; return an earlier final state's bytes if there is one.

        Raises:
            StoreUnavailableError: Redis is unreachable, or hasn't confirmed the commit as ``durability`` wants it.
        """
        encoded = self.encode_result(result, state)
        keys, args = self._script_arguments(task_id, encoded, state, traceback, request, reply_channel or "")
        return await self._commit_pipelined(task_id, keys, args, state, encoded, durability)

    async def _commit_pipelined(
        self,
        task_id: str,
        keys: Sequence[Any],
        args: Sequence[Any],
        state: str,
        encoded: Any,
        durability: Replication = ON_PRIMARY,
    ) -> bytes | None:
        runtime = cast(HasRuntime, self.app).runtime
        with TELEMETRY.tracer.span("commit"):
            if durability.waits:
                reply = await run_durably(runtime, _COMMIT, keys, args, durability)
            else:
                reply = await runtime.results.execute_script(_COMMIT, keys, args)
            earlier = _earlier_state(reply)
        if earlier is None:
            record_commit(task_id, state, encoded)
        return earlier

    def _script_arguments(
        self,
        task_id: str,
        result: Any,
        state: str,
        traceback: Any,
        request: Any,
        replies: str,
        *,
        has_journal: bool = False,
    ) -> tuple[list[Any], list[Any]]:
        """Return the keys and arguments of the commit script."""
        if state in EXCEPTION_STATES:
            traceback = redact_all(traceback)
            if self._cipher.is_on:
                result, traceback = encrypt_error(self._cipher, task_id, result, traceback)
        meta = {**self._result_meta(result, state, traceback, request), "task_id": task_id}
        encoded = _encode_plain(meta) if state == SUCCESS and is_result(result) else None
        encoded = self.encode(meta) if encoded is None else encoded
        if len(encoded) > self._MAX_STR_VALUE_SIZE:
            raise BackendStoreError("The result is too large for Redis.", state=state, task_id=task_id)
        expires = self.failure_expires if state == FAILURE else None
        lists, messages = _message_arguments(task_id, state, first_key=2)
        counted, counts = self._count_arguments(task_id, state, result, first_key=2 + len(lists))
        recorded, record = commit_arguments(self._fleet_keys, task_id, state, first_key=2 + len(lists) + len(counted))
        first_sum = 2 + len(lists) + len(counted) + len(recorded)
        summed, sums = self._cost_arguments(task_id, state, first_key=first_sum)
        journal = self._journal_keys(task_id, state, may_exist=has_journal)
        captured, calls = self._captured_calls(task_id, state)
        keys = [self.get_key_for_task(task_id), *lists, *counted, *recorded, *summed, *captured, *journal]
        kept_s = expires or self.expires or 0
        places = [len(keys) if journal else 0, len(keys) - len(journal) if captured else 0]
        return keys, [encoded, kept_s, replies, task_id, *places, calls, *messages, *counts, *record, *sums]

    def _captured_calls(self, task_id: str, state: str) -> tuple[list[str], bytes]:
        """Return the key and the value of the LM calls that are kept with a prediction's end, if they are captured."""
        subject = current_subject.get()
        if subject is None or subject.task_id != task_id or subject.capture is None or not is_final_state(state):
            return [], b""
        return [self._fleet_keys.prediction_lm_calls(task_id)], subject.capture.encode()

    def _journal_keys(self, task_id: str, state: str, *, may_exist: bool) -> list[str]:
        """Return the key of the journal that ends with a prediction, if there is one."""
        if not is_final_state(state):
            return []
        subject = current_subject.get()
        if subject is None or subject.task_id != task_id or subject.journal is None:
            return [self._fleet_keys.prediction_journal(task_id)] if may_exist else []
        key = subject.journal.close()
        return [key] if key else []

    def _result_meta(self, result: Any, state: str, traceback: Any, request: Any) -> dict[str, Any]:
        """Return a result in Celery's format, at a tenth of the cost of Celery's function where it adds nothing."""
        if request is not None and self._extends_results:
            return self._get_result_meta(result=result, state=state, traceback=traceback, request=request)
        done = datetime.now(UTC).isoformat() if is_final_state(state) else None
        meta = {"status": state, "result": result, "traceback": traceback, "children": None, "date_done": done}
        if request is not None:
            meta["children"] = self.current_task_children(request)
            meta |= {name: value for name in _LINKS if (value := getattr(request, _LINKS[name], None))}
        return meta

    @cached_property
    def _extends_results(self) -> bool:
        return bool(cast(Any, self.app).conf.find_value_for_key("extended", "result"))

    def _count_arguments(self, task_id: str, state: str, result: Any, *, first_key: int) -> tuple[list[Any], list[Any]]:
        """Return what the commit script adds to the counts of arms, and their keys."""
        subject, spending = current_subject.get(), find_spending(task_id)
        is_assigned = subject is not None and subject.task_id == task_id and subject.arms
        if subject is None or not is_assigned or not is_final_state(state):
            return [], [0, 0]
        usage = LMUsage() if spending is None else sum_usage(spending.close().values())
        provenance = subject.provenance
        if state == SUCCESS and provenance is not None:
            counts = count_success(
                usage, provenance.timings.run_ms, is_cached=bool(provenance.cached or provenance.shared)
            )
        else:
            counts = count_failure(usage, str(result.get("exc_type") or "") if isinstance(result, dict) else "")
        return count_arguments(self._fleet_keys, subject.arms, counts, now_s=time.time(), first_key=first_key)

    def _cost_arguments(self, task_id: str, state: str, *, first_key: int) -> tuple[list[Any], list[Any]]:
        """Return what the commit script adds to the sums of costs, and their keys; nothing for what isn't an end."""
        spending, days = find_spending(task_id), self._settings.cost_days
        if spending is None or not spending.program or not days or not is_final_state(state):
            return [], []
        ended = EndedPrediction(spending.program, spending.session, spending.token, state != SUCCESS, spending.close())
        return script_arguments(self._fleet_keys, ended, now_s=time.time(), days=days, first_key=first_key)

    def meta_from_decoded(self, meta: Any) -> Any:
        """Decode a stored result as Celery does, with its error decrypted."""
        if isinstance(meta, dict) and meta.get("status") in EXCEPTION_STATES:
            found = cast("dict[str, Any]", meta)
            meta = {**found, "result": decrypt_error(self._cipher, str(found.get("task_id")), found.get("result"))}
        return super().meta_from_decoded(meta)

    @cached_property
    def _cipher(self) -> Cipher:
        return load_encryption(self._settings).cipher(self._settings.namespace)

    @cached_property
    def _settings(self) -> FleetSettings:
        return cast(Any, self.app).settings

    @cached_property
    def _fleet_keys(self) -> FleetKeys:
        return FleetKeys(self._settings.namespace)

    def _commit(self, keys: list[Any], args: list[Any]) -> Any:
        return _earlier_state(self._script(keys=keys, args=args))

    @cached_property
    def _script(self) -> Any:
        return self.client.register_script(_COMMIT.text)

"""The journal of one prediction: its calls that were answered aren't made again if it is run again.

A call is known by the digest of its request, and equal calls of one run by their number, since they are
interchangeable. So the order of concurrent calls doesn't matter, and a program that asks something else this time is
answered by the provider from there on: what follows from another answer has another digest.

An answer is written together with the next call of the prediction, before that call is made, or a few milliseconds
later if none follows. What the result's commit follows at once is never written.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dspy.lm15 import Response

from snakepit_bridge.costs.usage import LMUsage
from snakepit_bridge.exceptions import StoreUnavailableError
from snakepit_bridge.lm.engine import LMCall
from snakepit_bridge.lm_batches.records import BatchReply
from snakepit_bridge.process.aio import OutageLog
from snakepit_bridge.redis.outages import MAX_WAIT_S, retry_through_outages
from tasks.journal.entries import LMAnswer, decode_result, digest_call, digest_tool_call, encode_result
from tasks.journal.store import JournalStore

# How long an answer may stay unwritten: the commit of a result mostly follows the last answer by less.
_WRITE_DELAY_S = 0.01
# Bounds of one entry and of a prediction's whole journal; what exceeds them isn't recorded.
MAX_ENTRY_BYTES = 1 << 22
MAX_JOURNAL_BYTES = 1 << 25

_LM, _TOOL = "lm", "tool"
BATCH = "batch"
"""The prefix of entries that a batch has answered, and that no run of the prediction has taken yet."""

_log = logging.getLogger(__name__)
_outage = OutageLog(_log, "Answers of LMs aren't recorded, so that a prediction that is run again asks again")


@dataclass(frozen=True, slots=True)
class _Unwritten:
    """An answer whose digest is computed once it is written."""

    call: LMCall
    answer: LMAnswer


@dataclass(frozen=True, slots=True)
class FoundResult:
    """What the journal has of one call of a tool.

    Attributes:
        digest: of the call, and ``number`` its place among equal calls of the run.
        is_recorded: whether it has a result, which is ``value``.
    """

    digest: str
    number: int
    is_recorded: bool = False
    value: Any = None


class CallJournal:
    """What the calls of one prediction were answered, in this delivery and in earlier ones. Lives on the home loop.

    Args:
        store: the journals in Redis.
        task_id: the prediction's task.
        attempt: the attempt of its task.
        found: the entries of earlier deliveries.
        patience_s: seconds for which a call waits for Redis to take the answer before it.
        counts_calls: whether equal calls are told apart by their number, as batches need it.

    Attributes:
        attempt: the attempt of its task.
        replayed: LM calls of this run that were answered from the journal, and ``replayed_tools`` calls of tools.
    """

    def __init__(
        self,
        store: JournalStore,
        task_id: str,
        *,
        attempt: int = 1,
        found: Mapping[str, bytes] | None = None,
        patience_s: float = MAX_WAIT_S,
        counts_calls: bool = False,
    ) -> None:
        self._store = store
        self._task_id = task_id
        self._patience_s = patience_s
        self._entries = dict(found or {})
        self._bytes = sum(map(len, self._entries.values()))
        self._next: Counter[str] = Counter()
        self._tool_calls: Counter[str] = Counter()
        self._calls: Counter[str] = Counter()
        self._found = self._replayable = frozenset(self._entries)
        self._replayed: set[str] = set()
        self._answered: list[_Unwritten] = []
        self._known: list[Response] = []
        self._unwritten: dict[str, bytes] = {}
        self._writes: set[asyncio.Future[Any]] = set()
        self._failure: BaseException | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_stored = bool(self._entries)
        self._is_closed = False
        self._had_outage = False
        self.attempt = attempt
        self.counts_calls = counts_calls
        self.replayed = self.replayed_tools = 0

    def count_call(self, call: LMCall) -> int:
        """Return how many equal LM calls this run has made before, answered ones included."""
        digest = digest_call(call)
        number = self._calls[digest]
        self._calls[digest] += 1
        return number

    def find_reply(self, request_id: str) -> BatchReply | None:
        """Return the reply that a batch had for a request; None if none had it yet."""
        encoded = self._entries.get(f"{BATCH}:{request_id}")
        return None if encoded is None else BatchReply(request_id, **json.loads(encoded))

    @property
    def waves(self) -> int:
        """How many replies of batches it has: a run of its prediction that comes later has more."""
        return sum(name.startswith(f"{BATCH}:") for name in self._found)

    @property
    def may_have_changed(self) -> bool:
        """Whether the message may have been given to another worker: Redis was away for a while."""
        return self._had_outage

    async def find_news(self, call: LMCall) -> LMAnswer | None:
        """Return what another worker has recorded of an LM call since, if the message may have been given to it."""
        try:
            stored = await self._store.load(self._task_id)
        except StoreUnavailableError as exc:
            _outage.failed(exc)
            return None
        news = {name: entry for name, entry in stored.items() if name not in self._entries}
        self._entries |= news
        self._replayable |= news.keys()
        answer = self.find_answer(call)
        if answer is not None:
            self._known.append(answer.response)
        return answer

    @property
    def unused(self) -> int:
        """How many answers of earlier deliveries this run hasn't needed."""
        return sum(not name.startswith(f"{BATCH}:") for name in self._found - self._replayed)

    def begin_run(self) -> None:
        """Begin a run of the program: its calls are compared with the recorded ones from the first on."""
        self._encode_answered()
        self._replayable = frozenset(self._entries)
        self._next.clear()
        self._tool_calls.clear()
        self._calls.clear()
        self._replayed.clear()
        self.replayed = self.replayed_tools = 0

    def earlier_usage(self) -> Mapping[str, LMUsage]:
        """Return what this attempt's earlier deliveries used, by LM profile: their worker died, and counted nothing."""
        total: dict[str, LMUsage] = {}
        for name in self._found:
            answer = self._decode(name) if name.startswith(f"{_LM}:") else None
            if answer is not None and answer.attempt == self.attempt:
                for profile, usage in answer.usage.items():
                    total[profile] = total.get(profile, LMUsage()) + usage
        return total

    def find_answer(self, call: LMCall) -> LMAnswer | None:
        """Return what an LM call was answered; None if it has to be made."""
        if not self._replayable:
            return None
        digest = f"{_LM}:{digest_call(call)}"
        name = f"{digest}:{self._next[digest]}"
        answer = self._decode(name) if name in self._replayable else None
        if answer is None:
            return None
        self._next[digest] += 1
        self._replayed.add(name)
        self.replayed += 1
        return answer

    def record_answer(self, call: LMCall, response: Response, usage: Mapping[str, LMUsage]) -> None:
        """Record what an LM call was answered, in a moment or with the next call."""
        if self._is_closed or any(response is known for known in self._known):
            return
        self._answered.append(_Unwritten(call, LMAnswer(response, dict(usage), self.attempt)))
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_WRITE_DELAY_S, self.flush)

    def find_result(self, tool: str, arguments: Mapping[str, Any]) -> FoundResult:
        """Return what is recorded of a tool's call.

        A call that failed isn't recorded, so that an equal one behind it takes its place when the program runs again.
        """
        digest = f"{_TOOL}:{digest_tool_call(tool, arguments)}"
        number = self._tool_calls[digest]
        self._tool_calls[digest] += 1
        name = f"{digest}:{self._next[digest]}"
        if name not in self._replayable:
            return FoundResult(digest, number)
        self._next[digest] += 1
        self._replayed.add(name)
        self.replayed_tools += 1
        return FoundResult(digest, number, is_recorded=True, value=decode_result(self._entries[name]))

    def record_result(self, found: FoundResult, result: Any) -> None:
        """Record what a tool returned; log that it isn't JSON."""
        try:
            encoded = encode_result(result, len(self._entries))
        except (TypeError, ValueError) as exc:
            _log.warning("The result of a tool of prediction %s isn't recorded: %s", self._task_id, exc)
            return
        if not self._is_closed:
            self._add(found.digest, encoded)

    # ------------------------------------------------------------------ writing

    def flush(self) -> None:
        """Write what is recorded with the commands of this moment, without waiting for it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._encode_answered()
        if not self._unwritten or self._is_closed:
            return
        entries, self._unwritten = self._unwritten, {}
        self._is_stored = True
        write = asyncio.ensure_future(self._store.add(self._task_id, entries))
        self._writes.add(write)
        write.add_done_callback(lambda ended: self._end_write(ended, entries))

    def _end_write(self, write: asyncio.Future[Any], entries: Mapping[str, bytes]) -> None:
        self._writes.discard(write)
        self._failure = None if write.cancelled() else write.exception()
        self._had_outage |= self._failure is not None
        if write.cancelled() or self._failure is not None:
            self._unwritten = {**entries, **self._unwritten}

    async def wait_written(self, deadline: float | None) -> None:
        """Wait until everything that is recorded is written, so that nothing that is built on it can be lost.

        A call goes on without that if Redis stays away for too long, or rejects it.

        Args:
            deadline: Unix seconds of the prediction's deadline.
        """
        if not (self._answered or self._unwritten or self._writes):
            return
        try:
            await retry_through_outages(self._write_all, deadline=deadline, patience_s=self._patience_s)
        except Exception as exc:  # noqa: BLE001 - a record must not cost an answer
            _outage.failed(exc)
        else:
            _outage.recovered()

    async def _write_all(self) -> None:
        self.flush()
        while self._writes:
            await asyncio.wait(set(self._writes))
        if self._unwritten and self._failure is not None:
            raise self._failure

    def finish(self) -> None:
        """Write nothing more of its own accord: the program has ended, and the result is about to be committed."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def close(self) -> str:
        """Stop recording, as the result is committed now; return the key to remove, empty if nothing was written."""
        self.finish()
        self._is_closed = True
        return self._store.key(self._task_id) if self._is_stored else ""

    # ------------------------------------------------------------------ entries

    def _encode_answered(self) -> None:
        """Give the answers their names: the digest of the call, and its number among equal ones."""
        answered, self._answered = self._answered, []
        for each in answered:
            digest = f"{_LM}:{digest_call(each.call)}"
            self._add(digest, each.answer.encode(len(self._entries)))

    def _add(self, digest: str, encoded: bytes) -> None:
        number = self._next[digest]
        while (name := f"{digest}:{number}") in self._entries:
            number += 1
        self._next[digest] = number + 1
        if len(encoded) > MAX_ENTRY_BYTES or self._bytes + len(encoded) > MAX_JOURNAL_BYTES:
            _log.warning(
                "An answer of %d bytes for prediction %s isn't recorded: the journal has %d of at most %d bytes",
                len(encoded), self._task_id, self._bytes, MAX_JOURNAL_BYTES,
            )  # fmt: skip
            return
        self._bytes += len(encoded)
        self._entries[name] = self._unwritten[name] = encoded

    def _decode(self, name: str) -> LMAnswer | None:
        """Return an entry; None if another version has written it in a form that this one doesn't know."""
        try:
            return LMAnswer.decode(self._entries[name])
        except (ValueError, LookupError, TypeError, AttributeError):
            _log.warning("An entry of the journal of prediction %s can't be read; the LM is asked again", self._task_id)
            return None

"""Captured LM calls: what a prediction's calls asked and were answered, kept beside its result where workers do so."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

from snakepit_bridge.costs.usage import LMUsage
from snakepit_bridge.delivery.payloads import Payloads
from snakepit_bridge.encryption.cipher import PLAIN, Cipher
from snakepit_bridge.protocol.json_values import repair_text
from snakepit_bridge.redis.key_names import FleetKeys

MAX_CAPTURED_BYTES = 1 << 20
"""The most bytes of calls that are kept of one prediction, before they are encrypted."""

MAX_CAPTURED_CALLS = 1_000
"""The most calls that are kept of one prediction."""

_KIND = "lm-calls"


@dataclass(frozen=True, slots=True)
class CapturedCall:
    """One LM call of a prediction.

    Attributes:
        profile: the LM profile that answered; the one that was called if none did.
        model: the model that answered, by the provider's name; the one that was called if none did.
        started_at: Unix seconds by the worker's clock.
        duration_s: seconds until it was answered, retries and fallbacks included.
        usage: what its requests used and cost; all zero if the response cache or the journal answered.
        messages: what was asked, each with ``role`` and ``parts`` as the GenAI conventions have them.
        answer: what was answered, with ``role``, ``parts`` and ``finish_reason``; None if it failed.
        error: the kind of its error; empty if it was answered.
        is_cut: whether it has no messages and no answer, because the prediction's calls are too large.
    """

    profile: str
    model: str
    started_at: float
    duration_s: float
    usage: LMUsage
    messages: Sequence[Mapping[str, Any]] = ()
    answer: Mapping[str, Any] | None = None
    error: str = ""
    is_cut: bool = False

    def encode(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "profile": self.profile,
            "model": self.model,
            "started_at": self.started_at,
            "duration_s": self.duration_s,
            "usage": self.usage.encode(),
            "messages": list(self.messages),
            "answer": self.answer,
            "error": self.error,
            "is_cut": self.is_cut,
        }

    @classmethod
    def decode(cls, form: Mapping[str, Any]) -> Self:
        """Decode the JSON form; fields that a newer worker added are ignored."""
        return cls(
            form["profile"],
            form["model"],
            form["started_at"],
            form["duration_s"],
            LMUsage.decode(form["usage"]),
            form["messages"],
            form["answer"],
            form["error"],
            form["is_cut"],
        )


@dataclass(frozen=True, slots=True)
class CapturedCalls:
    """The LM calls of one prediction, of the delivery that ended it.

    Attributes:
        session: the session that the prediction ran under.
        calls: the calls, in the order in which they began.
        omitted: how many further calls weren't kept.
    """

    session: str
    calls: Sequence[CapturedCall] = field(default_factory=list[CapturedCall])
    omitted: int = 0

    @classmethod
    def decode(cls, task_id: str, stored: bytes, cipher: Cipher = PLAIN) -> Self:
        """Decode what :meth:`CallCapture.encode` returned.

        Raises:
            DecryptionError: it can't be decrypted.
        """
        form: dict[str, Any] = json.loads(cipher.decrypt(_KIND, (task_id,), stored))
        return cls(form["session"], [CapturedCall.decode(call) for call in form["calls"]], form["omitted"])


class CallCapture:
    """Collects the LM calls of a prediction while it runs, within bounds.

    Args:
        task_id: the prediction.
        session: the session that it runs under.
        cipher: encrypts them.
    """

    def __init__(self, task_id: str, session: str, cipher: Cipher = PLAIN) -> None:
        self._task_id = task_id
        self._session = session
        self._cipher = cipher
        self._calls: list[tuple[float, bytes]] = []
        self._bytes = self._omitted = 0

    def add(self, call: CapturedCall) -> None:
        """Add a call that has ended: without its texts if these don't fit, and not at all behind the last that fits."""
        if len(self._calls) == MAX_CAPTURED_CALLS:
            self._omitted += 1
            return
        text = _encode_whole(call)
        if text is None or self._bytes + len(text) > MAX_CAPTURED_BYTES:
            text = _dumps(replace(call, messages=(), answer=None, is_cut=True).encode())
        self._bytes += len(text)
        self._calls.append((call.started_at, text))

    def encode(self) -> bytes:
        """Return what is stored: JSON, encrypted if there are keys."""
        calls = b",".join(text for _, text in sorted(self._calls, key=lambda call: call[0]))
        head = b'{"session":%b,"omitted":%d,"calls":[' % (_dumps(self._session), self._omitted)
        return self._cipher.encrypt(_KIND, (self._task_id,), head + calls + b"]}")


async def read_captured_calls(payloads: Payloads, task_id: str) -> CapturedCalls | None:
    """Return the LM calls of a prediction; None if they weren't captured, or have expired.

    Args:
        payloads: the fleet's, with its connection and its cipher.
        task_id: the prediction.

    Raises:
        DecryptionError: they can't be decrypted.
        StoreUnavailableError: Redis is unreachable.
    """
    key = FleetKeys(payloads.namespace).prediction_lm_calls(task_id)
    stored = await payloads.connection.execute_read("GET", key)
    return None if stored is None else CapturedCalls.decode(task_id, stored, payloads.cipher)


def _encode_whole(call: CapturedCall) -> bytes | None:
    """Return the JSON of a call; None if a part of it can't be JSON, which must not cost the prediction its answer."""
    try:
        return _dumps(call.encode())
    except (ValueError, TypeError, RecursionError):
        return None


def _dumps(value: object) -> bytes:
    return repair_text(json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)).encode()

"""Entries of the journal: the answer to an LM call or the result of a tool, as JSON."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from dspy.lm15 import Response

from snakepit_bridge.costs.usage import LMUsage, decode_by_profile, encode_by_profile
from snakepit_bridge.lm.compat import request_to_dict, response_from_dict, response_to_dict
from snakepit_bridge.lm.engine import LMCall
from snakepit_bridge.protocol.json_values import dumps, loads


@dataclass(frozen=True, slots=True)
class LMAnswer:
    """The answer to an LM call.

    Attributes:
        response: the answer, without the provider's own JSON.
        usage: what its requests used, failed ones included, by LM profile; the one that answered comes last.
        attempt: the attempt of the task in which it was answered: what earlier attempts used is in the message.
    """

    response: Response
    usage: Mapping[str, LMUsage] = field(default_factory=dict[str, LMUsage])
    attempt: int = 1

    @property
    def answered_by(self) -> str:
        """The LM profile that answered; empty if the answer came from the response cache."""
        return next(reversed(list(self.usage)), "")

    def encode(self, order: int) -> bytes:
        """Return the JSON form; ``order`` is its place among the answers of the prediction."""
        form = {
            "order": order,
            "response": response_to_dict(self.response),
            "usage": encode_by_profile(self.usage),
            "attempt": self.attempt,
        }
        return json.dumps(form, ensure_ascii=False, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, encoded: bytes) -> Self:
        """Decode the JSON form.

        Raises:
            ValueError, LookupError, TypeError: it isn't one.
        """
        form: dict[str, Any] = json.loads(encoded)
        usage = decode_by_profile(form["usage"])
        return cls(response_from_dict(form["response"]), usage, int(form["attempt"]))


def encode_result(result: Any, order: int) -> bytes:
    """Return the JSON form of what a tool returned.

    Raises:
        TypeError, ValueError: it isn't JSON.
    """
    return dumps({"order": order, "result": result}).encode()


def decode_result(encoded: bytes) -> Any:
    """Return what a tool returned."""
    return loads(encoded)["result"]


def digest_call(call: LMCall) -> str:
    """Return the digest of what an LM is asked: the request, the model and the profile, and which sample it is."""
    identity = {
        "request": request_to_dict(call.request),
        "rollout": call.rollout_id,
        "model": call.engine.endpoint.model,
        "profile": call.engine.endpoint.profile,
    }
    return _digest(identity)


def digest_tool_call(tool: str, arguments: Mapping[str, Any]) -> str:
    """Return the digest of a call of a tool."""
    return _digest({"tool": tool, "arguments": arguments})


def _digest(identity: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True, default=repr).encode()).hexdigest()[:40]

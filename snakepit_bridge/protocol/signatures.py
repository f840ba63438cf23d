"""Signatures of task messages: that one was sent by somebody who has the fleet's signing key, and arrived unchanged.

A signature is HMAC-SHA256 over the namespace, the message's headers and its body, in a header of its own. Headers say
which task it is, for whom and until when, so that they are signed as well as the arguments; Celery's own signed
serializer leaves them to anybody.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from snakepit_bridge.encryption.keys import KeyRing

SIGNATURE: Final = "signature"
"""The header: the key's id and the signature."""

# What brokers and workers set on a message that is on its way.
_UNSIGNED = frozenset({SIGNATURE, "redelivered", "compression", "dead_retry"})


@dataclass(frozen=True, slots=True)
class MessageSigner:
    """Signs and checks the messages of one namespace.

    Attributes:
        namespace: the fleet's.
        keys: the signing keys; the first signs, and each is accepted.
    """

    namespace: str
    keys: KeyRing

    def sign(self, headers: Mapping[str, Any], body: bytes) -> str:
        """Return the signature of a message."""
        key = self.keys.newest
        return f"{key}:{self._digest(key, headers, body)}"

    def find_problem(self, headers: Mapping[str, Any], body: bytes) -> str | None:
        """Return why a message isn't one that the fleet sent; None if it is."""
        signature = headers.get(SIGNATURE)
        if not isinstance(signature, str):
            return "it isn't signed. Its sender needs DSPEX_SIGNING_KEYS or its file"
        key, _, digest = signature.partition(":")
        if key not in self.keys.secrets:
            return f"it is signed with key {key[:32]!r}, and this worker has {', '.join(self.keys.ids)}"
        if not hmac.compare_digest(digest.encode(), self._digest(key, headers, body).encode()):
            return f"its signature by key '{key}' isn't that of its content: it was forged, or changed on its way"
        return None

    def _digest(self, key: str, headers: Mapping[str, Any], body: bytes) -> str:
        signed = {name: value for name, value in headers.items() if not _is_unsigned(name)}
        content = [self.namespace, signed, hashlib.sha256(body).hexdigest()]
        canonical = json.dumps(content, sort_keys=True, default=str, separators=(",", ":"))
        return hmac.digest(self.keys.secrets[key], canonical.encode(), "sha256").hex()


def _is_unsigned(name: str) -> bool:
    return name in _UNSIGNED or name.startswith("x-")

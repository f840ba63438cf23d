"""The records of LM requests that wait for a batch, of batches, and of the replies in them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from enum import StrEnum
from typing import Any, Self

from snakepit_bridge.encryption.cipher import PLAIN, Cipher

_REQUEST = "lm-request"


class BatchState(StrEnum):
    """How far a batch is."""

    forming = "forming"  # its requests are chosen, and nothing was sent
    sending = "sending"  # it may have reached the provider
    running = "running"  # the provider has it
    ended = "ended"  # its replies were handed out

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do."""
        return self is BatchState.ended


@dataclass(frozen=True, slots=True)
class WaitingRequest:
    """An LM request of a prediction, as a batch sends it.

    Attributes:
        id: its id in batches, the same whenever the prediction runs.
        task_id: the prediction.
        profile: the LM profile.
        path: of the provider's endpoint, below its base URL.
        body: the JSON that the provider gets.
        tries: batches that it was in before.
    """

    id: str
    task_id: str
    profile: str
    path: str
    body: Mapping[str, Any]
    tries: int = 0

    def encode(self, cipher: Cipher = PLAIN) -> bytes:
        """Return the JSON form, encrypted if there are keys."""
        form = json.dumps(asdict(self), ensure_ascii=False, separators=(",", ":")).encode()
        return cipher.encrypt(_REQUEST, (), form)

    @classmethod
    def decode(cls, encoded: bytes, cipher: Cipher = PLAIN) -> Self:
        """Decode what ``encode`` returned.

        Raises:
            DecryptionError: it can't be decrypted.
        """
        return cls(**json.loads(cipher.decrypt(_REQUEST, (), encoded)))

    def again(self) -> Self:
        """Return the request for another batch."""
        return replace(self, tries=self.tries + 1)


@dataclass(frozen=True, slots=True)
class BatchReply:
    """The reply to one request of a batch.

    Attributes:
        id: the request's.
        status: HTTP status; 0 if the provider never processed it, such as in a batch that expired.
        body: the reply as JSON text, or what happened instead of one.
    """

    id: str
    status: int
    body: str

    @property
    def is_retryable(self) -> bool:
        """Whether the request may succeed in another batch."""
        return self.status in (0, 408, 409, 429) or self.status >= 500

    def encode(self) -> bytes:
        """Return the JSON form."""
        return json.dumps({"status": self.status, "body": self.body}, ensure_ascii=False).encode()


@dataclass(frozen=True, slots=True)
class LMBatch:
    """One batch.

    Attributes:
        id: the fleet's name for it, which the provider keeps too where it can.
        profile: the LM profile whose requests it has.
        requests: their number.
        state: how far it is.
        created_at: Unix seconds when its requests were chosen, and ``sent_at`` when it was sent; 0 before.
        file_id: the provider's id of its file, where it has one.
        provider_id: the provider's id of it; empty while it isn't known.
        provider_status: what the provider said of it last.
        answered: requests that have their reply.
        cancel: whether somebody wants it cancelled.
        problem: why it could not be sent, or failed.
        attempts: how often sending it has failed.
        others: the provider's ids of batches that looked like it, and weren't.
    """

    id: str
    profile: str
    requests: int
    state: BatchState = BatchState.forming
    created_at: float = 0.0
    sent_at: float = 0.0
    file_id: str = ""
    provider_id: str = ""
    provider_status: str = ""
    answered: int = 0
    cancel: bool = False
    problem: str = ""
    attempts: int = 0
    others: tuple[str, ...] = ()

    def encode(self) -> bytes:
        """Return the JSON form."""
        return json.dumps(asdict(self), ensure_ascii=False).encode()

    @classmethod
    def decode(cls, encoded: bytes) -> Self:
        """Decode the JSON form; fields that a newer version added are ignored."""
        form: dict[str, Any] = json.loads(encoded)
        known: dict[str, Any] = {each.name: form[each.name] for each in fields(cls) if each.name in form}
        known["state"], known["others"] = BatchState(known["state"]), tuple(known.get("others", ()))
        return cls(**known)

"""Escaping of key parts, so that different names never result in the same key."""

from __future__ import annotations

from dataclasses import dataclass

_ESCAPED = str.maketrans({"%": "%25", ":": "%3A", "/": "%2F", "{": "%7B", "}": "%7D"})


def join_key(*parts: str) -> str:
    """Join parts to one name that is unique to them: separators within parts are escaped."""
    return ":".join(part.translate(_ESCAPED) for part in parts)


@dataclass(frozen=True, slots=True)
class OwnedKey:
    """An idempotency key in the scope of an owner, such as a client of a gateway.

    Attributes:
        owner: the scope of the key.
        key: the key, as given by its owner.
    """

    owner: str
    key: str

    def __str__(self) -> str:
        return self.key


IdempotencyKey = str | OwnedKey
"""Requests with equal keys are one prediction."""

"""Names in keys: joined so that two different names never give one key, whatever stands in them."""

from __future__ import annotations

from dataclasses import dataclass

_ESCAPED = str.maketrans({"%": "%25", ":": "%3A", "/": "%2F", "{": "%7B", "}": "%7D"})


def joined(*parts: str) -> str:
    """Return the parts as one name, which no other parts give: what separates parts is escaped inside of them."""
    return ":".join(part.translate(_ESCAPED) for part in parts)


@dataclass(frozen=True, slots=True)
class OwnedKey:
    """An idempotency key of one among several owners, such as the clients of a gateway: nobody else's is the same.

    Attributes:
        owner: whose key it is.
        key: the key, as its owner gave it.
    """

    owner: str
    key: str

    def __str__(self) -> str:
        return self.key


IdempotencyKey = str | OwnedKey
"""What makes two requests one prediction."""

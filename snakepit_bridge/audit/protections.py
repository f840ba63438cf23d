"""The rules that protect sessions and labels: what they name is changed only once somebody else has approved."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Self

from typing_extensions import override

from snakepit_bridge.exceptions import ProtectionError
from snakepit_bridge.protocol.namespaces import DEFAULT_NAMESPACE
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.key_names import FleetKeys

MAX_APPROVALS = 5
"""How many approvals a rule may ask for."""

MAX_PROTECTIONS = 200
"""How many rules a fleet may have: each change reads all of them."""

_PATTERN = re.compile(r"[^\x00-\x1f]{1,200}")


class ProtectionKind(StrEnum):
    """What a rule names."""

    SESSION = "session"
    LABEL = "label"


@dataclass(frozen=True, slots=True)
class Protection:
    """A rule: changes of what it names need approvals.

    Attributes:
        kind: what it names.
        pattern: of names, in which ``*`` stands for any text. Of labels it is the label's own name, ``stable``, or that
            with its program's or session's: ``qa@prod``.
        approvals: how many people have to approve.
        author: who set it.
        at: when, in Unix seconds.
    """

    kind: ProtectionKind
    pattern: str
    approvals: int = 1
    author: str = ""
    at: float = 0.0

    def __post_init__(self) -> None:
        if not _PATTERN.fullmatch(self.pattern):
            raise ProtectionError(str(self), "its pattern has to be 1 to 200 characters without control characters")
        if not 1 <= self.approvals <= MAX_APPROVALS:
            raise ProtectionError(str(self), f"it may ask for 1 to {MAX_APPROVALS} approvals; got {self.approvals}")

    def __str__(self) -> str:
        return f"{self.kind}:{self.pattern}"

    @classmethod
    def decode(cls, field: bytes, value: bytes) -> Self:
        """Return the rule of a field of the hash."""
        kind, _, pattern = field.decode().partition(":")
        approvals, at_us, author = value.decode().split(" ", 2)
        return cls(ProtectionKind(kind), pattern, int(approvals), author, int(at_us) / 1e6)

    def encode(self) -> str:
        """Return the value of the rule's field, which begins with the approvals for ``redis/audit.lua``."""
        return f"{self.approvals} {round(self.at * 1e6)} {self.author}"

    def matches(self, *names: str) -> bool:
        """Check whether it names one of these."""
        pattern = re.compile(".*".join(map(re.escape, self.pattern.split("*"))), re.DOTALL)
        return any(pattern.fullmatch(name) for name in names)

    def as_dict(self) -> dict[str, Any]:
        """Return all fields as JSON values."""
        return asdict(self)


def find_protection(rules: Iterable[Protection], kind: ProtectionKind, *names: str) -> Protection | None:
    """Return the rule that asks for the most approvals of those that name a target; None if none does."""
    found = [rule for rule in rules if rule.kind is kind and rule.matches(*names)]
    return max(found, key=lambda rule: rule.approvals, default=None)


class Protections(ABC):
    """The rules of one fleet."""

    @abstractmethod
    async def list(self) -> list[Protection]:
        """Return the rules, by kind and pattern.

        Raises:
            StoreUnavailableError: Redis is away.
        """

    @abstractmethod
    async def put(self, rule: Protection) -> None:
        """Store a rule, in place of the one of the same kind and pattern."""

    @abstractmethod
    async def remove(self, rule: Protection) -> None:
        """Remove a rule."""

    async def get(self, kind: ProtectionKind, pattern: str) -> Protection | None:
        """Return the rule of exactly this pattern; None if there is none."""
        return next((rule for rule in await self.list() if (rule.kind, rule.pattern) == (kind, pattern)), None)


class RedisProtections(Protections):
    """The rules of one fleet, in Redis.

    Args:
        connection: the fleet's Redis.
        namespace: prefix of every key.
    """

    def __init__(self, connection: RedisConnection, *, namespace: str = DEFAULT_NAMESPACE) -> None:
        self._connection = connection
        self._key = FleetKeys(namespace).protections

    @override
    async def list(self) -> list[Protection]:
        found: dict[bytes, bytes] = await self._connection.execute_read("HGETALL", self._key)
        return [Protection.decode(field, found[field]) for field in sorted(found)]

    @override
    async def put(self, rule: Protection) -> None:
        await self._connection.execute("HSET", self._key, str(rule), rule.encode())

    @override
    async def remove(self, rule: Protection) -> None:
        await self._connection.execute("HDEL", self._key, str(rule))


class MemoryProtections(Protections):
    """The rules of a store in memory."""

    def __init__(self) -> None:
        self._rules: dict[str, Protection] = {}

    @property
    def rules(self) -> list[Protection]:
        """The rules, by kind and pattern."""
        return [self._rules[name] for name in sorted(self._rules)]

    @override
    async def list(self) -> list[Protection]:
        return self.rules

    @override
    async def put(self, rule: Protection) -> None:
        self._rules[str(rule)] = rule

    @override
    async def remove(self, rule: Protection) -> None:
        self._rules.pop(str(rule), None)

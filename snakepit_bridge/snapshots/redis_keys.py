"""The names of a store's keys and channels. All keys of a session share one hash tag, so that they share one node."""

from __future__ import annotations

import re
from dataclasses import dataclass
from uuid import uuid4

from snakepit_bridge.protocol.token import Token

# In the order in which every script takes them.
_OF_A_SESSION = ("head", "variables", "history", "floor", "labels", "labelled", "checks")
_LASTING = ("head", "variables", "history", "labels", "labelled", "checks")


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys under one namespace."""

    namespace: str

    @property
    def index(self) -> str:
        """The sorted set of session names, each with the time at which its session was begun."""
        return f"{self.namespace}:sessions"

    @property
    def permanent(self) -> tuple[str, ...]:
        """Patterns of the keys that have no TTL: the index of sessions, and each session until it is dropped."""
        session = re.escape(self.prefix("\0")).replace(re.escape("\0"), ".*")
        return (re.escape(self.index), f"{session}:({'|'.join(_LASTING)})")

    def prefix(self, session: str) -> str:
        """Returns what every key and channel of a session begins with."""
        return f"{self.namespace}:{{s:{session}}}"

    def session(self, session: str) -> tuple[str, ...]:
        """Returns the keys that every script takes first."""
        prefix = self.prefix(session)
        return tuple(f"{prefix}:{name}" for name in _OF_A_SESSION)

    def head(self, session: str) -> str:
        """Returns the key of a session's head, the first of its keys."""
        return f"{self.prefix(session)}:{_OF_A_SESSION[0]}"

    def request(self, session: str) -> str:
        """Returns the key of one new request, which tells a script whether it is run a second time.

        redis-py sends a command again when its reply is lost.
        """
        return f"{self.prefix(session)}:request:{uuid4().hex}"

    def pin(self, session: str, token: Token) -> str:
        """Returns the key that says which kept state a token names."""
        return f"{self.prefix(session)}:pin:{token}"

    def state(self, session: str, digest: str) -> str:
        """Returns the key of a kept state."""
        return f"{self.prefix(session)}:state:{digest}"

    def channel(self, session: str) -> str:
        """Returns the pub/sub channel that is told each new token of a session, and ``""`` when it is dropped."""
        return f"{self.prefix(session)}:moved"

"""The keys and channels of a Redis store. All keys of a session share a hash tag, and thereby a cluster node."""

from __future__ import annotations

import re
from dataclasses import dataclass
from uuid import uuid4

from snakepit_bridge.protocol.token import Token
from snakepit_bridge.redis.key_names import FleetKeys

# In the order in which every script expects them.
_SESSION_KEYS = ("head", "variables", "history", "floor", "labels", "labelled", "checks", "rollouts", "experiments")
_PERMANENT_KEYS = ("head", "variables", "history", "labels", "labelled", "checks", "rollouts", "experiments")


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys under one namespace."""

    namespace: str

    @property
    def index(self) -> str:
        """The sorted set of session names, by creation time."""
        return f"{self.namespace}:sessions"

    @property
    def staged(self) -> str:
        """The sorted set of sessions that may have a rollout or experiments, by when they were added."""
        return f"{self.namespace}:staged"

    @property
    def staged_complete(self) -> str:
        """The key that exists as long as the index of staged sessions is trusted to have all of them."""
        return f"{self.staged}:complete"

    @property
    def permanent(self) -> tuple[str, ...]:
        """Patterns of the keys without TTL: the indexes, each session until it is dropped, the trail and rules."""
        session = re.escape(self.prefix("\0")).replace(re.escape("\0"), ".*")
        fleet = FleetKeys(self.namespace)
        control = (re.escape(fleet.audit), re.escape(fleet.protections))
        return (re.escape(self.index), re.escape(self.staged), *control, f"{session}:({'|'.join(_PERMANENT_KEYS)})")

    def prefix(self, session: str) -> str:
        """Return the prefix of a session's keys and channels."""
        return f"{self.namespace}:{{s:{session}}}"

    def session(self, session: str) -> tuple[str, ...]:
        """Return the leading keys of every script."""
        prefix = self.prefix(session)
        return tuple(f"{prefix}:{name}" for name in _SESSION_KEYS)

    def head(self, session: str) -> str:
        """Return the key of a session's head, the first of its keys."""
        return f"{self.prefix(session)}:{_SESSION_KEYS[0]}"

    def request(self, session: str) -> str:
        """Return a unique key for one request, by which a script detects that it is run a second time.

        redis-py sends a command again if its reply is lost.
        """
        return f"{self.prefix(session)}:request:{uuid4().hex}"

    def pin(self, session: str, token: Token) -> str:
        """Return the key of the reference from a token to a kept state."""
        return f"{self.prefix(session)}:pin:{token}"

    def state(self, session: str, digest: str) -> str:
        """Return the key of a kept state."""
        return f"{self.prefix(session)}:state:{digest}"

    def channel(self, session: str) -> str:
        """Return the pub/sub channel of a session's new tokens; ``""`` is published when it is dropped."""
        return f"{self.prefix(session)}:moved"

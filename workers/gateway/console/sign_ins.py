"""Who is signed in to the console. Redis holds it, so that every gateway of the fleet knows a visitor.

The cookie holds a random id; Redis has the id's hash and the hash of the token that was given, never either itself. A
token that is taken out of the tokens file ends the sign-ins that were made by it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
from dataclasses import dataclass
from typing import Any

from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.key_names import FleetKeys
from workers.gateway.access.authentication import UNRESTRICTED, Grant, Grants, hash_token

LIFETIME_S = 12 * 3_600
"""Seconds for which a sign-in lasts."""

_ID = re.compile(r"[A-Za-z0-9_-]{43}")


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who visits the console.

    Attributes:
        id: the random id in their cookie.
        grant: what they may do; None if they haven't signed in.
        may_change: whether they have allowed changes; until then everything is read-only.
    """

    id: str
    grant: Grant | None = None
    may_change: bool = False

    @property
    def csrf_token(self) -> str:
        """The token that each form of theirs has to carry."""
        return hmac.new(self.id.encode(), b"csrf", hashlib.sha256).hexdigest()


class SignIns:
    """The sign-ins of a fleet's console.

    Args:
        connection: to the fleet's Redis.
        namespace: of the fleet.
        grants: the gateway's; if empty, every visitor may do everything.
    """

    def __init__(self, connection: RedisConnection, namespace: str, grants: Grants) -> None:
        self._connection = connection
        self._keys = FleetKeys(namespace)
        self._grants = grants

    async def find(self, visitor_id: str) -> Visitor:
        """Return the visitor of a cookie; a new one, who hasn't signed in, if the cookie is of nobody.

        Args:
            visitor_id: what the cookie holds; empty without one.

        Raises:
            StoreUnavailableError: Redis is unreachable.
        """
        is_id = _ID.fullmatch(visitor_id) is not None
        record = await self._read(visitor_id) if is_id else None
        anonymous = Visitor(visitor_id if is_id else _new_id(), None if self._grants else UNRESTRICTED)
        if record is None:
            return anonymous
        grant = self._grants.by_hash.get(record["token"]) if self._grants else UNRESTRICTED
        return anonymous if grant is None else Visitor(visitor_id, grant, record["may_change"])

    async def sign_in(self, token: str) -> Visitor | None:
        """Return a new visitor with a token's grant; None if the gateway doesn't know the token.

        Raises:
            StoreUnavailableError: Redis is unreachable.
        """
        grant = self._grants.find(token)
        if grant is None:
            return None
        visitor = Visitor(_new_id(), grant)
        await self._write(visitor.id, hash_token(token), may_change=False)
        return visitor

    async def allow_changes(self, visitor: Visitor, *, allow: bool) -> None:
        """Allow changes for the rest of a sign-in, or end that.

        Raises:
            StoreUnavailableError: Redis is unreachable.
        """
        record = await self._read(visitor.id)
        await self._write(visitor.id, record["token"] if record else "", may_change=allow)

    async def sign_out(self, visitor: Visitor) -> None:
        """End a sign-in.

        Raises:
            StoreUnavailableError: Redis is unreachable.
        """
        await self._connection.send_each([("DEL", self._key(visitor.id))])

    async def _read(self, visitor_id: str) -> dict[str, Any] | None:
        (text,) = await self._connection.send_each([("GET", self._key(visitor_id))])
        return None if text is None else json.loads(text)

    async def _write(self, visitor_id: str, token_hash: str, *, may_change: bool) -> None:
        record = json.dumps({"token": token_hash, "may_change": may_change})
        await self._connection.send_each([("SET", self._key(visitor_id), record, "EX", LIFETIME_S)])

    def _key(self, visitor_id: str) -> str:
        return self._keys.sign_in(hash_token(visitor_id))


def _new_id() -> str:
    return secrets.token_urlsafe(32)

"""Who is signed in to the console. Redis holds it, so that every gateway of the fleet knows a visitor.

The cookie holds a random id; Redis has the id's hash and the hash of the token that was given, never either itself. A
token that is taken out of the tokens file ends the sign-ins that were made by it. Of who signs in by OpenID Connect it
has the name and the group; a group that is taken out of the settings ends the sign-ins of its members. The id token, by
which the provider signs them out, is encrypted by the id in their cookie.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.key_names import FleetKeys
from workers.gateway.access.authentication import UNRESTRICTED, Grant, Grants, hash_token
from workers.gateway.access.openid_settings import OpenIdSettings
from workers.gateway.console.identity import Person, SignInRequest

LIFETIME_S = 12 * 3_600
"""Seconds for which a sign-in lasts."""

# Seconds that a visitor may take at an OpenID provider.
_BEGUN_LIFETIME_S = 600

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
        openid: the grants of who signs in by OpenID Connect; None if nobody does.
    """

    def __init__(
        self, connection: RedisConnection, namespace: str, grants: Grants, openid: OpenIdSettings | None = None
    ) -> None:
        self._connection = connection
        self._keys = FleetKeys(namespace)
        self._grants = grants
        self._openid = openid

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
        grant = self._find_grant(record) if self._grants else UNRESTRICTED
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
        await self._write(visitor.id, {"token": hash_token(token), "may_change": False})
        return visitor

    async def sign_person_in(self, person: Person) -> Visitor | None:
        """Return a new visitor with the grant of the first of a person's groups; None if none of them has one.

        Raises:
            StoreUnavailableError: Redis is unreachable.
        """
        settings = self._openid
        group = None if settings is None else settings.choose_group(person.groups)
        if settings is None or group is None:
            return None
        visitor = Visitor(_new_id(), settings.grant_of(person.name, group))
        # What the extra `oidc` has is imported where it is used alone.
        from workers.gateway.console.sealed_id_tokens import seal_id_token

        record = {
            "issuer": settings.issuer,
            "name": person.name,
            "group": group,
            "may_change": False,
            "id_token": seal_id_token(person.id_token, visitor.id),
        }
        await self._write(visitor.id, record)
        return visitor

    async def begin(self, visitor: Visitor, request: SignInRequest, back: str) -> None:
        """Keep what a visitor is sent to the OpenID provider with, for the visitor's return.

        Args:
            visitor: who is sent.
            request: what they are sent with.
            back: the page where they go on afterwards.

        Raises:
            StoreUnavailableError: Redis is unreachable.
        """
        record = json.dumps({"nonce": request.nonce, "verifier": request.verifier, "back": back})
        key = self._begun_key(visitor, request.state)
        await self._connection.send_each([("SET", key, record, "EX", _BEGUN_LIFETIME_S)])

    async def take_begun(self, visitor: Visitor, state: str) -> tuple[SignInRequest, str] | None:
        """Return what a visitor was sent to the OpenID provider with and where they go on, once; None for a stranger.

        Args:
            visitor: who comes back.
            state: what they come back with.

        Raises:
            StoreUnavailableError: Redis is unreachable.
        """
        key = self._begun_key(visitor, state)
        text, _ = await self._connection.send_each([("GET", key), ("DEL", key)])
        if text is None:
            return None
        found = json.loads(text)
        return SignInRequest(state, found["nonce"], found["verifier"]), found["back"]

    async def allow_changes(self, visitor: Visitor, *, allow: bool) -> None:
        """Allow changes for the rest of a sign-in, or end that.

        Raises:
            StoreUnavailableError: Redis is unreachable.
        """
        record = await self._read(visitor.id)
        if record is None:
            await self._write(visitor.id, {"token": "", "may_change": allow})
            return
        changed = json.dumps({**record, "may_change": allow})
        await self._connection.send_each([("SET", self._key(visitor.id), changed, "XX", "KEEPTTL")])

    async def find_id_token(self, visitor: Visitor) -> str:
        """Return the id token by which a visitor has signed in; empty for one who did so by a token of the gateway.

        Raises:
            StoreUnavailableError: Redis is unreachable.
        """
        record = await self._read(visitor.id)
        if record is None or "id_token" not in record:
            return ""
        from workers.gateway.console.sealed_id_tokens import open_id_token

        return open_id_token(record["id_token"], visitor.id)

    async def sign_out(self, visitor: Visitor) -> None:
        """End a sign-in.

        Raises:
            StoreUnavailableError: Redis is unreachable.
        """
        await self._connection.send_each([("DEL", self._key(visitor.id))])

    async def _read(self, visitor_id: str) -> dict[str, Any] | None:
        (text,) = await self._connection.send_each([("GET", self._key(visitor_id))])
        return None if text is None else json.loads(text)

    async def _write(self, visitor_id: str, record: Mapping[str, Any]) -> None:
        await self._connection.send_each([("SET", self._key(visitor_id), json.dumps(record), "EX", LIFETIME_S)])

    def _find_grant(self, record: Mapping[str, Any]) -> Grant | None:
        """Return the grant of a sign-in; None if its token or its group has none any more."""
        if "token" in record:
            return self._grants.by_hash.get(record["token"])
        settings = self._openid
        if settings is None or record["issuer"] != settings.issuer:
            return None
        return settings.grant_of(record["name"], record["group"])

    def _begun_key(self, visitor: Visitor, state: str) -> str:
        # Whoever has the link that a provider made for another browser can't use it.
        return self._keys.begun_sign_in(hash_token(f"{visitor.id}:{state}"))

    def _key(self, visitor_id: str) -> str:
        return self._keys.sign_in(hash_token(visitor_id))


def _new_id() -> str:
    return secrets.token_urlsafe(32)

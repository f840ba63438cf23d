"""An OpenID provider for tests: it signs real id tokens, and checks the client as the specification says."""

from __future__ import annotations

import asyncio
import base64
import secrets
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlencode

import uvicorn
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from joserfc import jwt
from joserfc.jwk import KeySet, RSAKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from snakepit_bridge.process.uvicorn_server import UvicornServer
from workers.gateway.http.uvicorn_config import listen

CLIENT_ID, CLIENT_SECRET = "console", "a client secret: é"


@dataclass
class OpenIdServer:
    """The provider.

    Attributes:
        url: its issuer.
        person: the claims of whoever signs in.
        changed: claims of the id token that differ from what they should be; None removes one.
        key: signs id tokens, and ``published`` are those that it publishes.
        is_away: whether it answers nothing but errors.
        ends_sessions: whether it has a page that signs out.
        ended: who was signed out there.
        refused: what it refused, in words.
        issued: its id tokens.
    """

    url: str
    person: dict[str, Any] = field(default_factory=lambda: {"sub": "ann", "groups": ["operators"]})
    changed: dict[str, Any] = field(default_factory=dict[str, Any])
    key: RSAKey = field(default_factory=lambda: RSAKey.generate_key(2048, auto_kid=True))
    published: list[RSAKey] = field(default_factory=list[RSAKey])
    is_away: bool = False
    ends_sessions: bool = True
    ended: list[str] = field(default_factory=list[str])
    refused: list[str] = field(default_factory=list[str])
    issued: list[str] = field(default_factory=list[str])
    _codes: dict[str, Mapping[str, str]] = field(default_factory=dict[str, Mapping[str, str]])

    def __post_init__(self) -> None:
        self.published.append(self.key)

    def reset(self) -> None:
        """Be as at the beginning, but for the keys."""
        self.person, self.changed = {"sub": "ann", "groups": ["operators"]}, {}
        self.key, self.is_away, self.refused = self.published[0], False, []
        self.ends_sessions, self.ended = True, []

    def build_app(self) -> Starlette:
        """Return the ASGI application."""
        return Starlette(
            routes=[
                Route("/.well-known/openid-configuration", self._describe),
                Route("/keys", self._list_keys),
                Route("/authorize", self._ask),
                Route("/authorize", self._authorize, methods=["POST"]),
                Route("/token", self._redeem, methods=["POST"]),
                Route("/logout", self._end),
            ]
        )

    def authorize(self, query: Mapping[str, str]) -> str:
        """Return where whoever signs in is sent back to.

        Args:
            query: what the client sent them with.
        """
        code = secrets.token_urlsafe(16)
        self._codes[code] = dict(query)
        return f"{query['redirect_uri']}?{urlencode({'code': code, 'state': query['state']})}"

    async def _describe(self, request: Request) -> Response:
        if self.is_away:
            return Response(status_code=503)
        return JSONResponse({
            "issuer": self.url,
            "authorization_endpoint": f"{self.url}/authorize?tenant=1",
            "token_endpoint": f"{self.url}/token",
            "jwks_uri": f"{self.url}/keys",
            "id_token_signing_alg_values_supported": ["RS256", "HS256", "none"],
            **({"end_session_endpoint": f"{self.url}/logout?tenant=1"} if self.ends_sessions else {}),
        })  # fmt: skip

    async def _end(self, request: Request) -> Response:
        """Sign out whom an id token of this provider names, and send them back to where the client has registered."""
        query = request.query_params
        claims = jwt.decode(query["id_token_hint"], KeySet(list(self.published))).claims
        if (claims["iss"], claims["aud"], query["client_id"]) != (self.url, CLIENT_ID, CLIENT_ID):
            self.refused.append("id token")
            return Response(status_code=400)
        self.ended.append(claims["sub"])
        return RedirectResponse(query["post_logout_redirect_uri"], 303)

    async def _list_keys(self, request: Request) -> Response:
        return JSONResponse(KeySet(list(self.published)).as_dict(private=False))

    async def _ask(self, request: Request) -> Response:
        return HTMLResponse("<title>Provider</title><form method=post><button>Go on as ann</button></form>")

    async def _authorize(self, request: Request) -> Response:
        return RedirectResponse(self.authorize(request.query_params), 303)

    async def _redeem(self, request: Request) -> Response:
        given = dict(parse_qsl((await request.body()).decode()))
        asked_for = self._codes.pop(given.get("code", ""), {})
        checks = {
            "client": request.headers.get("authorization") == f"Basic {_basic()}",
            "code": bool(asked_for),
            "redirect": given.get("redirect_uri") == asked_for.get("redirect_uri"),
            "verifier": create_s256_code_challenge(given.get("code_verifier", "")) == asked_for.get("code_challenge"),
            "method": asked_for.get("code_challenge_method") == "S256",
        }
        if wrong := [name for name, is_right in checks.items() if not is_right]:
            self.refused += wrong
            return JSONResponse({"error": "invalid_grant"}, 400)
        return JSONResponse({"access_token": "opaque", "token_type": "Bearer", "id_token": self._sign(asked_for)})

    def _sign(self, asked_for: Mapping[str, str]) -> str:
        now = int(time.time())
        claims = {
            "iss": self.url, "aud": CLIENT_ID, "iat": now, "exp": now + 300, "nonce": asked_for["nonce"], **self.person,
            **self.changed,
        }  # fmt: skip
        header = {"alg": "RS256", "kid": self.key.kid}
        given = {name: value for name, value in claims.items() if value is not None}
        self.issued.append(jwt.encode(header, given, self.key))
        return self.issued[-1]


@contextmanager
def openid_server() -> Generator[OpenIdServer]:
    """A provider that runs, in a thread of its own, at another site than the gateway's."""
    sock = listen("127.0.0.1", 0)
    provider = OpenIdServer(f"http://localhost:{sock.getsockname()[1]}")
    accepting = threading.Event()
    server = UvicornServer(uvicorn.Config(provider.build_app(), log_level="warning", lifespan="off"), accepting.set)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[sock])))
    thread.start()
    try:
        assert accepting.wait(30)
        yield provider
    finally:
        server.should_exit = True
        thread.join(30)


def settings_text(provider: OpenIdServer, url: str, **changes: str) -> str:
    """Return the settings of a gateway that signs visitors in by a provider.

    Args:
        provider: the provider.
        url: the console's own.
        changes: further lines, or others, as TOML values.
    """
    lines = {"issuer": f'"{provider.url}"', "client_id": f'"{CLIENT_ID}"', "url": f'"{url}"', **changes}
    groups = """
        [groups.operators]
        scopes = ["read", "publish"]
        sessions = ["*"]
        [groups.readers]
        sessions = ["user-*"]
    """
    return "\n".join(f"{name} = {value}" for name, value in lines.items()) + groups


def _basic() -> str:
    return base64.b64encode(f"{CLIENT_ID}:a+client+secret%3A+%C3%A9".encode()).decode()

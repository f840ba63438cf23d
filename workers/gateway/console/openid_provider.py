"""The OpenID provider: where a visitor signs in, and who they are, by the authorization code flow with PKCE."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any, cast
from urllib.parse import quote_plus

import httpx
from authlib.common.urls import add_params_to_uri
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from authlib.oidc.core import CodeIDToken
from joserfc import jwt
from joserfc.errors import InvalidKeyIdError, JoseError
from joserfc.jwk import KeySet
from joserfc.jws import JWSRegistry

from workers.gateway.access.openid_settings import OpenIdSettings, check_https, describe_person
from workers.gateway.console.identity import Person, SignInError, SignInRequest

CALLBACK_PATH, SIGNED_OUT_PATH = "/sign-in/oidc/callback", "/sign-in"

_TIMEOUT_S = 10.0
_METADATA_LIFETIME_S = 3_600.0
_LEEWAY_S = 60
_BAD_GATEWAY = 502
# Signatures by a key that the provider alone has.
_ALGORITHMS = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"})

_log = logging.getLogger(__name__)


class OpenIdProvider:
    """A client of the provider.

    Args:
        settings: the provider, and what of a person counts.
    """

    def __init__(self, settings: OpenIdSettings) -> None:
        self._settings = settings
        self._metadata: Mapping[str, Any] = {}
        self._keys: KeySet | None = None
        self._read_at = float("-inf")

    async def sign_in_url(self, request: SignInRequest) -> str:
        """Return where the provider signs a visitor in.

        Raises:
            SignInError: the provider can't be reached, or isn't one.
        """
        metadata = await self._read_metadata()
        settings = self._settings
        parameters = {
            "response_type": "code",
            "client_id": settings.client_id,
            "redirect_uri": settings.url + CALLBACK_PATH,
            "scope": " ".join(settings.request_scopes),
            "state": request.state,
            "nonce": request.nonce,
            "code_challenge": create_s256_code_challenge(request.verifier),
            "code_challenge_method": "S256",
        }
        return add_params_to_uri(metadata["authorization_endpoint"], list(parameters.items()))

    async def identify(self, code: str, request: SignInRequest) -> Person:
        """Return who has signed in.

        Args:
            code: what the provider sent the visitor back with.
            request: what the visitor was sent there with.

        Raises:
            SignInError: the provider can't be asked, the code or the id token isn't valid, or it names nobody.
        """
        answer = await self._redeem(code, request)
        claims = await self._read_claims(answer, request.nonce)
        try:
            name = describe_person(claims.get(self._settings.name_claim))
            if self._settings.name_claim == "email" and claims.get("email_verified") is not True:
                raise ValueError("the provider hasn't verified it")
        except ValueError as exc:
            raise SignInError(f"Your provider names you by '{self._settings.name_claim}': {exc}.") from None
        return Person(name, _read_groups(claims.get(self._settings.groups_claim)), str(answer["id_token"]))

    async def sign_out_url(self, id_token: str) -> str:
        """Return where the provider signs a person out and sends them back from; empty if it has no such page.

        Args:
            id_token: the one by which they have signed in.

        Raises:
            SignInError: the provider can't be reached, or isn't one.
        """
        endpoint = (await self._read_metadata()).get("end_session_endpoint")
        if not endpoint:
            return ""
        parameters = {
            "id_token_hint": id_token,
            "client_id": self._settings.client_id,
            "post_logout_redirect_uri": self._settings.url + SIGNED_OUT_PATH,
        }
        return add_params_to_uri(endpoint, list(parameters.items()))

    async def _redeem(self, code: str, request: SignInRequest) -> Mapping[str, Any]:
        """Return what the provider gives for a code."""
        metadata, settings = await self._read_metadata(), self._settings
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": settings.url + CALLBACK_PATH,
            "code_verifier": request.verifier,
        }
        methods = metadata.get("token_endpoint_auth_methods_supported") or ["client_secret_basic"]
        if settings.client_secret and "client_secret_basic" in methods:
            auth = httpx.BasicAuth(quote_plus(settings.client_id), quote_plus(settings.client_secret))
        else:
            auth = httpx.USE_CLIENT_DEFAULT
            form["client_id"] = settings.client_id
            form |= {"client_secret": settings.client_secret} if settings.client_secret else {}
        async with httpx.AsyncClient(timeout=_TIMEOUT_S) as client:
            try:
                response = await client.post(metadata["token_endpoint"], data=form, auth=auth)
            except httpx.HTTPError as exc:
                raise _unreachable(exc) from exc
        if response.status_code in (400, 401, 403):
            _log.warning("The OpenID provider refused a code with HTTP %d", response.status_code)
            raise SignInError("Your provider refused the sign-in. Try again.")
        return _read_object(response)

    async def _read_claims(self, answer: Mapping[str, Any], nonce: str) -> Mapping[str, Any]:
        """Return the claims of a valid id token."""
        settings, encoded = self._settings, answer.get("id_token")
        if not isinstance(encoded, str):
            raise SignInError("Your provider sent no id token.")
        try:
            token = await self._verify(encoded)
            options = {
                "iss": {"essential": True, "value": settings.issuer},
                "aud": {"essential": True, "value": settings.client_id},
            }
            given = {"nonce": nonce, "client_id": settings.client_id, "access_token": answer.get("access_token")}
            claims = CodeIDToken(token.claims, token.header, cast(Any, options), given)
            claims.validate(leeway=_LEEWAY_S)
        except (JoseError, ValueError, TypeError) as exc:
            _log.warning("An id token of the OpenID provider isn't valid: %s", exc)
            raise SignInError("The id token of your provider isn't valid.") from exc
        return claims

    async def _verify(self, encoded: str) -> jwt.Token:
        """Return a token whose signature is the provider's; its keys are read anew if it has another one."""
        offered = (await self._read_metadata()).get("id_token_signing_alg_values_supported") or ["RS256"]
        registry = JWSRegistry(algorithms=sorted(_ALGORITHMS.intersection(offered)), strict_check_header=False)
        try:
            return jwt.decode(encoded, await self._read_keys(), registry=registry)
        except InvalidKeyIdError:
            self._keys = None
            return jwt.decode(encoded, await self._read_keys(), registry=registry)

    async def _read_keys(self) -> KeySet:
        if self._keys is None:
            self._keys = KeySet.import_key_set(cast(Any, await self._get((await self._read_metadata())["jwks_uri"])))
        return self._keys

    async def _read_metadata(self) -> Mapping[str, Any]:
        if time.monotonic() - self._read_at < _METADATA_LIFETIME_S:
            return self._metadata
        issuer = self._settings.issuer
        metadata = await self._get(issuer.rstrip("/") + "/.well-known/openid-configuration")
        try:
            if metadata.get("issuer") != issuer:
                raise ValueError("it names another issuer")
            optional = ("end_session_endpoint",) if metadata.get("end_session_endpoint") else ()
            for name in ("authorization_endpoint", "token_endpoint", "jwks_uri", *optional):
                check_https(str(metadata.get(name)), name)
        except ValueError as exc:
            _log.warning("The OpenID provider's description can't be used: %s", exc)
            raise SignInError("The provider's description can't be used.", _BAD_GATEWAY) from exc
        self._metadata, self._keys, self._read_at = metadata, None, time.monotonic()
        return metadata

    async def _get(self, url: str) -> Mapping[str, Any]:
        async with httpx.AsyncClient(timeout=_TIMEOUT_S) as client:
            try:
                return _read_object(await client.get(url))
            except httpx.HTTPError as exc:
                raise _unreachable(exc) from exc


def _read_object(response: httpx.Response) -> Mapping[str, Any]:
    try:
        found = response.raise_for_status().json()
    except (httpx.HTTPStatusError, ValueError) as exc:
        raise _unreachable(exc) from exc
    if not isinstance(found, dict):
        raise SignInError("The provider doesn't answer as one.", _BAD_GATEWAY)
    return cast("dict[str, Any]", found)


def _unreachable(error: Exception) -> SignInError:
    _log.warning("The OpenID provider can't be asked: %s", type(error).__name__)
    return SignInError("The provider can't be reached, or doesn't answer as one. Try again later.", _BAD_GATEWAY)


def _read_groups(claim: object) -> frozenset[str]:
    """Return the groups of a claim: a list, or a single one."""
    values = cast("list[object]", claim) if isinstance(claim, list) else [claim]
    return frozenset(value for value in values if isinstance(value, str))

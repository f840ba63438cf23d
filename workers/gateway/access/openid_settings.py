"""OpenID Connect for the console: the provider, and what the members of its groups may do."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self, cast
from urllib.parse import urlsplit

from snakepit_bridge.audit.entries import contains_separator
from snakepit_bridge.exceptions import ConfigurationError
from snakepit_bridge.redaction import register_secret
from workers.addresses import is_loopback
from workers.gateway.access.authentication import PERSON_PREFIX, Grant, GrantScope

EVERYBODY = "*"
"""The group of all whom the provider signs in."""

SECRET_VARIABLE = "DSPEX_GATEWAY_OIDC_SECRET"

_MAX_NAME_LENGTH = 95
_REQUEST_SCOPES = ("openid", "profile", "email")
_KEYS = {
    "issuer", "client_id", "client_secret_file", "url", "label", "name_claim", "groups_claim", "request_scopes",
    "groups",
}  # fmt: skip
_GROUP_KEYS = {"scopes", "sessions"}


@dataclass(frozen=True, slots=True)
class OpenIdSettings:
    """An OpenID provider, and the grants of its groups.

    Attributes:
        issuer: the provider's issuer identifier, an URL.
        client_id: the console's at the provider.
        url: the console's own, as browsers see it, without a path.
        groups: the grants by group, in the order in which they count: a person has that of their first group.
        client_secret: the console's at the provider; empty for a public client.
        label: what the button says.
        name_claim: the claim that the history records as the author.
        groups_claim: the claim with the groups.
        request_scopes: the scopes that the provider is asked for.
    """

    issuer: str
    client_id: str
    url: str
    groups: Mapping[str, Grant]
    client_secret: str = field(default="", repr=False)
    label: str = ""
    name_claim: str = "sub"
    groups_claim: str = "groups"
    request_scopes: tuple[str, ...] = _REQUEST_SCOPES

    @property
    def provider(self) -> str:
        """What visitors know the provider by."""
        return self.label or str(urlsplit(self.issuer).hostname)

    def choose_group(self, groups: Collection[str]) -> str | None:
        """Return the first group of the settings that a person is in; None if there is none."""
        return next((group for group in self.groups if group == EVERYBODY or group in groups), None)

    def grant_of(self, name: str, group: str) -> Grant | None:
        """Return the grant of a person in a group; None if the settings have no such group any more.

        Args:
            name: the person's, with its prefix.
            group: the group by which they have signed in.
        """
        grant = self.groups.get(group)
        return None if grant is None else replace(grant, name=name)

    @classmethod
    def load(cls, file: Path, secret: str | None = None) -> Self:
        """Read the settings' file.

        Args:
            file: in TOML.
            secret: the client secret from the environment, where no file has it.

        Raises:
            ConfigurationError: a file is missing or invalid.
        """
        try:
            document = tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
            raise ConfigurationError(f"The OpenID Connect file {file} can't be read: {exc}.") from exc
        try:
            return cls._parse(document, secret)
        except ValueError as exc:
            raise ConfigurationError(f"{file}: {exc}.") from None

    @classmethod
    def _parse(cls, document: Mapping[str, Any], secret: str | None) -> Self:
        """Return the settings of a document.

        Raises:
            ValueError: it is invalid.
        """
        if unknown := document.keys() - _KEYS:
            raise ValueError(f"has {sorted(unknown)}; it may have {', '.join(sorted(_KEYS))}")
        issuer, url = _text(document, "issuer"), _text(document, "url")
        check_https(issuer, "issuer")
        check_https(url, "url")
        if urlsplit(url).path.strip("/") or urlsplit(url).query:
            raise ValueError("url is the console's own, without a path, such as https://fleet.example.com")
        optional = {name: _text(document, name) for name in ("label", "name_claim", "groups_claim") if name in document}
        request_scopes = tuple(_texts(document.get("request_scopes", list(_REQUEST_SCOPES)), "request_scopes"))
        if "openid" not in request_scopes:
            raise ValueError("request_scopes needs openid")
        return cls(
            issuer,
            _text(document, "client_id"),
            url.rstrip("/"),
            _parse_groups(document.get("groups")),
            _read_secret(document, secret),
            request_scopes=request_scopes,
            **optional,
        )


def describe_person(name: object) -> str:
    """Return the name of a person as grants have it.

    Args:
        name: the claim's value.

    Raises:
        ValueError: nobody can be recorded as an author under it.
    """
    if not isinstance(name, str) or not 0 < len(name) <= _MAX_NAME_LENGTH:
        raise ValueError(f"it isn't text of 1 to {_MAX_NAME_LENGTH} characters")
    if not name.isprintable() or contains_separator(name) or name != name.strip():
        raise ValueError("it has characters that a name can't have")
    return f"{PERSON_PREFIX}{name}"


def check_https(url: str, what: str) -> None:
    """Check that an URL is of HTTPS, or of this machine.

    Raises:
        ValueError: it isn't.
    """
    parts = urlsplit(url)
    if not parts.hostname or not (parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname))):
        raise ValueError(f"{what} must be an https:// URL, or an http:// one of this machine")


def _parse_groups(tables: object) -> dict[str, Grant]:
    if not isinstance(tables, dict) or not tables:
        raise ValueError("it needs a table [groups.NAME] for each group that may sign in")
    return {group: _parse_group(group, table) for group, table in cast("dict[str, Any]", tables).items()}


def _parse_group(group: str, table: object) -> Grant:
    if not isinstance(table, dict) or cast("dict[str, Any]", table).keys() - _GROUP_KEYS:
        raise ValueError(f"[groups.{group}] may have {' and '.join(sorted(_GROUP_KEYS))}")
    fields = cast("dict[str, Any]", table)
    scopes = _texts(fields.get("scopes", [GrantScope.READ]), f"[groups.{group}] scopes")
    if not scopes or not set(scopes) <= set(GrantScope):
        raise ValueError(f'[groups.{group}] needs scopes = ["…"] of {", ".join(GrantScope)}')
    sessions = _texts(fields.get("sessions", []), f"[groups.{group}] sessions")
    return Grant(group, frozenset(map(GrantScope, scopes)), tuple(sessions))


def _read_secret(document: Mapping[str, Any], secret: str | None) -> str:
    if "client_secret_file" in document:
        if secret:
            raise ValueError(f"the client secret is given twice; set client_secret_file or {SECRET_VARIABLE}, not both")
        try:
            secret = Path(_text(document, "client_secret_file")).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as exc:
            raise ValueError(f"client_secret_file can't be read: {exc}") from exc
    register_secret(secret)
    return secret or ""


def _text(document: Mapping[str, Any], name: str) -> str:
    value = document.get(name)
    if not isinstance(value, str) or not value:
        raise ValueError(f"it needs {name}, a text")
    return value


def _texts(value: object, name: str) -> list[str]:
    texts = cast("list[object]", value) if isinstance(value, list) else [value]
    found = [text for text in texts if isinstance(text, str)]
    if len(found) != len(texts):
        raise ValueError(f'{name} must be a list of texts, ["…"]')
    return found

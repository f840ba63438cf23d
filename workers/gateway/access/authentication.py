"""Who may do what: bearer tokens, of which only hashes are kept, with scopes and the sessions that they hold for."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Self, cast

from snakepit_bridge.exceptions import ConfigurationError

_HASH = re.compile(r"[0-9a-f]{64}")
_MAX_NAME_LENGTH = 100
_SAYS = " (says: "
_KEYS = {"sha256", "scopes", "sessions", "calls_per_s", "streams"}


class GrantScope(StrEnum):
    """What a token lets its bearer do."""

    PUBLISH = "publish"
    PREDICT = "predict"
    READ = "read"
    ADMIN = "admin"
    CONTROL = "control"


@dataclass(frozen=True, slots=True)
class Grant:
    """What the bearers of some tokens may do.

    Attributes:
        name: whose tokens they are; stands in the history as the author of what is published.
        scopes: publish (Publish, Rollback), predict (Predictions), read (Get, Watch, History, List), admin (Register),
            control (Publish and Rollback of what steers the fleet: variables and sessions below ``dspex.``).
        sessions: patterns of session names, as in a shell: ``user-*``.
        calls_per_s, streams: limits that differ from the gateway's.
    """

    name: str
    scopes: frozenset[GrantScope]
    sessions: tuple[str, ...]
    calls_per_s: float | None = None
    streams: int | None = None

    def format_author(self, declared: str) -> str:
        """Return who is recorded as the author of a change: the grant, and beside it what its client says."""
        if not declared or declared == self.name:
            return self.name
        return f"{self.name}{_SAYS}{declared})" if self.name else declared

    def covers(self, session: str) -> bool:
        """Tells whether it holds for a session."""
        return any(fnmatchcase(session, pattern) for pattern in self.sessions)


UNRESTRICTED = Grant("", frozenset(GrantScope), ("*",))
"""What a gateway without any token grants, on loopback."""


@dataclass(frozen=True, slots=True)
class Grants:
    """The grants of a gateway by the hashes of their tokens."""

    by_hash: Mapping[str, Grant] = field(default_factory=dict[str, Grant])

    def __bool__(self) -> bool:
        return bool(self.by_hash)

    def find(self, token: str) -> Grant | None:
        """Returns what a token grants, or None. Looking it up by its hash takes no time that would tell of others."""
        return self.by_hash.get(hash_token(token))

    @classmethod
    def load(cls, file: Path) -> Self:
        """Reads a tokens file.

        Raises:
            ConfigurationError: it isn't there, or can't be read.
        """
        try:
            return cls.parse(file.read_text(encoding="utf-8"), str(file))
        except (OSError, UnicodeDecodeError) as exc:
            raise ConfigurationError(f"The tokens file {file} can't be read: {exc}.") from exc

    @classmethod
    def parse(cls, text: str, source: str = "the tokens") -> Self:
        """Reads a TOML text with a table ``[tokens.NAME]`` for each grant.

        Raises:
            ConfigurationError: it can't be read.
        """
        try:
            document = tomllib.loads(text)
        except tomllib.TOMLDecodeError as exc:
            raise ConfigurationError(f"{source} can't be read as TOML: {exc}.") from exc
        tables = document.get("tokens")
        if not isinstance(tables, dict) or document.keys() != {"tokens"}:
            raise ConfigurationError(f"{source} must hold tables [tokens.NAME] and nothing else.")
        by_hash: dict[str, Grant] = {}
        for name, said in cast("dict[str, Any]", tables).items():
            for hash, grant in _parse_grants(name, said, source):
                if hash in by_hash:
                    raise ConfigurationError(f"{source} gives '{name}' and '{by_hash[hash].name}' the same token.")
                by_hash[hash] = grant
        return cls(by_hash)

    @classmethod
    def from_sources(cls, file: Path | None, text: str | None) -> Self:
        """Returns the grants of a file or of a text, none if neither is given.

        Raises:
            ConfigurationError: both are given, or what is given can't be read.
        """
        if file is not None and text:
            raise ConfigurationError(
                "The tokens are named twice; give DSPEX_GATEWAY_TOKENS or DSPEX_GATEWAY_TOKENS_TOML."
            )
        if file is not None:
            return cls.load(file)
        return cls.parse(text, "DSPEX_GATEWAY_TOKENS_TOML") if text else cls()


def to_toml(name: str, token: str, scopes: Sequence[str], sessions: Sequence[str]) -> str:
    """Returns what a tokens file keeps of a token.

    Raises:
        ConfigurationError: there is no such scope.
    """
    text = (
        f"[tokens.{json.dumps(name, ensure_ascii=False)}]\n"
        f"sha256 = {json.dumps([hash_token(token)])}\n"
        f"scopes = {json.dumps(list(scopes))}\n"
        f"sessions = {json.dumps(list(sessions), ensure_ascii=False)}\n"
    )
    Grants.parse(text, "the new token")
    return text


def hash_token(token: str) -> str:
    """Returns the SHA-256 of a token as hex digits: enough for tokens that were drawn at random."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def new_token() -> str:
    """Returns a new token of 256 random bits."""
    return f"dspex_{secrets.token_urlsafe(32)}"


def _parse_grants(name: str, said: Any, source: str) -> list[tuple[str, Grant]]:
    def refuse(problem: str) -> ConfigurationError:
        return ConfigurationError(f"{source}: [tokens.{name}] {problem}.")

    if not isinstance(said, dict):
        raise refuse("must be a table")
    if _SAYS in name:
        raise refuse(f"has '{_SAYS}' in its name, which parts a grant from what its client says")
    if not 0 < len(name) <= _MAX_NAME_LENGTH:
        raise refuse(f"needs a name of 1 to {_MAX_NAME_LENGTH} characters, which the history gives as the author")
    given = cast("dict[str, Any]", said)
    if given.keys() - _KEYS:
        raise refuse(f"has {sorted(given.keys() - _KEYS)}; it may have {', '.join(sorted(_KEYS))}")
    hashes, scopes = _parse_texts(given.get("sha256")), _parse_texts(given.get("scopes"))
    sessions = _parse_texts(given.get("sessions", []))
    if not hashes or not all(map(_HASH.fullmatch, hashes)):
        raise refuse('needs sha256 = ["…"], the SHA-256 of each of its tokens in 64 small hex digits, never a token')
    if not scopes or not set(scopes) <= set(GrantScope):
        raise refuse(f'needs scopes = ["…"] of {", ".join(GrantScope)}')
    if sessions is None:
        raise refuse('needs sessions = ["…"], patterns of session names')
    rate, streams = given.get("calls_per_s"), given.get("streams")
    if any(isinstance(limit, bool) or not isinstance(limit, int | float) or not limit > 0
           for limit in (rate, streams) if limit is not None):  # fmt: skip
        raise refuse("has a limit that isn't a number above 0")
    grant = Grant(name, frozenset(map(GrantScope, scopes)), tuple(sessions), rate, streams)
    return [(hash, grant) for hash in hashes]


def _parse_texts(said: Any) -> list[str] | None:
    texts = cast("list[Any]", said if isinstance(said, list) else [said])
    return cast("list[str]", texts) if all(isinstance(text, str) for text in texts) else None

"""Bearer tokens, of which only hashes are kept, with their scopes and the sessions that they are valid for."""

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

from snakepit_bridge.audit.entries import SAYS, contains_separator, describe_author
from snakepit_bridge.exceptions import ConfigurationError

PERSON_PREFIX = "oidc:"
"""How the names begin of those who sign in by OpenID Connect; no token's name may."""

_HASH = re.compile(r"[0-9a-f]{64}")
_MAX_NAME_LENGTH = 100
_KEYS = {"sha256", "scopes", "sessions", "calls_per_s", "streams"}


class GrantScope(StrEnum):
    """A group of operations that a token may grant."""

    PUBLISH = "publish"
    PREDICT = "predict"
    READ = "read"
    ADMIN = "admin"
    CONTROL = "control"
    RELEASE = "release"
    AUDIT = "audit"
    APPROVE = "approve"
    CONTENT = "content"


# Scopes that administrators have without being granted them.
_OF_ADMIN = frozenset({GrantScope.RELEASE, GrantScope.AUDIT, GrantScope.APPROVE})


@dataclass(frozen=True, slots=True)
class Grant:
    """The permissions of one or more tokens.

    Attributes:
        name: the owner of the tokens; recorded in the history as the author of its changes.
        scopes: publish (Publish, Rollback), predict (Predictions, Scores), read (what shows sessions, programs and
            costs), admin (Register, optimizations, DeadLetters, rules of protection, and what release, audit and
            approve grant), audit (Audit), approve (Approve, Reject), release (Rollouts, Experiments, labels, datasets
            and evaluations), control (the checks and retention of sessions, judges, recorders, and changes of what
            steers the fleet: variables and sessions below ``dspex.``), content (the prompts and answers of LM calls).
        sessions: shell patterns of session names, such as ``user-*``.
        calls_per_s, streams: limits that override the gateway's.
    """

    name: str
    scopes: frozenset[GrantScope]
    sessions: tuple[str, ...]
    calls_per_s: float | None = None
    streams: int | None = None

    def allows(self, scope: GrantScope) -> bool:
        """Check whether the grant has a scope, or one that implies it."""
        return scope in self.scopes or (scope in _OF_ADMIN and GrantScope.ADMIN in self.scopes)

    def format_author(self, declared: str) -> str:
        """Return the author to record for a change: the grant's name, followed by what its client declares."""
        return describe_author(self.name, declared)

    def covers(self, session: str) -> bool:
        """Check whether the grant is valid for a session."""
        return any(fnmatchcase(session, pattern) for pattern in self.sessions)

    @property
    def covers_all(self) -> bool:
        """Whether the grant is valid for every session."""
        return "*" in self.sessions


UNRESTRICTED = Grant("", frozenset(GrantScope), ("*",))
"""The grant of every caller of a gateway without tokens, on loopback."""


@dataclass(frozen=True, slots=True)
class Grants:
    """The grants of a gateway by the hashes of their tokens."""

    by_hash: Mapping[str, Grant] = field(default_factory=dict[str, Grant])

    def __bool__(self) -> bool:
        return bool(self.by_hash)

    def find(self, token: str) -> Grant | None:
        """Return the grant of a token, or None. Looking it up by hash leaks no timing information about others."""
        return self.by_hash.get(hash_token(token))

    @classmethod
    def load(cls, file: Path) -> Self:
        """Read a tokens file.

        Raises:
            ConfigurationError: the file is missing or invalid.
        """
        try:
            return cls.parse(file.read_text(encoding="utf-8"), str(file))
        except (OSError, UnicodeDecodeError) as exc:
            raise ConfigurationError(f"The tokens file {file} can't be read: {exc}.") from exc

    @classmethod
    def parse(cls, text: str, source: str = "the tokens") -> Self:
        """Parse a TOML document with a table ``[tokens.NAME]`` for each grant.

        Raises:
            ConfigurationError: the document is invalid.
        """
        try:
            document = tomllib.loads(text)
        except tomllib.TOMLDecodeError as exc:
            raise ConfigurationError(f"{source} can't be read as TOML: {exc}.") from exc
        tables = document.get("tokens")
        if not isinstance(tables, dict) or document.keys() != {"tokens"}:
            raise ConfigurationError(f"{source} must hold tables [tokens.NAME] and nothing else.")
        by_hash: dict[str, Grant] = {}
        for name, table in cast("dict[str, Any]", tables).items():
            for token_hash, grant in _parse_grants(name, table, source):
                if token_hash in by_hash:
                    other = by_hash[token_hash].name
                    raise ConfigurationError(f"{source} gives '{name}' and '{other}' the same token.")
                by_hash[token_hash] = grant
        return cls(by_hash)

    @classmethod
    def from_sources(cls, file: Path | None, text: str | None) -> Self:
        """Return the grants of a file or a TOML document, or none if neither is given.

        Raises:
            ConfigurationError: both are given, or the one given is invalid.
        """
        if file is not None and text:
            raise ConfigurationError(
                "The tokens are given twice; set DSPEX_GATEWAY_TOKENS or DSPEX_GATEWAY_TOKENS_TOML, not both."
            )
        if file is not None:
            return cls.load(file)
        return cls.parse(text, "DSPEX_GATEWAY_TOKENS_TOML") if text else cls()


def to_toml(name: str, token: str, scopes: Sequence[str], sessions: Sequence[str]) -> str:
    """Return the table of a tokens file that grants a token these scopes.

    Raises:
        ConfigurationError: a scope doesn't exist.
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
    """Return the SHA-256 of a token in hex; no slow hash is needed for random tokens."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def new_token() -> str:
    """Return a new token of 256 random bits."""
    return f"dspex_{secrets.token_urlsafe(32)}"


def _parse_grants(name: str, table: Any, source: str) -> list[tuple[str, Grant]]:
    def refuse(problem: str) -> ConfigurationError:
        return ConfigurationError(f"{source}: [tokens.{name}] {problem}.")

    if not isinstance(table, dict):
        raise refuse("must be a table")
    if problem := _find_name_problem(name):
        raise refuse(problem)
    fields = cast("dict[str, Any]", table)
    if fields.keys() - _KEYS:
        raise refuse(f"has {sorted(fields.keys() - _KEYS)}; it may have {', '.join(sorted(_KEYS))}")
    hashes, scopes = _parse_texts(fields.get("sha256")), _parse_texts(fields.get("scopes"))
    sessions = _parse_texts(fields.get("sessions", []))
    if not hashes or not all(map(_HASH.fullmatch, hashes)):
        raise refuse('needs sha256 = ["…"], the SHA-256 of each token in 64 lowercase hex digits, never the token')
    if not scopes or not set(scopes) <= set(GrantScope):
        raise refuse(f'needs scopes = ["…"] of {", ".join(GrantScope)}')
    if sessions is None:
        raise refuse('needs sessions = ["…"], patterns of session names')
    rate, streams = fields.get("calls_per_s"), fields.get("streams")
    if any(isinstance(limit, bool) or not isinstance(limit, int | float) or not limit > 0
           for limit in (rate, streams) if limit is not None):  # fmt: skip
        raise refuse("has a limit that isn't a number above 0")
    grant = Grant(name, frozenset(map(GrantScope, scopes)), tuple(sessions), rate, streams)
    return [(token_hash, grant) for token_hash in hashes]


def _find_name_problem(name: str) -> str:
    """Return why a grant can't have a name; empty if it can."""
    if contains_separator(name):
        return f"has '{SAYS}' in its name, which separates a grant's name from what its client declares"
    if name.startswith(PERSON_PREFIX):
        return f"has a name that begins with '{PERSON_PREFIX}', as do those of who signs in by OpenID Connect"
    if not 0 < len(name) <= _MAX_NAME_LENGTH:
        return f"needs a name of 1 to {_MAX_NAME_LENGTH} characters, recorded in the history as the author"
    return ""


def _parse_texts(value: Any) -> list[str] | None:
    texts = cast("list[Any]", value if isinstance(value, list) else [value])
    return cast("list[str]", texts) if all(isinstance(text, str) for text in texts) else None

"""Keys by id, as the operator writes them: ``ID:BASE64`` each, the first of which is used for what is written."""

from __future__ import annotations

import base64
import binascii
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from snakepit_bridge.exceptions import ConfigurationError
from snakepit_bridge.redaction import register_secret

KEY_BYTES = 32
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}")
_FORM = "ID:BASE64, as 'dspex-fleet new-key ID' prints it"


@dataclass(frozen=True, slots=True)
class KeyRing:
    """Secret keys by id, in the operator's order.

    Attributes:
        secrets: the keys, never shown.
        source: where they were read from, for errors.
    """

    secrets: Mapping[str, bytes] = field(repr=False)
    source: str = ""

    def __post_init__(self) -> None:
        if not self.secrets:
            raise ConfigurationError(f"{self.source} has no key. Give it at least one, {_FORM}.")

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids, the one that is used for writing first."""
        return tuple(self.secrets)

    @property
    def newest(self) -> str:
        """The id of the key that is used for what is written."""
        return self.ids[0]

    @classmethod
    def parse(cls, text: str, source: str = "the keys") -> Self:
        """Parse keys that are separated by white space; ``#`` begins a comment that ends with its line.

        Args:
            text: the keys.
            source: names the text in errors, which never quote it.

        Raises:
            ConfigurationError: one is malformed, or an id stands there twice.
        """
        found: dict[str, bytes] = {}
        words = [word for line in text.splitlines() for word in line.partition("#")[0].split()]
        for place, word in enumerate(words, 1):
            id_, _, encoded = word.partition(":")
            if not _ID.fullmatch(id_):
                raise ConfigurationError(f"Key {place} of {source} has no valid id. Write {_FORM}.")
            if id_ in found:
                raise ConfigurationError(f"Key '{id_}' stands twice in {source}. Give each key an id of its own.")
            found[id_] = _decode(id_, encoded, source)
            register_secret(encoded)
        return cls(found, source)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read keys from a file.

        Raises:
            ConfigurationError: it can't be read, or a key is malformed.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as exc:
            problem = exc.strerror if isinstance(exc, OSError) else "it isn't UTF-8 text"
            raise ConfigurationError(f"The keys in {path} can't be read: {problem}. Name a file of {_FORM}.") from None
        return cls.parse(text, str(path))


def generate_key(id: str) -> str:
    """Return a new random key as a key file has it.

    Raises:
        ConfigurationError: the id isn't valid.
    """
    if not _ID.fullmatch(id):
        raise ConfigurationError(f"A key's id is up to 32 letters, digits, '.', '_' and '-'; got {id!r}.")
    return f"{id}:{base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()}"


def read_keys(text: str | None, path: Path | None, *, setting: str) -> KeyRing | None:
    """Return the keys of two settings, of which at most one may be given; None if neither is.

    Args:
        text: the keys themselves.
        path: the file that has them.
        setting: the name of the first; that of the second is the same with ``_FILE``.

    Raises:
        ConfigurationError: both are given, or the keys can't be used.
    """
    if text is not None and path is not None:
        raise ConfigurationError(f"{setting} and {setting}_FILE are both set. Give the keys in one of them.")
    if path is not None:
        return KeyRing.read(path)
    return None if text is None else KeyRing.parse(text, setting)


def _decode(id_: str, encoded: str, source: str) -> bytes:
    try:
        secret = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        secret = b""
    if len(secret) != KEY_BYTES:
        raise ConfigurationError(f"Key '{id_}' of {source} isn't {KEY_BYTES} bytes in base64. Write {_FORM}.")
    return secret

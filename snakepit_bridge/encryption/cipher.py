"""The cipher: encrypts what a fleet keeps in Redis, each value bound to its place.

A value is ``encrypted:KEY:``, then AES-GCM's nonce and ciphertext. The kind of value and its place, such as a session
and the name of a variable, are authenticated with it, so that it can't be read anywhere else. Each kind in each
namespace has a key of its own, derived from the operator's. Values that scripts compare are encrypted by AES-SIV:
equal values of one place are equal bytes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from snakepit_bridge.encryption.keys import KeyRing
from snakepit_bridge.exceptions import ConfigurationError, DecryptionError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESSIV

_NAME = "encrypted:"
PREFIX: Final = _NAME.encode()
"""How every encrypted value begins; no JSON does."""

DIGESTS: Final = "digests"
"""The id of the key of digests. It encrypts nothing, and isn't rotated with the others."""

# Kinds of which equal values in one place are equal bytes.
VARIABLE: Final = "variable"
_COMPARED = frozenset({VARIABLE})
_NONCE_BYTES = 12


@dataclass(frozen=True, slots=True)
class EncryptionOptions:
    """How a process encrypts.

    Attributes:
        keys: the operator's keys; None encrypts nothing.
        accepts_plain: whether unencrypted values are read although there are keys, while data is migrated.
    """

    keys: KeyRing | None = None
    accepts_plain: bool = False

    def cipher(self, namespace: str) -> Cipher:
        """Return the cipher of a namespace.

        Raises:
            ConfigurationError: the keys can't be used, or what encrypts by them isn't installed.
        """
        return Cipher(namespace, self.keys, accepts_plain=self.accepts_plain)


NO_ENCRYPTION: Final = EncryptionOptions()


@dataclass(slots=True)
class _DerivedKeys:
    """The keys of one namespace by key id and kind, each derived once."""

    namespace: str
    ring: KeyRing
    derived: dict[tuple[str, str], Any] = field(default_factory=dict[tuple[str, str], Any])

    def gcm(self, key: str, kind: str) -> AESGCM:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        return self._get(key, kind, 32, AESGCM)

    def siv(self, key: str, kind: str) -> AESSIV:
        from cryptography.hazmat.primitives.ciphers.aead import AESSIV

        return self._get(key, kind, 64, AESSIV)

    def mac(self, kind: str) -> bytes:
        return self._get(DIGESTS, kind, 32, bytes)

    def _get(self, key: str, kind: str, length: int, build: Callable[[bytes], Any]) -> Any:
        found = self.derived.get((key, kind))
        if found is None:
            found = self.derived[key, kind] = build(self._derive(key, kind, length))
        return found

    def _derive(self, key: str, kind: str, length: int) -> bytes:
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        info = json.dumps(["dspex-fleet", self.namespace, kind]).encode()
        return HKDF(SHA256(), length, None, info).derive(self.ring.secrets[key])


class Cipher:
    """Encrypts and decrypts the values of one namespace. Safe in threads; without keys it passes everything through.

    Args:
        namespace: the fleet's.
        keys: the operator's keys.
        accepts_plain: whether unencrypted values are read although there are keys.

    Attributes:
        is_on: whether it encrypts.

    Raises:
        ConfigurationError: there is no key to encrypt with or none for digests, or the extra ``encryption`` is missing.
    """

    __slots__ = ("_accepts_plain", "_derived", "_namespace", "_ring", "_writes", "is_on")

    def __init__(self, namespace: str, keys: KeyRing | None = None, *, accepts_plain: bool = False) -> None:
        self._namespace = namespace
        self._ring = keys
        self._accepts_plain = accepts_plain
        self.is_on = keys is not None
        if keys is not None:
            self._derived = _DerivedKeys(namespace, keys)
            self._writes = _choose_key(keys)
            _check_installed()

    def __repr__(self) -> str:
        return f"Cipher({self._namespace!r}, keys={self.key_ids!r})"

    @property
    def key_ids(self) -> tuple[str, ...]:
        """The ids of the keys that can decrypt, the one that encrypts first."""
        return () if self._ring is None else tuple(id_ for id_ in self._ring.ids if id_ != DIGESTS)

    def encrypt(self, kind: str, place: Sequence[str], data: bytes) -> bytes:
        """Return a value as it is stored.

        Args:
            kind: the kind of value, such as ``variable``.
            place: what it belongs to, such as a session and the variable's name; nothing else decrypts it.
            data: the value.
        """
        return self._encrypt_by(self._writes, kind, place, data) if self.is_on else data

    def decrypt(self, kind: str, place: Sequence[str], data: bytes) -> bytes:
        """Return the value of what is stored.

        Raises:
            DecryptionError: it has another key or place, was changed, or is unencrypted and may not be.
        """
        if not data.startswith(PREFIX):
            self.check_plain(kind, place)
            return data
        key, _, rest = data[len(PREFIX) :].partition(b":")
        return self._decrypt_by(key.decode(errors="replace"), kind, place, rest)

    def check_plain(self, kind: str, place: Sequence[str]) -> None:
        """Check that a value may be unencrypted.

        Raises:
            DecryptionError: this process has keys, and isn't set to read what is unencrypted.
        """
        if self.is_on and not self._accepts_plain:
            raise DecryptionError(
                _describe(kind, place),
                "it isn't encrypted, although this process has keys. Set DSPEX_ENCRYPTION_ACCEPTS_PLAIN=1 while "
                "unencrypted data is left, or drop it",
            )

    def encodings(self, kind: str, place: Sequence[str], data: bytes) -> list[bytes]:
        """Return the other bytes that this value may be stored as: under older keys, or as it is if that is read."""
        others = [self._encrypt_by(key, kind, place, data) for key in self.key_ids[1:]]
        return [*others, data] if self.is_on and self._accepts_plain else others

    def encrypt_text(self, kind: str, place: Sequence[str], data: bytes) -> str:
        """Return a value as text for a JSON message; it names its kind."""
        key, _, rest = self.encrypt(kind, place, data)[len(PREFIX) :].partition(b":")
        return f"{_NAME}{kind}:{key.decode()}:{base64.b64encode(rest).decode()}"

    def decrypt_text(self, text: str, place: Sequence[str]) -> bytes:
        """Return the value of a text that ``encrypt_text`` wrote.

        Raises:
            DecryptionError: it has another key or place, or was changed.
        """
        kind, key, encoded = _split_text(text)
        try:
            rest = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            rest = b""
        return self._decrypt_by(key, kind, place, rest)

    def check_key(self, text: str) -> None:
        """Check that there is the key for a text that ``encrypt_text`` wrote.

        Raises:
            DecryptionError: there isn't.
        """
        kind, key, _ = _split_text(text)
        self._find_key(key, kind, ())

    def digest(self, kind: str, data: bytes) -> str:
        """Return a digest of content: with keys one that nobody without them can compute."""
        if not self.is_on:
            return hashlib.sha256(data).hexdigest()
        return hmac.digest(self._derived.mac(kind), data, "sha256").hex()

    def _encrypt_by(self, key: str, kind: str, place: Sequence[str], data: bytes) -> bytes:
        bound = _bind(kind, place)
        if kind in _COMPARED:
            sealed = self._derived.siv(key, kind).encrypt(data, [bound])
        else:
            nonce = os.urandom(_NONCE_BYTES)
            sealed = nonce + self._derived.gcm(key, kind).encrypt(nonce, data, bound)
        return PREFIX + key.encode() + b":" + sealed

    def _decrypt_by(self, key: str, kind: str, place: Sequence[str], sealed: bytes) -> bytes:
        from cryptography.exceptions import InvalidTag

        self._find_key(key, kind, place)
        bound = _bind(kind, place)
        try:
            if kind in _COMPARED:
                return self._derived.siv(key, kind).decrypt(sealed, [bound])
            nonce, rest = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
            return self._derived.gcm(key, kind).decrypt(nonce, rest, bound)
        except (InvalidTag, ValueError):
            problem = (
                f"it was changed, or moved here from another place, or key '{key}' isn't the one it was written by"
            )
            raise DecryptionError(_describe(kind, place), problem) from None

    def _find_key(self, key: str, kind: str, place: Sequence[str]) -> None:
        if key in self.key_ids:
            return
        problem = f"it is encrypted with key '{key}', and this process has "
        problem += f"{', '.join(self.key_ids)}" if self.is_on else "no keys"
        raise DecryptionError(
            _describe(kind, place), f"{problem}. Add that key to DSPEX_ENCRYPTION_KEYS or its file, and restart it"
        )


PLAIN: Final = Cipher("")
"""A cipher without keys."""


def is_encrypted(value: object) -> bool:
    """Check whether a value of a message is one that ``Cipher.encrypt_text`` wrote."""
    return isinstance(value, str) and value.startswith(_NAME)


def kind_of(text: str) -> str:
    """Return the kind of a text that ``Cipher.encrypt_text`` wrote."""
    return _split_text(text)[0]


def _split_text(text: str) -> tuple[str, str, str]:
    kind, _, rest = text.removeprefix(_NAME).partition(":")
    key, _, encoded = rest.partition(":")
    return kind, key, encoded


def _bind(kind: str, place: Sequence[str]) -> bytes:
    return json.dumps([kind, *place], ensure_ascii=True).encode()


def _describe(kind: str, place: Sequence[str]) -> str:
    return f"{kind} {' '.join(place)}".strip()


def _choose_key(keys: KeyRing) -> str:
    """Return the id of the key that encrypts.

    Raises:
        ConfigurationError: there is none, or none for digests.
    """
    usable = [id_ for id_ in keys.ids if id_ != DIGESTS]
    if usable and DIGESTS in keys.ids:
        return usable[0]
    lacking = f"'{DIGESTS}', for digests of content" if usable else f"a key besides '{DIGESTS}', to encrypt with"
    raise ConfigurationError(f"{keys.source} lacks {lacking}. Add what 'dspex-fleet new-key ID' prints.")


def _check_installed() -> None:
    try:
        import cryptography  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError:
        raise ConfigurationError(
            "Encryption keys are set, but the package cryptography isn't installed: "
            "pip install 'dspex-fleet[encryption]'."
        ) from None

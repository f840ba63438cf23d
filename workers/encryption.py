"""How a process of the fleet encrypts what it stores and signs what it sends, as its settings say."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from config.settings import FleetSettings
from snakepit_bridge.encryption.cipher import EncryptionOptions
from snakepit_bridge.encryption.keys import KeyRing, read_keys
from snakepit_bridge.protocol.signatures import MessageSigner


def load_encryption(settings: FleetSettings) -> EncryptionOptions:
    """Return how a worker encrypts.

    Raises:
        ConfigurationError: its keys can't be read or used.
    """
    keys = _read(settings.encryption_keys, settings.encryption_keys_file, "DSPEX_ENCRYPTION_KEYS")
    return EncryptionOptions(keys, accepts_plain=settings.encryption_accepts_plain)


def load_signing_keys(settings: FleetSettings) -> KeyRing | None:
    """Return the keys that sign messages; None if there are none.

    Raises:
        ConfigurationError: they can't be read.
    """
    return _read(settings.signing_keys, settings.signing_keys_file, "DSPEX_SIGNING_KEYS")


def load_signer(settings: FleetSettings) -> MessageSigner | None:
    """Return what signs and checks the fleet's messages; None without keys.

    Raises:
        ConfigurationError: the keys can't be read.
    """
    keys = load_signing_keys(settings)
    return None if keys is None else MessageSigner(settings.namespace, keys)


def describe_keys(settings: FleetSettings) -> dict[str, Any]:
    """Return which keys a worker has, by their ids, and what is wrong with their files."""
    # Loaded here, since it brings the command line's libraries.
    from snakepit_bridge.cli.secret_checks import check_key_file

    encryption, signing = load_encryption(settings).cipher(settings.namespace), load_signing_keys(settings)
    files = {"encryption keys": settings.encryption_keys_file, "signing keys": settings.signing_keys_file}
    checks = [check for what, path in files.items() if path is not None for check in check_key_file(what, path)]
    return {
        "encryption": encryption.key_ids,
        "signing": () if signing is None else signing.ids,
        "checks": [asdict(check) for check in checks],
    }


def _read(text: SecretStr | None, path: Path | None, setting: str) -> KeyRing | None:
    return read_keys(None if text is None else text.get_secret_value(), path, setting=setting)

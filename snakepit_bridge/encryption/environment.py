"""How the environment says that a process encrypts and signs, for those that have no settings of their own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from snakepit_bridge.encryption.cipher import EncryptionOptions
from snakepit_bridge.encryption.keys import KeyRing, read_keys
from snakepit_bridge.exceptions import ConfigurationError

_KEYS = "DSPEX_ENCRYPTION_KEYS"
_SIGNING_KEYS = "DSPEX_SIGNING_KEYS"
_ACCEPTS_PLAIN = "DSPEX_ENCRYPTION_ACCEPTS_PLAIN"
_BOOLEANS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


def read_environment(environment: Mapping[str, str] | None = None) -> EncryptionOptions:
    """Return how a process encrypts by ``DSPEX_ENCRYPTION_KEYS``, ``…_KEYS_FILE`` and ``…_ACCEPTS_PLAIN``.

    Args:
        environment: the variables; the process's own if None.

    Raises:
        ConfigurationError: the keys can't be read, or a variable is malformed.
    """
    given = os.environ if environment is None else environment
    keys = _read(given, _KEYS)
    accepts_plain = _BOOLEANS.get(given.get(_ACCEPTS_PLAIN, "").lower() or "0")
    if accepts_plain is None:
        raise ConfigurationError(f"{_ACCEPTS_PLAIN} must be 1 or 0.")
    return EncryptionOptions(keys, accepts_plain=accepts_plain)


def read_signing_keys(environment: Mapping[str, str] | None = None) -> KeyRing | None:
    """Return the keys of ``DSPEX_SIGNING_KEYS`` or ``…_FILE``; None if neither is set.

    Args:
        environment: the variables; the process's own if None.

    Raises:
        ConfigurationError: the keys can't be read.
    """
    return _read(os.environ if environment is None else environment, _SIGNING_KEYS)


def _read(environment: Mapping[str, str], name: str) -> KeyRing | None:
    path = environment.get(f"{name}_FILE")
    return read_keys(environment.get(name) or None, Path(path) if path else None, setting=name)

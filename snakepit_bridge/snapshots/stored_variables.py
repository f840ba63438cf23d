"""Variables as a session's keys in Redis have them: encoded, and encrypted if there are keys.

Scripts compare these bytes, so equal values of a variable are equal bytes; see ``encryption/cipher.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from snakepit_bridge.encryption.cipher import PLAIN, VARIABLE, Cipher
from snakepit_bridge.variables import Variable


@dataclass(frozen=True, slots=True)
class StoredVariables:
    """Encodes and decodes the variables of a store's sessions.

    Attributes:
        cipher: the fleet's.
    """

    cipher: Cipher = PLAIN

    def encode(self, session: str, name: str, variable: Variable | None) -> bytes:
        """Return a variable's bytes; empty for one that is deleted."""
        return b"" if variable is None else self.cipher.encrypt(VARIABLE, (session, name), variable.encode())

    def decode(self, session: str, name: str, stored: bytes) -> Variable | None:
        """Return the variable of these bytes; None if they are empty.

        Raises:
            DecryptionError: they can't be decrypted.
        """
        return Variable.decode(name, self.cipher.decrypt(VARIABLE, (session, name), stored)) if stored else None

    def script_arguments(self, session: str, changes: Mapping[str, Variable | None]) -> list[bytes | str | int]:
        """Return changes as the script ``publish`` takes them.

        It gets how many words the changes are, name and bytes of each, then name and bytes of what an equal value may
        be stored as: under another key, so that a value that stays the same is no change.
        """
        updates, equals = list[bytes | str](), list[bytes | str]()
        for name, variable in changes.items():
            updates += (name, self.encode(session, name, variable))
            if variable is not None and self.cipher.is_on:
                for other in self.cipher.encodings(VARIABLE, (session, name), variable.encode()):
                    equals += (name, other)
        return [len(updates), *updates, *equals]

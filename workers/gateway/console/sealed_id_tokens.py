"""Id tokens at rest: Redis holds them encrypted by the random id in the visitor's cookie, which it doesn't have."""

from __future__ import annotations

import hashlib
import hmac

from joserfc import jwe
from joserfc.jwk import OctKey

_HEADER = {"alg": "dir", "enc": "A256GCM"}


def seal_id_token(id_token: str, visitor_id: str) -> str:
    """Return an id token that the visitor's cookie alone opens.

    Args:
        id_token: the token.
        visitor_id: the random id in the cookie.
    """
    return jwe.encrypt_compact(_HEADER, id_token, _derive_key(visitor_id))


def open_id_token(sealed: str, visitor_id: str) -> str:
    """Return a sealed id token.

    Raises:
        JoseError: it isn't of this visitor.
    """
    plain = jwe.decrypt_compact(sealed, _derive_key(visitor_id)).plaintext
    return (plain or b"").decode()


def _derive_key(visitor_id: str) -> OctKey:
    return OctKey.import_key(hmac.new(visitor_id.encode(), b"id token", hashlib.sha256).digest())

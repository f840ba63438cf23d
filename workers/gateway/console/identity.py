"""Who signs in by OpenID Connect, and what a sign-in is begun with. It needs no package of the extra ``oidc``."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field


class SignInError(Exception):
    """A visitor can't be signed in. What it says is shown to them.

    Args:
        problem: what is wrong.
        status: the HTTP status of the page that says so.
    """

    def __init__(self, problem: str, status: int = 401) -> None:
        super().__init__(problem)
        self.status = status


@dataclass(frozen=True, slots=True)
class SignInRequest:
    """What a visitor is sent to the provider with, and their return is checked against.

    Attributes:
        state: names the request.
        nonce: what the id token must have.
        verifier: of PKCE: whoever has the code alone can't use it.
    """

    state: str
    nonce: str
    verifier: str

    @classmethod
    def create(cls) -> SignInRequest:
        """Return a new request."""
        return cls(*(secrets.token_urlsafe(32) for _ in range(3)))


@dataclass(frozen=True, slots=True)
class Person:
    """Who has signed in at the provider.

    Attributes:
        name: the name as grants have it.
        groups: their groups.
        id_token: what the provider said of them, by which it knows whom to sign out.
    """

    name: str
    groups: frozenset[str]
    id_token: str = field(default="", repr=False)

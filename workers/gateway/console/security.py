"""What protects the console in a browser: the headers of its pages, and its cookie."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from starlette.requests import Request
from starlette.responses import Response

from workers.gateway.console.sign_ins import Visitor

PAGE_HEADERS: Mapping[str, str] = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    # With `no-referrer` a browser hides from us that a form is from one of our pages.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "no-store",
}
"""The headers of every page."""


class CookieJar:
    """Reads and sets the cookie that holds a visitor's id.

    Args:
        secure: whether it is sent by TLS alone.
    """

    NAME: ClassVar[str] = "dspex_console"

    def __init__(self, *, secure: bool) -> None:
        self._secure = secure
        # A browser accepts this prefix only of a host itself, for all its paths, and by TLS.
        self._name = f"__Host-{self.NAME}" if secure else self.NAME

    def read(self, request: Request) -> str:
        """Return the id in a request's cookie; empty without one."""
        return request.cookies.get(self._name, "")

    def keep(self, request: Request, response: Response, visitor: Visitor) -> None:
        """Set the cookie of a visitor who has none yet, unless the response sets one."""
        if self.read(request) != visitor.id and "set-cookie" not in response.headers:
            self.set(response, visitor)

    def set(self, response: Response, visitor: Visitor) -> None:
        """Set the cookie of a visitor. Scripts can't read it, and no other site's link or form sends it."""
        response.set_cookie(self._name, visitor.id, path="/", secure=self._secure, httponly=True, samesite="strict")

    def remove(self, response: Response) -> None:
        """Remove the cookie."""
        response.delete_cookie(self._name, path="/", secure=self._secure, httponly=True, samesite="strict")

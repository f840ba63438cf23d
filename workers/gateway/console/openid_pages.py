"""Sign in to and out of the console by OpenID Connect: the way to the provider, and back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from workers.gateway.console.identity import SignInError, SignInRequest
from workers.gateway.console.openid_provider import CALLBACK_PATH, OpenIdProvider
from workers.gateway.console.security import CookieJar
from workers.gateway.console.sign_ins import SignIns, Visitor

OPENID_PATH = "/sign-in/oidc"

_MAX_LENGTH = 4_096


class OpenIdPages:
    """The two pages of the sign-in, and the way out.

    Args:
        provider: the provider.
        sign_ins: who is signed in, and who is on the way.
        cookies: sets the visitors' cookies.
        show_problem: shows the sign-in again, with what is wrong and an HTTP status.
        local_path: returns where a visitor goes on, never another site.
    """

    def __init__(
        self,
        provider: OpenIdProvider,
        sign_ins: SignIns,
        cookies: CookieJar,
        show_problem: Callable[[Request, Visitor, str, int], Response],
        local_path: Callable[[str], str],
    ) -> None:
        self._provider = provider
        self._sign_ins = sign_ins
        self._cookies = cookies
        self._show_problem = show_problem
        self._local_path = local_path

    def answers(self) -> tuple[tuple[str, str, Callable[[Request, Visitor], Awaitable[Response]]], ...]:
        """Return each page's path, method and function."""
        return ((OPENID_PATH, "GET", self.start), (CALLBACK_PATH, "GET", self.finish))

    async def start(self, request: Request, visitor: Visitor) -> Response:
        """Send a visitor to the provider."""
        sign_in = SignInRequest.create()
        try:
            url = await self._provider.sign_in_url(sign_in)
        except SignInError as exc:
            return self._show_problem(request, visitor, str(exc), exc.status)
        back = self._local_path(request.query_params.get("next", "")[:_MAX_LENGTH])
        await self._sign_ins.begin(visitor, sign_in, back)
        return RedirectResponse(url, 303)

    async def find_sign_out(self, visitor: Visitor) -> str:
        """Return where a visitor who signed in at the provider is signed out there; empty if that isn't possible.

        Raises:
            SignInError: the provider can't be reached.
        """
        id_token = await self._sign_ins.find_id_token(visitor)
        return await self._provider.sign_out_url(id_token) if id_token else ""

    async def finish(self, request: Request, visitor: Visitor) -> Response:
        """Sign the visitor in whom the provider sent back, under a new id, so that nobody else knows it."""
        query = request.query_params
        try:
            begun = await self._sign_ins.take_begun(visitor, query.get("state", "")[:_MAX_LENGTH])
            if begun is None:
                raise SignInError("This sign-in has expired, or wasn't begun in this browser. Try again.")
            if not (code := query.get("code", "")[:_MAX_LENGTH]):
                raise SignInError("Your provider didn't sign you in.")
            sign_in, back = begun
            signed_in = await self._sign_ins.sign_person_in(await self._provider.identify(code, sign_in))
        except SignInError as exc:
            return self._show_problem(request, visitor, str(exc), exc.status)
        if signed_in is None:
            return self._show_problem(request, visitor, "None of your groups may use this console.", 403)
        if visitor.grant is not None:
            await self._sign_ins.sign_out(visitor)
        response = RedirectResponse(back, 303)
        self._cookies.set(response, signed_in)
        return response

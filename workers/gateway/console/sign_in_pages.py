"""Sign in and out of the console, and allow changes: it is read-only until a visitor says otherwise."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from workers.gateway.access.gate import RequestGate
from workers.gateway.access.openid_settings import OpenIdSettings
from workers.gateway.console.forms import last_value, read_form
from workers.gateway.console.identity import SignInError
from workers.gateway.console.page import PAGE_TYPE
from workers.gateway.console.rendering import PageRenderer
from workers.gateway.console.security import CookieJar
from workers.gateway.console.sign_ins import SignIns, Visitor
from workers.gateway.errors import UnauthenticatedError
from workers.gateway.http.requests import RequestReceiver, read_address

if TYPE_CHECKING:
    from workers.gateway.console.openid_pages import OpenIdPages

SIGN_IN = "/sign-in"
_SIGN_IN_ACTION = "Console.SignIn"
_DENIED = (401, 403)
# Of this site, in printable ASCII: browsers skip tabs, and take // and /\\ for another host.
_LOCAL_PATH = re.compile(r"/(?![/\\])[!-~]*")

SignInAnswer = tuple[str, str, Callable[[Request, Visitor], Awaitable[Response]]]


class SignInPages:
    """The pages that need no operation.

    Args:
        receiver: reads the forms.
        sign_ins: who is signed in.
        cookies: sets the visitors' cookies.
        renderer: of the pages.
        gate: knows whether the gateway has tokens; without them everybody on the machine may do everything.
        openid: signs in by OpenID Connect; None if nobody does.
    """

    def __init__(
        self,
        receiver: RequestReceiver,
        sign_ins: SignIns,
        cookies: CookieJar,
        renderer: PageRenderer,
        gate: RequestGate,
        *,
        openid: OpenIdSettings | None = None,
    ) -> None:
        self._receiver = receiver
        self._sign_ins = sign_ins
        self._cookies = cookies
        self._renderer = renderer
        self._gate = gate
        self._openid = openid
        self._openid_pages = None if openid is None else self._open_pages(openid)

    def answers(self) -> Iterable[SignInAnswer]:
        """Return each page's path, method and function."""
        return (
            (SIGN_IN, "GET", self.show),
            (SIGN_IN, "POST", self.sign_in),
            ("/sign-out", "POST", self.sign_out),
            ("/changes", "POST", self.allow_changes),
            *(() if self._openid_pages is None else self._openid_pages.answers()),
        )

    def _open_pages(self, settings: OpenIdSettings) -> OpenIdPages:
        # What the extra `oidc` has is imported where it is used alone.
        from workers.gateway.console.openid_pages import OpenIdPages
        from workers.gateway.console.openid_provider import OpenIdProvider

        return OpenIdPages(OpenIdProvider(settings), self._sign_ins, self._cookies, self._show_problem, _local_path)

    def _show_problem(self, request: Request, visitor: Visitor, problem: str, status: int) -> Response:
        if status in _DENIED:
            self._note_denied(request, problem)
        return self._render(request, visitor, problem=problem, status=status)

    def _note_denied(self, request: Request, problem: str) -> None:
        self._gate.denied.note(UnauthenticatedError(problem), _SIGN_IN_ACTION, address=read_address(request))

    async def show(self, request: Request, visitor: Visitor) -> Response:
        """Show the form."""
        if visitor.grant is not None:
            return RedirectResponse(_local_path(request.query_params.get("next", "")), 303)
        return self._render(request, visitor, problem="", status=200)

    async def sign_in(self, request: Request, visitor: Visitor) -> Response:
        """Sign a visitor in under a new id, so that nobody else knows it."""
        form = await read_form(self._receiver, request, visitor)
        signed_in = await self._sign_ins.sign_in(last_value(form, "token").strip())
        if signed_in is None:
            self._note_denied(request, "The token is unknown to this gateway")
            return self._render(request, visitor, problem="This gateway doesn't know the token.", status=401)
        if visitor.grant is not None:
            await self._sign_ins.sign_out(visitor)
        response = RedirectResponse(_local_path(request.query_params.get("next", "")), 303)
        self._cookies.set(response, signed_in)
        return response

    async def sign_out(self, request: Request, visitor: Visitor) -> Response:
        """Sign a visitor out, and at the OpenID provider too if they have signed in there."""
        await read_form(self._receiver, request, visitor)
        response: Response = RedirectResponse(SIGN_IN if self._gate.requires_token else "/", 303)
        try:
            if self._openid_pages is not None and (url := await self._openid_pages.find_sign_out(visitor)):
                # A page of its own: browsers don't follow a form's redirect to another site than its page allows.
                response = Response(self._renderer.render("leaving.html.j2", url=url), media_type=PAGE_TYPE)
        except SignInError:
            problem = "You are signed out here, but your provider can't be reached: you may still be signed in there."
            response = self._render(request, Visitor(""), problem=problem, status=200)
        await self._sign_ins.sign_out(visitor)
        self._cookies.remove(response)
        return response

    async def allow_changes(self, request: Request, visitor: Visitor) -> Response:
        """Allow changes, or make the console read-only again."""
        form = await read_form(self._receiver, request, visitor)
        if visitor.grant is None:
            return RedirectResponse(SIGN_IN, 303)
        await self._sign_ins.allow_changes(visitor, allow=last_value(form, "allow") == "yes")
        return RedirectResponse(_local_path(last_value(form, "next")), 303)

    def _render(self, request: Request, visitor: Visitor, *, problem: str, status: int) -> Response:
        text = self._renderer.render(
            "sign_in.html.j2",
            visitor=visitor,
            problem=problem,
            next=request.query_params.get("next", ""),
            provider="" if self._openid is None else self._openid.provider,
        )
        return Response(text, status, media_type=PAGE_TYPE)


def _local_path(path: str) -> str:
    """Return where a visitor goes on: a path of the console, never another site."""
    return path if _LOCAL_PATH.fullmatch(path) else "/"

"""The console's routes: who may see which page, what is sent with each, and what is shown where something fails."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import replace

from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from snakepit_bridge.exceptions import StoreUnavailableError
from workers.gateway.access.authentication import Grant
from workers.gateway.access.gate import RequestGate
from workers.gateway.access.openid_settings import OpenIdSettings
from workers.gateway.console.caller import OperationCaller
from workers.gateway.console.forms import read_form
from workers.gateway.console.live import LiveFeeds, encode_event
from workers.gateway.console.page import Page, Visit, link
from workers.gateway.console.pages import PAGES
from workers.gateway.console.rendering import PageRenderer
from workers.gateway.console.security import PAGE_HEADERS, CookieJar
from workers.gateway.console.sign_in_pages import SIGN_IN, SignInPages
from workers.gateway.console.sign_ins import SignIns, Visitor
from workers.gateway.console.static_files import StaticFiles
from workers.gateway.console.trace_links import TraceLinks
from workers.gateway.errors import PageNotFoundError, TooManyError, http_status, log_failure, to_message
from workers.gateway.http.event_stream import EVENT_STREAM, EventStreamResponse
from workers.gateway.http.requests import RequestReceiver
from workers.gateway.operation import Operation
from workers.gateway.settings import GatewayLimits

# A browser opens another when one ends; by then a visitor may have signed out.
_STREAM_S = 600.0

Answer = Callable[[Request, Visitor], Awaitable[Response]]


class Console:
    """The pages that a gateway serves to people.

    Args:
        operations: the gateway's.
        gate: admits their calls.
        receiver: receives the requests.
        sign_ins: who is signed in.
        limits: the gateway's.
        secure: whether the gateway serves TLS, so that the cookie is never sent without.
        trace_url: where a trace is shown, with ``{trace_id}``; empty for no links to traces.
        openid: the OpenID provider that signs visitors in; None for none.
    """

    def __init__(
        self,
        operations: Iterable[Operation],
        gate: RequestGate,
        receiver: RequestReceiver,
        sign_ins: SignIns,
        limits: GatewayLimits,
        *,
        secure: bool,
        trace_url: str = "",
        openid: OpenIdSettings | None = None,
    ) -> None:
        self._caller = OperationCaller(operations, gate)
        self._gate = gate
        self._receiver = receiver
        self._sign_ins = sign_ins
        self._limits = limits
        self._openid = openid
        self._cookies = CookieJar(secure=secure)
        self._static = StaticFiles()
        self._renderer = PageRenderer(
            {"link": link, "static": self._static.link, "trace_link": TraceLinks(trace_url).link}
        )
        self._feeds = LiveFeeds()

    def routes(self) -> list[Route]:
        """Return the routes of all pages and of the files that they load."""
        signing = SignInPages(
            self._receiver, self._sign_ins, self._cookies, self._renderer, self._gate, openid=self._openid
        )
        pages: dict[str, dict[str, Answer]] = {}
        for page in PAGES:
            pages.setdefault(page.path, {})[page.method] = self._answer_of(page)
        for path, method, answer in signing.answers():
            pages.setdefault(path, {})[method] = answer
        pages["/"] = {"GET": self._show_first_page}
        return [
            *(Route(path, self._endpoint(answers), methods=list(answers)) for path, answers in pages.items()),
            Route("/static/{file}", self._static.serve, methods=["GET"]),
        ]

    async def show_missing(self, request: Request) -> Response:
        """Answer a browser's request for a path that doesn't exist."""
        return await self._handle(request, _raise_missing)

    def _endpoint(self, answers: Mapping[str, Answer]) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            return await self._handle(request, answers["GET" if request.method == "HEAD" else request.method])

        return endpoint

    async def _handle(self, request: Request, answer: Answer) -> Response:
        """Answer a request with a page, whatever happens."""
        visitor = Visitor("")
        try:
            if self._receiver.check_page_sender(request):
                response = Response(self._renderer.render("arrival.html.j2"), media_type="text/html")
            else:
                visitor = await self._sign_ins.find(self._cookies.read(request))
                response = await answer(request, visitor)
                self._cookies.keep(request, response, visitor)
        except ClientDisconnect:
            return Response(status_code=499)
        except Exception as exc:  # noqa: BLE001 - shown to the visitor, and logged if unexpected
            response = self._show_error(request, exc, visitor)
        for name, value in PAGE_HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    def _answer_of(self, page: Page) -> Answer:
        async def answer(request: Request, visitor: Visitor) -> Response:
            if visitor.grant is None:
                return _send_to_sign_in(request, page)
            visit = self._visit(request, visitor)
            # Who may not see a page gets the answer that a page gets that doesn't exist.
            if not self._is_there(page, visitor.grant):
                self._caller.deny(visitor.grant, page.needs)
                raise PageNotFoundError(page.path)
            if page.method == "POST":
                visit = replace(visit, form=await read_form(self._receiver, request, visitor))
            self._receiver.trust(request)
            if page.live and EVENT_STREAM in request.headers.get("accept", ""):
                return self._stream(page, visit)
            return await page.answer(visit)

        return answer

    async def _show_first_page(self, request: Request, visitor: Visitor) -> Response:
        """Send a visitor to the first page of their menu."""
        if visitor.grant is None:
            return RedirectResponse(SIGN_IN, 303)
        menu = self._visit(request, visitor).menu
        if not menu:
            raise PageNotFoundError("/")
        return RedirectResponse(menu[0].path, 303)

    def _is_there(self, page: Page, grant: Grant) -> bool:
        """Check whether a page exists for a visitor."""
        return self._caller.allows(grant, page.needs, may_change=True) and (grant.covers_all or not page.all_sessions)

    def _visit(self, request: Request, visitor: Visitor) -> Visit:
        grant = visitor.grant
        menu = () if grant is None else tuple(
            page for page in PAGES if page.menu and self._is_there(page, grant)
        )  # fmt: skip
        return Visit(request.url.path, dict(request.query_params), visitor, self._caller, self._renderer, menu=menu)

    def _stream(self, page: Page, visit: Visit) -> Response:
        # One rendering for all viewers of a grant has nothing that belongs to one of them, such as a form.
        shared = replace(visit, visitor=replace(visit.visitor, id="", may_change=False))
        key = (page.path, visit.grant, repr(sorted(visit.query.items())))

        async def render() -> str:
            return bytes((await page.answer(shared)).body).decode()

        events = self._feeds.events(key, render, self._gate.draining)
        return EventStreamResponse(self._hold_stream(visit, events), self._limits.write_s)

    async def _hold_stream(self, visit: Visit, events: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
        ends_at = time.monotonic() + min(_STREAM_S, self._limits.stream_s)
        try:
            with self._gate.count_stream(visit.grant):
                async with aclosing(events):
                    async for event in events:
                        yield event
                        if time.monotonic() > ends_at:
                            return
        except TooManyError as exc:
            yield encode_event("problem", str(exc))

    def _show_error(self, request: Request, error: Exception, visitor: Visitor) -> Response:
        log_failure(error, request.url.path)
        status, message = http_status(error), to_message(error)
        visit = self._visit(request, visitor)
        if isinstance(error, StoreUnavailableError):
            return visit.render("away.html.j2", status=status, problem=message.message)
        return visit.render("error.html.j2", status=status, problem=message.message, kind=message.kind)


async def _raise_missing(request: Request, visitor: Visitor) -> Response:
    raise PageNotFoundError(request.url.path)


def _send_to_sign_in(request: Request, page: Page) -> Response:
    """Send a visitor to the sign-in, and back afterwards if it was a page that can be shown then."""
    query = f"?{request.url.query}" if request.url.query else ""
    back = f"{request.url.path}{query}" if page.method == "GET" and not page.live else "/"
    return RedirectResponse(link(SIGN_IN, next="" if back == "/" else back), 303)

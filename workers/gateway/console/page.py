"""What a page of the console is, and what its function gets: the visit."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlencode
from uuid import uuid4

from starlette.responses import RedirectResponse, Response

from workers.gateway.access.authentication import Grant
from workers.gateway.console.caller import OperationCaller
from workers.gateway.console.forms import Form, last_value
from workers.gateway.console.rendering import PageRenderer
from workers.gateway.console.sign_ins import Visitor

PAGE_TYPE = "text/html; charset=utf-8"

_NOTICES = {
    "decided": "Decided: everybody gets that arm.",
    "dropped": "The message was dropped.",
    "experiment-started": "The experiment was started.",
    "labelled": "The label is set.",
    "published": "Published. Workers apply it within a second.",
    "retried": "The message is back in its queue.",
    "rolled-back": "Rolled back: the past state is the newest revision.",
    "scored": "The score was stored.",
    "started": "The rollout was started.",
    "stepped": "It was done.",
    "stopped": "Stopped: everybody gets what the target stands for.",
    "unlabelled": "The label was removed.",
}


@dataclass(frozen=True, slots=True)
class Page:
    """A page of the console.

    Attributes:
        path: its path, without variable parts: names are in the query, since they may contain slashes.
        answer: its function.
        needs: the operation that it can't do without; for a visitor who may not call it, the page isn't there.
        menu: its name in the menu; empty if it isn't there.
        section: how the paths begin of the pages that belong to this place in the menu.
        method: POST for what a form is sent to.
        all_sessions: whether its operation needs a token for all sessions.
        live: whether it renders a fragment, which is sent again when it changes.
    """

    path: str
    answer: Callable[[Visit], Awaitable[Response]]
    needs: str
    menu: str = ""
    section: str = ""
    method: Literal["GET", "POST"] = "GET"
    all_sessions: bool = False
    live: bool = False

    def leads_to(self, path: str) -> bool:
        """Check whether a page belongs to this place in the menu."""
        return path == self.path or bool(self.section and path.startswith(self.section))


@dataclass(frozen=True, slots=True)
class Visit:
    """One request for a page.

    Attributes:
        path: the page's.
        query: the query's parameters; of those that are given twice the last.
        visitor: who asks.
        form: the form that was sent.
        menu: the pages of the menu that the visitor may see.
    """

    path: str
    query: Mapping[str, str]
    visitor: Visitor
    caller: OperationCaller = field(repr=False)
    renderer: PageRenderer = field(repr=False)
    form: Form = field(default_factory=dict[str, list[str]], repr=False)
    menu: tuple[Page, ...] = ()

    @property
    def grant(self) -> Grant:
        """What the visitor may do."""
        assert self.visitor.grant is not None
        return self.visitor.grant

    @property
    def author(self) -> str:
        """Whom a request names as its author, where the grant has no name that the history could have."""
        return "" if self.grant.name else "console"

    @property
    def here(self) -> str:
        """The link to this page."""
        return link(self.path, **self.query)

    def can(self, operation: str) -> bool:
        """Check whether the visitor may call an operation, and has allowed changes if it makes some.

        Args:
            operation: ``Service.Method``.
        """
        return self.caller.allows(self.grant, operation, may_change=self.visitor.may_change)

    async def call(self, operation: str, request: Any) -> Any:
        """Return the response of an operation, which is called as the visitor.

        Args:
            operation: ``Service.Method``.
            request: its request message.

        Raises:
            NotGrantedError, ReadOnlyError: the visitor may not call it.
        """
        return await self.caller.call(self.grant, operation, request, may_change=self.visitor.may_change)

    @staticmethod
    def new_id() -> str:
        """Return an id for a request, by which it is applied once even if its form is sent twice."""
        return uuid4().hex

    def form_value(self, name: str, default: str = "") -> str:
        """Return the last value of a form's field."""
        return last_value(self.form, name, default)

    def render(self, template: str, *, status: int = 200, **values: Any) -> Response:
        """Return a page, or a fragment of one.

        Args:
            template: its file.
            status: the HTTP status.
            values: what the template shows.
        """
        notice = _NOTICES.get(self.query.get("done", ""), "")
        text = self.renderer.render(template, visit=self, notice=notice, **values)
        return Response(text, status, media_type=PAGE_TYPE)

    def redirect(self, path: str, **query: str) -> Response:
        """Return the answer to a form: the page that shows what was done.

        Args:
            path: the page.
            query: its parameters; ``done`` names the notice that it shows.
        """
        return RedirectResponse(link(path, **query), 303)


def link(path: str, **query: str | int | None) -> str:
    """Return a link to a page.

    Args:
        path: the page.
        query: its parameters; those that are empty are left out.
    """
    given = {name: value for name, value in query.items() if value not in ("", None)}
    return f"{path}?{urlencode(given)}" if given else path


def whole_text(text: str | bytes) -> Response:
    """Return a whole value as plain text, in which a browser runs nothing."""
    return Response(text, 200, {"content-security-policy": "sandbox"}, "text/plain; charset=utf-8")

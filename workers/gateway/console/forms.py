"""The forms that pages send: read within the gateway's limits, and only from pages that the visitor was shown."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from urllib.parse import parse_qs

from starlette.requests import Request

from workers.gateway.console.sign_ins import Visitor
from workers.gateway.errors import FormExpiredError, MalformedError
from workers.gateway.http.requests import RequestReceiver

Form = Mapping[str, list[str]]
"""The fields of a form, each with its values in their order."""

_TYPE = "application/x-www-form-urlencoded"
_MAX_FIELDS = 20_000
_CSRF_FIELD, _CSRF_HEADER = "csrf", "x-csrf-token"


async def read_form(receiver: RequestReceiver, request: Request, visitor: Visitor) -> Form:
    """Return the fields of a form.

    Args:
        receiver: reads its body.
        request: the request that sent it.
        visitor: who sent it.

    Raises:
        FormExpiredError: it isn't from a page of this visitor, or they have signed in or out since.
        MalformedError: it can't be read.
        TooLargeError, TookTooLongError: it exceeds a limit of the gateway.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _TYPE:
        raise MalformedError("content type", f"a form is sent as {_TYPE}")
    body = await receiver.read_body(request)
    try:
        fields = parse_qs(body.decode(), keep_blank_values=True, max_num_fields=_MAX_FIELDS, errors="strict")
    except ValueError as exc:
        raise MalformedError("form", str(exc)) from exc
    # A script sends the token as a header.
    token = fields.get(_CSRF_FIELD, [request.headers.get(_CSRF_HEADER, "")])[-1]
    if not hmac.compare_digest(visitor.csrf_token.encode(), token.encode(errors="replace")):
        raise FormExpiredError
    return fields


def last_value(form: Form, name: str, default: str = "") -> str:
    """Return the last value of a field.

    Args:
        form: the form.
        name: the field's.
        default: returned if the form lacks it.
    """
    return form.get(name, [default])[-1]

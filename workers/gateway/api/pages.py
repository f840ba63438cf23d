"""Pages of long answers: a token is the place of the first item of the next page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from snakepit_bridge.protocol.page_token import NOT_A_PAGE_TOKEN
from workers.gateway.errors import MalformedError

T = TypeVar("T")

_DEFAULT_SIZE, _MAX_SIZE = 100, 1_000


def page_size(requested: int) -> int:
    """Return how many items a page has."""
    return min(requested or _DEFAULT_SIZE, _MAX_SIZE)


def slice_page(items: Sequence[T], size: int, token: str) -> tuple[Sequence[T], str]:
    """Return a page of items that never change, and the token of the next one; empty for none.

    Args:
        items: all items.
        size: how many are requested; 0 for the default.
        token: of the page; empty for the first.

    Raises:
        MalformedError: the token can't be one.
    """
    if token and not (token.isascii() and token.isdigit() and len(token) < len(str(_MAX_START))):
        raise MalformedError("page_token", NOT_A_PAGE_TOKEN)
    start = int(token or 0)
    end = start + page_size(size)
    return items[start:end], str(end) if end < len(items) else ""


_MAX_START = 10**12

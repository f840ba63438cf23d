"""Tokens of pages: where a page of a long list ended, in a form that is checked before it is used."""

from __future__ import annotations

import re

NOT_A_PAGE_TOKEN = "it must be the `next_page_token` of another page"


def match_page_token(pattern: re.Pattern[str], token: str) -> re.Match[str] | None:
    """Return the parts of a token; None if it is empty, which is that of the first page.

    Args:
        pattern: what the list's tokens look like.
        token: as a client gives it.

    Raises:
        ValueError: the token can't be one.
    """
    match = pattern.fullmatch(token)
    if token and match is None:
        raise ValueError(NOT_A_PAGE_TOKEN)
    return match

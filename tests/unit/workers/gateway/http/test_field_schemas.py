"""The schemas of page tokens: they allow those that the gateway gives out, and no others."""

from __future__ import annotations

import re

import pytest

from workers.gateway.api.pages import slice_page
from workers.gateway.errors import MalformedError
from workers.gateway.http.field_schemas import MESSAGE_FIELD_SCHEMAS

OFFSETS = [("ListDatasetExamplesRequest", "page_token"), ("ListEvaluationExamplesRequest", "page_token")]
SEARCH = ("SearchPredictionsRequest", "page_token")


def is_allowed(field: tuple[str, str], token: str) -> bool:
    return re.search(MESSAGE_FIELD_SCHEMAS[field]["pattern"], token) is not None


@pytest.mark.parametrize("field", OFFSETS)
def test_a_page_s_token_is_allowed_and_what_is_refused_is_not(field: tuple[str, str]) -> None:
    _, token = slice_page(range(2_000), 1_000, "")
    assert is_allowed(field, token)
    assert is_allowed(field, "")
    for other in ("x", "-1", "٣", "1" * 13):
        with pytest.raises(MalformedError):
            slice_page([], 10, other)
        assert not is_allowed(field, other)


@pytest.mark.parametrize("token", ["", "1795920098862-0:qa"])
def test_the_token_of_a_search_is_allowed(token: str) -> None:
    assert is_allowed(SEARCH, token)


@pytest.mark.parametrize("token", ["x", "1-2", "1:qa", "1-2:", "-:qa", f"{'1' * 21}-0:qa"])
def test_a_search_s_description_allows_no_other_token(token: str) -> None:
    assert not is_allowed(SEARCH, token)

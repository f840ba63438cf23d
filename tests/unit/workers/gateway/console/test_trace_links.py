"""Links to traces, which are made of the operator's URL and of trace ids alone."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from config.settings import FleetSettings
from workers.gateway.console.trace_links import TraceLinks

TRACE = "0af7651916cd43dd8448eb211c80319c"
URL = "https://traces.example.com/trace/{trace_id}?view=tree"


def test_a_trace_is_linked_where_the_operator_shows_it() -> None:
    assert TraceLinks(URL).link(TRACE) == f"https://traces.example.com/trace/{TRACE}?view=tree"


@pytest.mark.parametrize("trace_id", ["", None, 7, TRACE.upper(), TRACE[1:], f"{TRACE}&x=1", '"><script>'])
def test_what_is_no_trace_id_is_not_linked(trace_id: object) -> None:
    assert TraceLinks(URL).link(trace_id) == ""


def test_without_a_url_nothing_is_linked() -> None:
    assert TraceLinks("").link(TRACE) == ""


@pytest.mark.parametrize(
    "url", ["javascript:{trace_id}", "https://traces.example.com/", "//x/{trace_id}", "https:// {trace_id}"]
)
def test_a_url_that_could_not_show_a_trace_is_refused(url: str) -> None:
    with pytest.raises(ValidationError, match="trace_id"):
        FleetSettings.model_validate({"trace_url": url})
    assert FleetSettings.model_validate({"trace_url": URL}).trace_url == URL

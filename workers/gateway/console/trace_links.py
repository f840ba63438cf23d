"""Links from a prediction to its trace, in the tracing system that the operator has."""

from __future__ import annotations

import re
from typing import Any

_TRACE_ID = re.compile(r"[0-9a-f]{32}")


class TraceLinks:
    """Makes links to traces.

    Args:
        url: where a trace is shown, with ``{trace_id}``; empty for nowhere.
    """

    def __init__(self, url: str) -> None:
        self._url = url

    def link(self, trace_id: Any) -> str:
        """Return the link to a trace; empty if there is nowhere to show it, or the id isn't one."""
        is_id = isinstance(trace_id, str) and _TRACE_ID.fullmatch(trace_id) is not None
        return self._url.replace("{trace_id}", trace_id) if self._url and is_id else ""

"""The tracer that records nothing, which is what the fleet's code sees of tracing."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any, Literal, Self

SpanKind = Literal["internal", "client", "producer", "consumer", "server"]

Attributes = Mapping[str, Any]
"""Attribute name to text, number, boolean, or a sequence of one of these. Attributes that are None are left out."""

Carrier = Mapping[str, Any]
"""Headers with a W3C trace context: ``traceparent`` and perhaps ``tracestate``."""


class Span:
    """A span that records nothing. Within its block it is the current span, the parent of those that start there."""

    @property
    def is_recording(self) -> bool:
        """Whether it is sampled, so that attributes are worth computing."""
        return False

    def set_attributes(self, attributes: Attributes) -> None:
        """Set attributes; those that are None are left out."""

    def add_event(self, name: str, attributes: Attributes | None = None) -> None:
        """Add an event at this moment."""

    def add_link(self, carrier: Carrier) -> None:
        """Link the span that a carrier names."""

    def fail(self, error_type: str, message: str = "") -> None:
        """Set the status to error.

        Args:
            error_type: the error's class name, for ``error.type``.
            message: a text without secrets and without content.
        """

    def inject(self, headers: MutableMapping[str, Any]) -> None:
        """Write this span's context into headers, as the parent of what they are sent to."""

    def end(self, error: BaseException | None = None) -> None:
        """End a span that was not entered: one that is nobody's parent, such as a stream's, whose code runs in turns.

        Args:
            error: the exception that ended it, which sets its status to error.
        """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End it; an exception that leaves the block sets its status to error."""


NO_SPAN = Span()


class Tracer:
    """A tracer that records nothing."""

    enabled = False
    captures_content = False

    def span(
        self,
        name: str,
        *,
        kind: SpanKind = "internal",
        attributes: Attributes | None = None,
        parent: Carrier | None = None,
        root: bool = False,
        links: Sequence[Carrier] = (),
        expected: tuple[type[BaseException], ...] = (),
    ) -> Span:
        """Start a span; use it in a ``with`` block, which ends it.

        Args:
            name: its name, of low cardinality.
            kind: its kind.
            attributes: its first attributes; a sampler sees these.
            parent: headers that carry the parent's context; without it or without a valid context in it, the current
                span is the parent.
            root: whether it begins a trace of its own.
            links: headers that carry the contexts of spans to link; those without a valid context are left out.
            expected: exceptions that are the caller's fault: they leave the status of a server's span unset.
        """
        return NO_SPAN

    def current_span(self) -> Span:
        """Return the span of the code that runs here, or one that records nothing."""
        return NO_SPAN

    def current_ids(self) -> tuple[str, str] | None:
        """Return the trace and span id of the code that runs here, hexadecimal as W3C has them; None outside of one."""
        return None

    def share(self, attributes: Attributes) -> AbstractContextManager[None]:
        """Set attributes on every span that starts within the block, and on those that start from it elsewhere."""
        return nullcontext()

    def annotate(self, attributes: Attributes) -> None:
        """Set attributes on the current span, and on every further span of the innermost :meth:`share` block."""

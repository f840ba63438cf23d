"""The tracer and the meter that record nothing, and what every meter has in common: label sets of bounded number.

They are what code sees of telemetry: whatever records takes their place when a process is set up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any, Literal, Self

from snakepit_bridge.protocol.json_values import repair_text
from snakepit_bridge.telemetry.metrics import OPEN_LABELS, Metric

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


Labels = Mapping[str, str]
"""Attribute name to its value. Names that a metric doesn't have are ignored; missing ones are empty."""

Observations = Callable[[], Iterable[tuple[float, Labels]]]
"""Returns the present values of a metric; of several for one label set, the largest counts."""

NO_LABELS: Labels = {}
OVERFLOW = "(other)"
_MAX_LABEL_SETS = 1_000
_MAX_LENGTH = 200


class Meter:
    """A meter that records nothing."""

    enabled = False

    def add(self, metric: Metric, amount: float = 1, labels: Labels = NO_LABELS) -> None:
        """Add an amount to a counter, or to a gauge that is summed over the processes."""

    def record(self, metric: Metric, value: float, labels: Labels = NO_LABELS) -> None:
        """Record one value of a histogram."""

    def observe(self, metric: Metric, read: Observations) -> None:
        """Have the values of a gauge or a counter read at each export; from any thread, so they must not block."""


class MultiMeter(Meter):
    """A meter that records with several."""

    enabled = True

    def __init__(self, meters: Sequence[Meter]) -> None:
        self._meters = meters

    def add(self, metric: Metric, amount: float = 1, labels: Labels = NO_LABELS) -> None:
        """Add the amount with each."""
        for meter in self._meters:
            meter.add(metric, amount, labels)

    def record(self, metric: Metric, value: float, labels: Labels = NO_LABELS) -> None:
        """Record the value with each."""
        for meter in self._meters:
            meter.record(metric, value, labels)

    def observe(self, metric: Metric, read: Observations) -> None:
        """Have the values read by each."""
        for meter in self._meters:
            meter.observe(metric, read)


class LabelSets:
    """Turns labels into the values of a metric's label names, and bounds how many combinations a metric has.

    A program or model name comes from outside, and each new one is a new time series. Beyond the bound such a name
    becomes :data:`OVERFLOW`; outcomes and kinds of error, which are few, stay as they are.

    Args:
        extra: optional label names that this process records, such as ``dspex.session``.
        max_sets: combinations for each metric.
    """

    def __init__(self, extra: Iterable[str] = (), max_sets: int = _MAX_LABEL_SETS) -> None:
        self._extra = frozenset(extra)
        self._max_sets = max_sets
        self._names: dict[str, tuple[str, ...]] = {}
        self._seen: dict[str, dict[tuple[str, ...], tuple[str, ...]]] = {}

    def names(self, metric: Metric) -> tuple[str, ...]:
        """Return the label names of a metric in this process."""
        names = self._names.get(metric.name)
        if names is None:
            optional = (name for name in metric.optional if name in self._extra)
            names = self._names[metric.name] = (*metric.labels, *optional)
        return names

    def values(self, metric: Metric, labels: Labels) -> tuple[str, ...]:
        """Return the label values in the order of :meth:`names`."""
        names = self.names(metric)
        values = tuple([labels.get(name) or "" for name in names])
        seen = self._seen.setdefault(metric.name, {})
        known = seen.get(values)
        if known is not None:
            return known
        if len(seen) >= self._max_sets:
            return tuple(OVERFLOW if name in OPEN_LABELS else value for name, value in zip(names, values, strict=True))
        clean = tuple(repair_text(value)[:_MAX_LENGTH] for value in values)
        seen[values] = clean
        return clean

    def read(self, metric: Metric, observations: Observations) -> dict[tuple[str, ...], float]:
        """Return the observed values by label values; where an optional label is left out, the largest."""
        largest: dict[tuple[str, ...], float] = {}
        for value, labels in observations():
            key = self.values(metric, labels)
            largest[key] = max(value, largest.get(key, value))
        return largest

"""How a bulk run looks while it goes: rate, money, time left and errors by kind."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from snakepit_bridge.cli.output import console, echo

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from snakepit_bridge.client.bulk.progress import BulkProgress, BulkReport, OnProgress

_LINE_INTERVAL_S = 5.0
_MAX_KINDS = 3


def describe_errors(errors: Mapping[str, int]) -> str:
    """Return the kinds of errors with how many lines ended with each, the most frequent first."""
    ranked = sorted(errors.items(), key=lambda item: (-item[1], item[0]))
    shown = [f"{kind} {count}" for kind, count in ranked[:_MAX_KINDS]]
    rest = sum(count for _, count in ranked[_MAX_KINDS:])
    return ", ".join([*shown, *([f"others {rest}"] if rest else [])])


def list_errors(report: BulkReport) -> Iterator[str]:
    """Yield a line for each kind of error, the most frequent first: how many there are, and an example."""
    for kind, count in sorted(report.errors.items(), key=lambda item: (-item[1], item[0])):
        example = report.examples.get(kind)
        yield f"{count} {kind}{f', the first at {example}' if example else ''}"


def describe_start(progress: BulkProgress, *, has_workers: bool) -> str:
    """Return what a run is about to do.

    Args:
        progress: before it sends anything.
        has_workers: whether a worker runs.
    """
    state = progress.state
    text = f"sending {progress.total} lines"
    if state.done:
        failed = f", {state.failed} of them failed" if state.failed else ""
        text = f"{state.done} of {progress.total} lines are done already{failed}"
    if state.done >= progress.total:
        return text
    if state.done:
        text = f"{text}; resuming at line {state.line + 1}"
    return text if has_workers else f"{text}; no worker runs yet, so they wait for one: dspex-fleet worker"


def describe_cost(report: BulkReport) -> str:
    """Return what a run has cost."""
    unpriced = f" and {report.unpriced} without a price" if report.unpriced else ""
    return f"{report.cost_usd:.4f} USD{unpriced}"


def describe_progress(progress: BulkProgress, before: int = 0) -> str:
    """Return the figures of a run behind its counts.

    Args:
        progress: how far it has come.
        before: lines that had ended when this process started.
    """
    state = progress.state
    parts = [f"{progress.per_s:.0f}/s", f"{progress.in_flight} in flight"]
    if progress.in_flight and state.done == before:
        parts.append("waiting for the first answer")
    if state.priced:
        parts.append(f"{state.cost_usd:.2f} of {progress.expected_usd:.2f} USD")
    if (eta_s := progress.eta_s) is not None:
        parts.append(f"{describe_duration(eta_s)} left")
    if state.failed:
        parts.append(f"{state.failed} failed: {describe_errors(state.errors)}")
    return ", ".join(parts)


def describe_duration(seconds: float) -> str:
    """Return a duration as ``42 s``, ``3 min`` or ``1 h 20 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


@contextmanager
def show_progress(program: str, has_workers: Callable[[], bool]) -> Generator[OnProgress]:
    """Say what the run does, then show a bar on a terminal, else a plain line every few seconds.

    Args:
        program: its reference.
        has_workers: tells whether a worker runs; it is called once, when the run begins.
    """
    if not console().is_terminal:
        yield _start_with(has_workers, _print_line)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    with Progress(*columns, console=console()) as bar:
        task = bar.add_task(program, total=None, figures="")
        yield _start_with(has_workers, partial(_update, bar, task), interval_s=0.0)


def _update(bar: Progress, task: TaskID, progress: BulkProgress, before: int) -> None:
    figures = describe_progress(progress, before)
    bar.update(task, total=progress.total, completed=progress.state.done, figures=figures)


def _print_line(progress: BulkProgress, before: int) -> None:
    echo(f"batch: {progress.state.done} of {progress.total} lines, {describe_progress(progress, before)}")


def _start_with(
    has_workers: Callable[[], bool], show: Callable[[BulkProgress, int], None], interval_s: float | None = None
) -> OnProgress:
    """Return what tells the start once, and then shows progress at most once in the interval."""
    before: int | None = None
    shown_at = 0.0

    def on_progress(progress: BulkProgress) -> None:
        nonlocal before, shown_at
        now = time.monotonic()
        if before is None:
            before, shown_at = progress.state.done, now
            # A run that is over needs no worker.
            echo(f"batch: {describe_start(progress, has_workers=before >= progress.total or has_workers())}")
        elif now - shown_at >= (_LINE_INTERVAL_S if interval_s is None else interval_s):
            shown_at = now
            show(progress, before)

    return on_progress

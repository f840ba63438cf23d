"""How a bulk run looks while it goes: rate, money, time left and errors by kind."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
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


def describe_cost(report: BulkReport) -> str:
    """Return what a run has cost."""
    unpriced = f" and {report.unpriced} without a price" if report.unpriced else ""
    return f"{report.cost_usd:.4f} USD{unpriced}"


def describe_progress(progress: BulkProgress) -> str:
    """Return the figures of a run behind its counts."""
    state = progress.state
    parts = [f"{progress.per_s:.0f}/s", f"{progress.in_flight} in flight"]
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
def show_progress(program: str) -> Generator[OnProgress]:
    """Show a bar on a terminal, else a plain line every few seconds."""
    if not console().is_terminal:
        yield _print_lines()
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
        yield lambda progress: _update(bar, task, progress)


def _update(bar: Progress, task: TaskID, progress: BulkProgress) -> None:
    bar.update(task, total=progress.total, completed=progress.state.done, figures=describe_progress(progress))


def _print_lines() -> OnProgress:
    last: float | None = None

    def show(progress: BulkProgress) -> None:
        nonlocal last
        if last is None and progress.state.done and not progress.in_flight:
            failed = f", {progress.state.failed} of them failed" if progress.state.failed else ""
            echo(f"batch: {progress.state.done} of {progress.total} lines are done already{failed}")
        now = time.monotonic()
        if last is None or now - last >= _LINE_INTERVAL_S:
            if last is not None:
                echo(f"batch: {progress.state.done} of {progress.total} lines, {describe_progress(progress)}")
            last = now

    return show

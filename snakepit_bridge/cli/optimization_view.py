"""How optimizations look on a terminal, while they run and at their end."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from snakepit_bridge.cli.output import echo, print_table

if TYPE_CHECKING:
    from snakepit_bridge.evaluations.optimizations import OptimizationRecord

_SHOWN = 10


def show_optimization(record: OptimizationRecord) -> None:
    """Print the best trials of an optimization, and what it found."""
    best = sorted(record.comparable, key=lambda trial: trial.score, reverse=True)[:_SHOWN]
    columns = ("trial", "score", "examples", "demos", "predictions before", "digest")
    rows: list[tuple[Any, ...]] = [
        (trial.number, f"{trial.score:.1%}", trial.examples, trial.demos, trial.predictions, trial.digest[:12])
        for trial in best
    ]
    print_table(columns, rows, numbers=columns[:-1])
    echo(_conclude(record))
    echo(f"{record.predictions} predictions, {record.usd} USD, {record.elapsed_s:.0f} s, run {record.run_id}")
    if record.stopped:
        echo(f"it ended early: {record.stopped}")


def _conclude(record: OptimizationRecord) -> str:
    if record.version is None:
        return f"{record.optimizer} goes on with {record.program}"
    name = f"{record.program.partition(':')[0]}:{record.version}"
    if record.best == record.digest:
        return f"nothing better than {name} was found"
    points = f"; {record.label} points there" if record.label else ""
    return f"{name} is what {record.optimizer} found, beginning with {record.program}{points}"


def describe_progress(record: OptimizationRecord) -> str:
    """Return how far an optimization has come, in a line."""
    score = "" if record.score is None else f", best {record.score:.1%}"
    return f"{len(record.trials)} trials{score}, {record.predictions} predictions, {record.usd} USD"


@contextmanager
def show_progress(program: str) -> Generator[Callable[[OptimizationRecord], object]]:
    """Show a line of progress on a terminal while the block runs; give what is called with the record."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    errors = Console(stderr=True, markup=False)
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    with Progress(*columns, console=errors, disable=not errors.is_terminal, transient=True) as progress:
        task = progress.add_task(program, total=None)
        yield lambda record: progress.update(task, description=f"{program}: {describe_progress(record)}")

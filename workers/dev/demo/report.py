"""How the demo shows itself: live while it runs, a table per revision and one provenance at the end."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from snakepit_bridge.protocol.provenance import Provenance
from workers.dev.demo.job import Answer, Revision
from workers.dev.demo.verdict import Verdict


def progress_bar(console: Console) -> Progress:
    """Return a progress bar that leaves plain output alone where there is no terminal."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def format_revision(revision: Revision, number: int) -> str:
    """Return the line that announces a revision."""
    changes = ", ".join(f"{name} = {_short(value)}" for name, value in revision.changed.items())
    return f"revision {number} published: {changes}"


def revisions_table(verdict: Verdict, *, accuracy: bool) -> Table:
    """Return the table of what happened under each revision."""
    table = Table(title="What the LM was asked, per revision")
    table.add_column("rev", justify="right")
    table.add_column("predictions", justify="right", no_wrap=True)
    table.add_column("modules", no_wrap=True)
    table.add_column("temp", justify="right")
    table.add_column("p50 ms", justify="right")
    table.add_column("p95 ms", justify="right")
    if accuracy:
        table.add_column("right", justify="right")
    for row in verdict.rows:
        cells = [
            str(row.number),
            str(row.predictions),
            ", ".join(row.modules),
            ", ".join(f"{value:g}" for value in row.temperatures) or "-",
            f"{row.p50_ms:.0f}",
            f"{row.p95_ms:.0f}",
        ]
        table.add_row(*cells, *([f"{row.accuracy:.0%}"] if accuracy else []))
    return table


def provenance_table(answer: Answer) -> Table:
    """Return where one answer came from."""
    assert answer.prediction is not None
    table = Table(title=f"Provenance of {answer.question.id}", title_justify="left", show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in _describe(answer.prediction.provenance).items():
        table.add_row(name, value)
    return table


def failure_lines(answers: Sequence[Answer]) -> list[str]:
    """Return a line for each kind of error with which questions ended, with one example, the most frequent first."""
    kinds: dict[str, list[Answer]] = {}
    for answer in answers:
        if answer.error is not None:
            word = "lost" if answer.lost else "failed"
            kinds.setdefault(f"{word}, {type(answer.error).__name__}", []).append(answer)
    by_count = sorted(kinds.items(), key=lambda kind: -len(kind[1]))
    return [f"{len(ended)} {kind}, such as {ended[0].question.id}: {ended[0].error}" for kind, ended in by_count]


def accuracy_line(answers: Sequence[Answer]) -> str:
    """Return how many of the answers were right, by program: what the variables are steered for."""
    by_program: dict[str, list[bool]] = {}
    for answer in answers:
        if answer.prediction is not None:
            right = answer.question.is_correct(answer.prediction.toDict())
            by_program.setdefault(answer.question.program, []).append(right)
    parts = [f"{name} {sum(rights)} of {len(rights)}" for name, rights in sorted(by_program.items())]
    rights = [right for rights_of_program in by_program.values() for right in rights_of_program]
    return f"right: {sum(rights)} of {len(rights)} answers" + (f" ({', '.join(parts)})" if parts else "")


def write_answers(path: Path, answers: Sequence[Answer]) -> None:
    """Write every question with its answer and provenance, one JSON object a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as out:
        for answer in answers:
            out.write(json.dumps(_line(answer), ensure_ascii=False) + "\n")


def last_line(verdict: Verdict) -> str:
    """Return the line that the demo ends with."""
    torn = "unseen" if verdict.torn is None else verdict.torn
    failed = f"{verdict.failed} failed, " if verdict.failed else ""
    counts = f"{failed}{verdict.lost} lost, {torn} torn, {verdict.stale} stale"
    return f"demo: {verdict.answered} predictions, {len(verdict.rows)} revisions, {counts}"


def _line(answer: Answer) -> dict[str, Any]:
    question = answer.question
    line: dict[str, Any] = {"id": question.id, "program": question.program, "inputs": dict(question.inputs)}
    line["expected"] = dict(question.expected)
    if answer.prediction is None:
        return line | {"error": f"{type(answer.error).__name__}: {answer.error}"}
    return line | {"outputs": answer.prediction.toDict(), "provenance": answer.prediction.provenance.encode()}


def _describe(provenance: Provenance) -> Mapping[str, str]:
    usage = ", ".join(f"{model}: {counts.get('total_tokens')} tokens" for model, counts in provenance.usage.items())
    timings = provenance.timings
    return {
        "session @ token": f"{provenance.session} @ {provenance.token} ({provenance.requirement})",
        "variables": "\n".join(f"{name} = {_short(value, 60)}" for name, value in sorted(provenance.variables.items())),
        "program": f"{provenance.program}:{provenance.version} ({provenance.digest[:12]}) as {provenance.module}",
        "model": f"{provenance.model} (profile {provenance.profile}); {usage}",
        "timings": f"queued {timings.queued_ms:.0f} ms, snapshot {timings.snapshot_ms:.1f} ms, "
        f"bind {timings.bind_ms:.1f} ms, run {timings.run_ms:.0f} ms",
        "worker": f"{provenance.worker}, process {provenance.pid}, attempt {provenance.attempt}",
    }


def _short(value: Any, limit: int = 44) -> str:
    text = str(value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"

"""The demo from start to end: start the parts, do the job, judge it, show it."""

from __future__ import annotations

import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from rich.console import Console

from snakepit_bridge.client import Fleet
from snakepit_bridge.process.home_loop import run_blocking
from snakepit_bridge.redis.connection import RedisConnection
from workers.dev.demo.elixir import elixir_server, refresher
from workers.dev.demo.job import Answer, DemoPublisher, Revision, all_revisions, ask_all
from workers.dev.demo.kept import serve_console
from workers.dev.demo.pace import AskingRate, check_lm
from workers.dev.demo.parts import DemoLM, language_model, metrics_ports, redis_server, worker_processes
from workers.dev.demo.report import (
    accuracy_line,
    failure_lines,
    format_revision,
    last_line,
    progress_bar,
    provenance_table,
    revisions_table,
    write_answers,
)
from workers.dev.demo.script import PROGRAMS, PUBLISHES, SESSION, Question, read_questions
from workers.dev.demo.verdict import Verdict, judge
from workers.lifecycle import load_dspy


def run_demo(
    *,
    redis_url: str | None,
    lm: str | None,
    questions: Path,
    out: Path,
    workers: int,
    pool: str = "asyncio",
    bridge: str | None = None,
    in_flight: int | None = None,
    wait_s: float | None = None,
    keep: bool = False,
) -> int:
    """Run the demo and return its exit code: 0 if something was answered, and nothing lost, torn or stale.

    Args:
        redis_url: Redis or Valkey to use, under keys of its own; an embedded one is started if None.
        lm: model string (``openai/gpt-4o-mini``) or LM profile; the deterministic stand-in if None.
        questions: JSON lines of questions with known answers.
        out: folder for the answers file.
        workers: number of worker processes.
        pool: Celery pool of each.
        bridge: ``HOST:PORT`` of a snakepit server to own the session; a Python stub of one is started if None.
        in_flight: questions asked at a time; None for what suits the LM, by how long its first answer took.
        wait_s: seconds within which each must be answered; None likewise.
        keep: leave the fleet up at the end, with the console on it, until Ctrl-C.

    Raises:
        BridgeError: a part did not start, or the LM doesn't answer.
    """
    load_dspy()
    console = Console()
    asked_questions = read_questions(questions)
    namespace = f"dspex-demo-{uuid4().hex[:8]}"
    session = SESSION if bridge is None else namespace
    with (
        tempfile.TemporaryDirectory(prefix="dspex-demo-") as scratch,
        _stage(console, redis_url, lm, questions, Path(scratch)) as (url, model),
        elixir_server(bridge, session, Path(scratch)) as elixir,
    ):
        console.print(f"Elixir: {elixir.label}", highlight=False)
        fleet = Fleet(url, namespace=namespace, queue=namespace, bridge=elixir.address)
        settings = {
            "DSPEX_REDIS_URL": url,
            "DSPEX_BROKER_URL": "",
            "DSPEX_NAMESPACE": namespace,
            "DSPEX_QUEUE": namespace,
            **model.environment,
        }
        try:
            with (
                refresher(elixir.address, session, url, namespace, Path(scratch), number=workers),
                worker_processes(fleet, workers, pool, settings, Path(scratch)),
            ):
                console.print(f"a refresher and {workers} worker processes are up ({pool})", highlight=False)
                if ports := metrics_ports(workers + 1):
                    console.print(f"metrics: /metrics on the ports {', '.join(map(str, ports))}", highlight=False)
                answers, verdict = _job(
                    console, fleet, session, model, asked_questions, _PaceOptions(in_flight, wait_s)
                )
                _show(console, out / "answers.jsonl", answers, verdict, accuracy=lm is not None)
                if keep:
                    serve_console(settings, elixir.address, lm=model.profile)
        finally:
            run_blocking(_clean_up(fleet, url, namespace))
    if not keep and console.is_terminal:
        console.print("look at it in a browser: dspex-fleet demo --keep", highlight=False)
    # The stand-in answers everything: a failure beside it is the fleet's own.
    return 0 if verdict.holds and (lm is not None or not verdict.failed) else 1


@contextmanager
def _stage(
    console: Console, redis_url: str | None, lm: str | None, questions: Path, folder: Path
) -> Generator[tuple[str, DemoLM]]:
    with redis_server(redis_url, folder) as url, language_model(lm, questions, folder) as model:
        console.print(f"Redis: {'embedded' if redis_url is None else 'as given'}", highlight=False)
        console.print(f"LM: {model.label}", highlight=False)
        yield url, model


def _job(
    console: Console, fleet: Fleet, session: str, model: DemoLM, questions: list[Question], options: _PaceOptions
) -> tuple[list[Answer], Verdict]:
    for name, spec in PROGRAMS.items():
        program = fleet.register(name, spec, lm=model.profile)
        console.print(f"registered {name}:{program.version}", highlight=False)
    with progress_bar(console) as progress:
        bar = progress.add_task("predictions", total=len(questions))
        count = iter(range(1, len(PUBLISHES) + 2))

        def announce(revision: Revision) -> None:
            progress.console.print(format_revision(revision, next(count)), highlight=False, soft_wrap=True)

        context = fleet.session(session, author="demo publisher")
        publisher = DemoPublisher(context, max(1, len(questions) // (len(PUBLISHES) + 1)), announce)
        publisher.start()
        pace = _pace(progress.console, fleet, session, model, questions, options)
        answers = ask_all(fleet, session, questions, publisher, lambda: progress.advance(bar), pace)
        publisher.stop()
    revisions = run_blocking(all_revisions(fleet.store, session, publisher.revisions, answers))
    return answers, judge(answers, revisions, model.requests() if model.log else None)


@dataclass(frozen=True, slots=True)
class _PaceOptions:
    """What the caller wants of the pace; None for what suits the LM."""

    in_flight: int | None
    wait_s: float | None


def _pace(
    console: Console, fleet: Fleet, session: str, model: DemoLM, questions: list[Question], options: _PaceOptions
) -> AskingRate:
    """Return how fast to ask: a real LM is asked once first, which shows that it is there and how fast it is."""
    if model.log is not None or not questions:
        return AskingRate.choose(0.0, options.in_flight, options.wait_s)
    console.print(f"asking {model.label} once, to see that it answers and how fast", highlight=False)
    first_answer_s = check_lm(fleet, session, questions[0], model.label)
    pace = AskingRate.choose(first_answer_s, options.in_flight, options.wait_s)
    console.print(
        f"it answered after {first_answer_s:.1f} s: {len(questions)} questions, {pace.in_flight} at a time, "
        f"each within {pace.wait_s:.0f} s",
        highlight=False,
    )
    return pace


def _show(console: Console, path: Path, answers: list[Answer], verdict: Verdict, *, accuracy: bool) -> None:
    write_answers(path, answers)
    console.print(revisions_table(verdict, accuracy=accuracy))
    for line in failure_lines(answers):
        console.print(line, highlight=False, soft_wrap=True)
    shown = next((answer for answer in reversed(answers) if answer.prediction is not None), None)
    if shown is not None:
        console.print(provenance_table(shown))
    if accuracy:
        console.print(accuracy_line(answers), highlight=False, soft_wrap=True)
    console.print(f"answers: {path}", highlight=False, soft_wrap=True)
    console.print(last_line(verdict), highlight=False, soft_wrap=True)


async def _clean_up(fleet: Fleet, url: str, namespace: str) -> None:
    """Hang up on Elixir before it may end, and remove the demo's keys from a Redis that outlives it."""
    if fleet.elixir is not None:
        await fleet.elixir.aclose()
    connection = RedisConnection(url)
    keys = [key async for key in connection.client.scan_iter(f"*{namespace}*", count=1000)]
    if keys:
        await connection.wait_bounded(connection.client.delete(*keys))

"""``batch``: a prediction for each line of a file, resumable, with the errors kept in their places."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from snakepit_bridge.cli.batch_files import BatchLine, Output, count_lines, open_output, read_lines
from snakepit_bridge.cli.batch_retry import open_retried
from snakepit_bridge.cli.connection_options import (
    AtLeast,
    Exactly,
    MaxStaleness,
    OnOutage,
    RedisUrl,
    Session,
    demands,
    target,
)
from snakepit_bridge.cli.fleet_state import live_workers
from snakepit_bridge.cli.output import console, say
from snakepit_bridge.cli.predict import Program, cancel, outputs
from snakepit_bridge.exceptions import (
    BridgeError,
    ConfigurationError,
    InputError,
    PredictionTimeoutError,
    StoreUnavailableError,
)
from snakepit_bridge.protocol.messages import DEFAULT_SESSION

if TYPE_CHECKING:
    from snakepit_bridge.client import Fleet, Handle
    from snakepit_bridge.client.fleet_prediction import FleetPrediction

# For how long a Redis that restarts is waited for before the batch ends; what is done stays done.
_PATIENCE_S = 30.0
_AGAIN_S = 0.5
_PLAIN_EVERY_S = 5.0


def batch(
    ctx: typer.Context,
    program: Program,
    source: Annotated[
        Path,
        typer.Option("--input", metavar="X.jsonl", help='Each line the inputs, or {"id": …, "inputs": {…}}.'),
    ],
    output: Annotated[Path, typer.Option(metavar="Y.jsonl", help="One line for each, in the same order.")],
    session: Session = DEFAULT_SESSION,
    in_flight: Annotated[int, typer.Option(min=1, help="How many are enqueued at a time.")] = 64,
    together: Annotated[int, typer.Option("--batch", min=1, help="How many travel in one message.")] = 1,
    at_least: AtLeast = None,
    exactly: Exactly = None,
    max_staleness: MaxStaleness = None,
    outage: OnOutage = None,
    timeout: Annotated[float, typer.Option(min=0.0, metavar="SECONDS", help="How long to wait for each.")] = 600.0,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try the lines again that have failed in the output.")
    ] = False,
    redis_url: RedisUrl = None,
) -> None:
    """Make a prediction for each line of a file.

    Run it again after an interruption: it goes on behind the last line of the output. A line that fails keeps its error
    there until --retry-failed tries it again; as long as any has failed, the exit code is 1.
    """
    options = {"session": session, **demands(at_least, exactly, max_staleness, outage)}
    run = Run(target(ctx, redis_url).fleet(), program, options, max(in_flight, together), together, timeout)
    total = count_lines(source)
    written = (_retry if retry_failed else _go_on)(run, source, output, total)
    say(f"batch: {written.done} lines, {written.done - written.failed} answered, {written.failed} failed: {output}")
    if written.failed:
        say(f"batch: --retry-failed tries the {written.failed} failed lines again")
        raise typer.Exit(1)


def _go_on(run: Run, source: Path, output: Path, total: int) -> Output:
    """Answer the lines behind those that are in the output already."""
    with open_output(output, source) as written:
        lines = read_lines(source)
        written.skip_done(lines)
        if written.done:
            failed = f", {written.failed} of them failed" if written.failed else ""
            say(f"batch: {written.done} of {total} lines are there already{failed}")
        with _progress(run.program, total, written) as advance:
            run.answer(lines, written, advance)
    return written


def _retry(run: Run, source: Path, output: Path, total: int) -> Output:
    """Answer the lines that have failed in the output, and those behind its last one."""
    with open_output(output, source):
        pass  # it is there, and isn't the input
    with open_retried(output) as written, _progress(run.program, total, written) as advance:
        run.answer(written.merge(read_lines(source)), written, advance)
    return written


@dataclass(frozen=True, slots=True)
class Run:
    """What every line of a batch has in common.

    Attributes:
        fleet: where they are answered.
        program: reference of the program.
        options: what ``Fleet.submit`` takes besides.
        in_flight: how many are enqueued at a time.
        together: how many travel in one message.
        timeout_s: seconds to wait for a line once those before it are done.
    """

    fleet: Fleet
    program: str
    options: Mapping[str, Any]
    in_flight: int
    together: int
    timeout_s: float

    def answer(self, lines: Iterable[BatchLine], output: Output, advance: Callable[[], None]) -> None:
        """Writes a record for each line.

        Raises:
            StoreUnavailableError: Redis went away and stayed away; the lines so far are written.
            ConfigurationError: no worker is there to answer.
        """
        # Imported here: it brings Celery, which commands that don't enqueue do without.
        from snakepit_bridge.client.mapping import chunks

        waiting: deque[tuple[BatchLine, Handle | BridgeError | None]] = deque()

        def finish() -> None:
            line, sent = waiting[0]
            output.write(line, {} if sent is None else self._record(sent))
            waiting.popleft()
            advance()

        try:
            for some in chunks(lines, self.together):
                while waiting and len(waiting) + len(some) > self.in_flight:
                    finish()
                waiting += zip(some, self._sent(some), strict=True)
            while waiting:
                finish()
        except BaseException:
            # The next run asks for these again.
            cancel(sent for _, sent in waiting if sent is not None and not isinstance(sent, BridgeError))
            raise

    def _sent(self, lines: Sequence[BatchLine]) -> list[Handle | BridgeError | None]:
        """Send the lines that have no record yet."""
        fresh = [line for line in lines if line.record is None]
        sent = iter(self._sent_together(fresh) if fresh else [])
        return [next(sent) if line.record is None else None for line in lines]

    def _sent_together(self, lines: Sequence[BatchLine]) -> list[Handle | BridgeError]:
        if len(lines) == 1 or any(line.inputs is None for line in lines):
            return [self._sent_alone(line) for line in lines]
        try:
            return [*self.fleet.submit_batch(self.program, [line.inputs or {} for line in lines], **self.options)]
        except InputError:
            return [self._sent_alone(line) for line in lines]  # nothing was sent, and only some are at fault

    def _sent_alone(self, line: BatchLine) -> Handle | BridgeError:
        if line.inputs is None:
            return InputError(self.program, f"line {line.number}", line.problem)
        try:
            return self.fleet.submit(self.program, line.inputs, **self.options)
        except InputError as refused:
            return refused

    def _record(self, sent: Handle | BridgeError) -> dict[str, Any]:
        if isinstance(sent, BridgeError):
            return _failed(sent)
        try:
            prediction = self._prediction(sent)
        except PredictionTimeoutError as late:
            if not live_workers(self.fleet):
                raise ConfigurationError(
                    f"No worker answers, and no prediction came in {self.timeout_s:g} s. "
                    "Start one: dspex-fleet worker; then run the batch again, it goes on where it was."
                ) from late
            return _failed(late)
        except StoreUnavailableError as away:
            if not sent.ready():
                raise
            return _failed(away)  # the worker's own trouble with Redis, which is this line's result
        except BridgeError as ended:
            return _failed(ended)
        return {"outputs": outputs(prediction), "provenance": prediction.provenance.encode()}

    def _prediction(self, sent: Handle) -> FleetPrediction:
        until = time.monotonic() + _PATIENCE_S
        while True:
            try:
                return sent.get(self.timeout_s)
            except StoreUnavailableError:
                if time.monotonic() >= until or _is_over(sent):
                    raise
                time.sleep(_AGAIN_S)


def _is_over(sent: Handle) -> bool:
    try:
        return sent.ready()
    except StoreUnavailableError:
        return False


def _failed(error: BridgeError) -> dict[str, Any]:
    return {"error": {"type": type(error).__name__, "message": str(error)}}


@contextmanager
def _progress(program: str, total: int, output: Output) -> Generator[Callable[[], None]]:
    """A bar on a terminal, else a plain line every few seconds."""
    if not console().is_terminal:
        yield _plain(total, output)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console()) as bar:
        task = bar.add_task(program, total=total, completed=output.done)
        yield lambda: bar.update(
            task, completed=output.done, description=f"{program}, {output.failed} failed" if output.failed else program
        )


def _plain(total: int, output: Output) -> Callable[[], None]:
    last = time.monotonic()

    def advance() -> None:
        nonlocal last
        if time.monotonic() - last >= _PLAIN_EVERY_S:
            last = time.monotonic()
            say(f"batch: {output.done} of {total} lines, {output.failed} failed")

    return advance

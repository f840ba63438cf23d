"""What Celery gets of a task's error leads into no frame that a task still runs."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import sys
import traceback
import weakref
from collections.abc import Iterator
from types import FrameType, TracebackType

import pytest
from celery import Celery
from celery.app import trace
from celery.exceptions import Ignore, Reject, Retry

from tests.harness.waiting import PATIENCE_S, eventually
from workers.pool.tracebacks import clear_finished_frames, detach_error, patch_celery_clearing


class Held:
    """Something that a frame holds."""


def frames(exc: BaseException | None) -> Iterator[FrameType]:
    walked: TracebackType | None = exc.__traceback__ if exc else None
    while walked is not None:
        yield walked.tb_frame
        walked = walked.tb_next


def shown(exc: BaseException) -> list[str]:
    """The lines of a traceback without the marks below them."""
    return [line for line in "".join(traceback.format_exception(exc)).splitlines() if set(line) - set(" ^~")]


def stock_clear(exc: BaseException) -> None:
    """Clear all frames of a traceback, as Celery does."""
    for frame in frames(exc):
        with contextlib.suppress(RuntimeError):
            frame.clear()


async def fail(held: object) -> None:
    def deeper() -> None:
        raise KeyError("as told")

    try:
        deeper()
    except KeyError as exc:
        raise LookupError("outer") from exc


def failed(held: object = None) -> BaseException:
    try:
        asyncio.run(fail(held))
    except LookupError as exc:
        return exc
    raise AssertionError


def test_a_detached_error_shows_the_same_lines() -> None:
    error = failed()
    assert shown(detach_error(error)) == shown(error)


def test_a_detached_error_holds_nothing_of_the_frames_that_it_shows() -> None:
    held = Held()
    gone = weakref.ref(held)
    error = failed(held)
    twin = detach_error(error)
    del error, held
    gc.collect()

    assert gone() is None
    for frame in [*frames(twin), *frames(twin.__cause__)]:
        assert (frame.f_locals, frame.f_back) == ({}, None)
        frame.clear()


def test_causes_that_lead_in_a_circle_are_copied_once() -> None:
    first, second = LookupError("first"), KeyError("second")
    first.__cause__, second.__context__ = second, first
    twin = detach_error(first)
    assert twin.__cause__ is not second
    assert twin.__cause__ is not None
    assert twin.__cause__.__context__ is twin


def test_a_long_chain_of_causes_is_cut() -> None:
    error: BaseException = LookupError("0")
    for number in range(100):
        outer = LookupError(str(number))
        outer.__cause__ = error
        error = outer
    twin, length = detach_error(error), 0
    walked: BaseException | None = twin
    while walked is not None:
        walked, length = walked.__cause__, length + 1
    assert 5 < length < 50


@pytest.mark.parametrize(
    "error",
    [Ignore("why"), Reject("why", requeue=True), Retry("why", LookupError("x"), 3.0)],
    ids=lambda error: type(error).__name__,
)
def test_celerys_own_signals_keep_what_they_say(error: BaseException) -> None:
    twin = detach_error(error)
    assert type(twin) is type(error)
    assert vars(twin) == vars(error)
    assert str(twin) == str(error)


# ---------------------------------------------------------------- clearing


async def _two_that_raise_one(error: Exception, opened: asyncio.Event) -> tuple[BaseException, asyncio.Task[str]]:
    """Return an error after two tasks raised it, one of which still waits in the frame that it passed through."""

    async def stay() -> str:
        try:
            raise error
        except LookupError:
            await opened.wait()
        return "stayed"

    async def leave() -> None:
        raise error

    staying = asyncio.create_task(stay())
    await asyncio.sleep(0)
    leaving = asyncio.create_task(leave())
    await asyncio.wait([leaving])
    raised = leaving.exception()
    assert raised is error
    assert any(frame is staying.get_coro().cr_frame for frame in frames(error))  # type: ignore[union-attr]
    return error, staying


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="Python itself clears no suspended frame from 3.13 on")
async def test_clearing_the_frames_of_a_shared_error_closes_a_coroutine() -> None:
    """What all this is for: should Python or Celery change, it shows here."""
    opened = asyncio.Event()
    error, staying = await _two_that_raise_one(LookupError("shared"), opened)
    stock_clear(error)
    assert inspect.getcoroutinestate(staying.get_coro()) == inspect.CORO_CLOSED  # type: ignore[arg-type]
    staying.cancel()
    await asyncio.wait([staying])


@pytest.mark.parametrize("way", ["detached, then cleared as Celery does", "cleared as ours does", "Celery's, kept"])
async def test_neither_way_closes_a_coroutine_that_waits(way: str) -> None:
    opened = asyncio.Event()
    error, staying = await _two_that_raise_one(LookupError("shared"), opened)
    patch_celery_clearing()
    if way.startswith("detached"):
        stock_clear(detach_error(error))
    elif way.startswith("cleared"):
        clear_finished_frames(error)
    else:
        trace.traceback_clear(error)
    opened.set()
    assert await asyncio.wait_for(staying, PATIENCE_S) == "stayed"


async def test_an_error_handled_while_a_chord_is_failed_closes_no_coroutine() -> None:
    patch_celery_clearing()
    backend = Celery(backend="cache+memory://", set_as_current=False).backend
    opened = asyncio.Event()
    error, staying = await _two_that_raise_one(LookupError("shared"), opened)
    try:
        raise error
    except LookupError as exc:
        backend.fail_from_current_stack("some-task", exc=exc)
    opened.set()
    assert await asyncio.wait_for(staying, PATIENCE_S) == "stayed"
    assert backend.get_result("some-task").args == ("shared",)


async def test_the_frames_of_functions_that_have_ended_are_still_cleared() -> None:
    held = Held()
    gone = weakref.ref(held)

    def raising(held: object) -> None:
        raise LookupError

    with pytest.raises(LookupError) as raised:
        raising(held)
    del held
    clear_finished_frames(raised.value)
    await eventually(_gone(gone), "the frame to let go")


def _gone(what: weakref.ref[Held]):
    async def look() -> bool:
        gc.collect()
        return what() is None

    return look

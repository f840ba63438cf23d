"""The home loop: one event loop per process for our I/O, shared by blocking callers, coroutines and threads.

Connections and DSPy's HTTP pools belong to the loop that opened them. A loop per call would reopen them each time, and
a client shared between loops breaks; so all our I/O runs on one persistent loop, in a daemon thread.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import threading
from collections.abc import Coroutine
from typing import Any, Protocol, TypeVar

from snakepit_bridge.exceptions import copy_error
from snakepit_bridge.process.forking import after_fork_in_child
from snakepit_bridge.process.threads import HomeThreads

T = TypeVar("T")


class Bridge(Protocol):
    """Lets synchronous code on the home loop wait for a coroutine: it is switched out until the coroutine has ended.

    Only a worker's asyncio pool, which runs Celery's own code on the loop (in greenlets), installs one.
    """

    def can_switch_out(self) -> bool:
        """Check whether the calling code can be switched out."""
        ...

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine while the calling code is switched out, and return its result."""
        ...


_log = logging.getLogger(__name__)

_lock = threading.Lock()
_home: asyncio.AbstractEventLoop | None = None
_bridge: Bridge | None = None


def get_home_loop() -> asyncio.AbstractEventLoop:
    """Return this process's loop, started on first use; a forked child gets its own."""
    global _home
    with _lock:
        if _home is None:
            _home = asyncio.new_event_loop()
            _home.set_default_executor(HomeThreads())
            threading.Thread(target=_run, args=(_home,), name="dspex-home-loop", daemon=True).start()
        return _home


def _run(loop: asyncio.AbstractEventLoop) -> None:
    """Run the loop until it is stopped, even if a user's task raises SystemExit or KeyboardInterrupt."""
    while True:
        try:
            loop.run_forever()
        except (SystemExit, KeyboardInterrupt) as exc:
            # asyncio re-raises these two from the loop, after setting them on the task.
            _log.error("A task raised %s; the event loop keeps running", type(exc).__name__)
        else:
            return


def adopt_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Use a loop that the caller runs as this process's home loop. Call it before the first use of the home loop.

    Raises:
        RuntimeError: another home loop is in use already; its connections can't move.
    """
    global _home
    with _lock:
        if _home is not None and _home is not loop:
            raise RuntimeError("This process keeps another event loop already; adopt one before the first use.")
        _home = loop


def set_bridge(bridge: Bridge) -> None:
    """Install a bridge, by which blocking calls on the home loop switch out where they can."""
    global _bridge
    _bridge = bridge


def can_switch_out() -> bool:
    """Check whether a blocking call here would be switched out: on the home loop, with a bridge."""
    return _bridge is not None and _running_loop() is _home and _bridge.can_switch_out()


class BlockingCallError(RuntimeError):
    """A blocking call on the home loop itself would deadlock."""


def run_blocking(work: Coroutine[Any, Any, T], timeout_s: float | None = None) -> T:
    """Run a coroutine on the home loop and return its result, for callers that can't await.

    Works in any thread, with or without a running loop of its own; on the home loop itself only across a bridge.

    Args:
        work: the coroutine.
        timeout: seconds to wait; None waits for as long as the coroutine's own bounds allow.

    Raises:
        TimeoutError: the timeout passed; the coroutine is cancelled.
        BlockingCallError: called on the home loop without a bridge.
    """
    loop = get_home_loop()
    if _running_loop() is loop:
        if _bridge is not None and _bridge.can_switch_out():
            return _bridge.wait(work if timeout_s is None else asyncio.wait_for(work, timeout_s))
        work.close()
        raise BlockingCallError(
            "A blocking call on the process's own event loop would wait for itself: await it instead."
        )
    future = asyncio.run_coroutine_threadsafe(work, loop)
    try:
        return future.result(timeout_s)
    except BaseException:
        # Also on KeyboardInterrupt: no caller is left to take the result.
        future.cancel()
        raise


async def run_on_home_loop(work: Coroutine[Any, Any, T]) -> T:
    """Await a coroutine on the home loop, from any loop."""
    loop = get_home_loop()
    if _running_loop() is loop:
        return await work
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, loop))


def share_future(future: asyncio.Future[T]) -> asyncio.Future[T]:
    """Return a new future that follows a shared one, as ``asyncio.shield`` does, but with an error per waiter.

    Cancelling one waiter leaves the shared future alone. If that fails, each waiter gets its own copy of the error
    (:func:`~snakepit_bridge.exceptions.copy_error`), where ``shield`` raises one instance in all of them.
    """
    own: asyncio.Future[T] = future.get_loop().create_future()

    def settle(done: asyncio.Future[T]) -> None:
        if own.done():
            return
        if done.cancelled():
            own.cancel()
        elif (exc := done.exception()) is not None:
            own.set_exception(copy_error(exc))
        else:
            own.set_result(done.result())

    def leave(_: asyncio.Future[T]) -> None:
        if not future.done():
            future.remove_done_callback(settle)

    if future.done():
        settle(future)
    else:
        future.add_done_callback(settle)
        own.add_done_callback(leave)
    return own


def _running_loop() -> asyncio.AbstractEventLoop | None:
    return asyncio._get_running_loop()  # the public function raises if there is none


def _forget() -> None:
    """Reset in a forked child, which has neither its parent's loop thread nor a usable lock."""
    global _home, _lock
    _home, _lock = None, threading.Lock()


@atexit.register
def _stop() -> None:
    if _home is not None and _home.is_running():
        _home.call_soon_threadsafe(_home.stop)


after_fork_in_child(_forget)

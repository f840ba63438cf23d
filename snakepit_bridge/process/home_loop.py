"""The one event loop that a process keeps for our I/O, so that blocking callers, coroutines and threads share it.

Connections and DSPy's HTTP pools belong to the loop that opened them. A loop per call would open them anew each time,
and a client shared between loops breaks; so everything of ours runs on one persistent loop, in a daemon thread.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import threading
from collections.abc import Coroutine
from typing import Any, Protocol, TypeVar

from snakepit_bridge.exceptions import fresh_error
from snakepit_bridge.process.forking import after_fork_in_child
from snakepit_bridge.process.threads import HomeThreads

T = TypeVar("T")


class Bridge(Protocol):
    """What lets code that can't await wait on the home loop itself: it is switched out until its coroutine has ended.

    The library needs none. A worker's asyncio pool, which runs Celery's own code on the loop, brings one.
    """

    def inside(self) -> bool:
        """Tells whether the calling code can be switched out."""
        ...

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine while the calling code is switched out, and returns its result."""
        ...


_log = logging.getLogger(__name__)

_lock = threading.Lock()
_home: asyncio.AbstractEventLoop | None = None
_bridge: Bridge | None = None


def home() -> asyncio.AbstractEventLoop:
    """Returns this process's loop, started on first use; a forked child gets its own."""
    global _home
    with _lock:
        if _home is None:
            _home = asyncio.new_event_loop()
            _home.set_default_executor(HomeThreads())
            threading.Thread(target=_run, args=(_home,), name="dspex-home-loop", daemon=True).start()
        return _home


def _run(loop: asyncio.AbstractEventLoop) -> None:
    """Run the loop to its end: a task of somebody's own that tries to end the process doesn't end it for all others."""
    while True:
        try:
            loop.run_forever()
        except (SystemExit, KeyboardInterrupt) as exc:
            # asyncio lets these two through, once the task that raised them has them as its outcome.
            _log.error("A task tried to end its process, whose event loop goes on: %s", type(exc).__name__)
        else:
            return


def adopt(loop: asyncio.AbstractEventLoop) -> None:
    """Makes a loop that somebody else runs this process's loop. Call it before anything of ours has run.

    Raises:
        RuntimeError: another loop is in use already; its connections can't move.
    """
    global _home
    with _lock:
        if _home is not None and _home is not loop:
            raise RuntimeError("This process keeps another event loop already; adopt one before the first use.")
        _home = loop


def bridge_by(bridge: Bridge) -> None:
    """Makes blocking calls on the home loop switch out by this bridge wherever it says that it can."""
    global _bridge
    _bridge = bridge


def can_switch_out() -> bool:
    """Tells whether a blocking call here would neither block a thread nor be refused: on the home loop, at a bridge."""
    return _bridge is not None and _running_loop() is _home and _bridge.inside()


class WaitForItself(RuntimeError):
    """A blocking call on the home loop, whose end only that loop could bring."""


def run_blocking(work: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
    """Runs a coroutine on the home loop and returns its result to a caller that can't await.

    Works in any thread, with or without a running loop of its own; on the home loop itself only across a bridge.

    Args:
        work: what to run.
        timeout: seconds to wait; None waits for as long as the coroutine's own bounds allow.

    Raises:
        TimeoutError: the wait ran out; the coroutine is cancelled.
        WaitForItself: called on the home loop itself.
    """
    loop = home()
    if _running_loop() is loop:
        if _bridge is not None and _bridge.inside():
            return _bridge.wait(work if timeout is None else asyncio.wait_for(work, timeout))
        work.close()
        raise WaitForItself("A blocking call on the process's own event loop would wait for itself: await it instead.")
    future = asyncio.run_coroutine_threadsafe(work, loop)
    try:
        return future.result(timeout)
    except BaseException:
        # Also on KeyboardInterrupt: nobody is left to take the result.
        future.cancel()
        raise


async def run_home(work: Coroutine[Any, Any, T]) -> T:
    """Awaits a coroutine on the home loop, from whichever loop the caller runs on."""
    loop = home()
    if _running_loop() is loop:
        return await work
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, loop))


def share(future: asyncio.Future[T]) -> asyncio.Future[T]:
    """Return a future of one's own for one that others await too, as ``asyncio.shield`` does, but fit for errors.

    Who is cancelled leaves the future to the others. If it fails, each who waits gets an error of its own
    (:func:`~snakepit_bridge.exceptions.fresh_error`), where ``shield`` raises one instance in all of them.
    """
    own: asyncio.Future[T] = future.get_loop().create_future()

    def settle(done: asyncio.Future[T]) -> None:
        if own.done():
            return
        if done.cancelled():
            own.cancel()
        elif (exc := done.exception()) is not None:
            own.set_exception(fresh_error(exc))
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
    return asyncio._get_running_loop()  # the public twin raises where there is none


def _forget() -> None:
    """In a forked child the parent's loop thread doesn't exist; neither may its loop or a lock it held."""
    global _home, _lock
    _home, _lock = None, threading.Lock()


@atexit.register
def _stop() -> None:
    if _home is not None and _home.is_running():
        _home.call_soon_threadsafe(_home.stop)


after_fork_in_child(_forget)

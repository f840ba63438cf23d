"""Thread pools: separate threads for library code and user code, so that neither can starve the other.

Library work (DNS lookups, preparing requests, imports) is short, and all predictions wait for it; it has its own
threads. User code may block for as long as it likes, and what it waits for may need another thread, so nested calls
always get one; only the outermost call of a prediction waits for a free thread.
"""

from __future__ import annotations

import asyncio
import functools
import queue
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar, cast

from snakepit_bridge.process.forking import after_fork_in_child
from snakepit_bridge.process.frames import call_marked, current_prediction_id
from snakepit_bridge.process.own_packages import OWN_PACKAGES

P = ParamSpec("P")
T = TypeVar("T")

# DSPy prepares each native LM call in a thread. asyncio's default, the number of cores plus four, would be a
# bottleneck for hundreds of calls.
_LIBRARY_THREADS = 64
_USER_THREADS = 512
# Idle threads end after this time.
_IDLE_S = 30.0
# Packages that count as libraries: their code never waits for a prediction.
_LIBRARIES = OWN_PACKAGES | {
    "_hashlib", "_io", "_socket", "aiohttp", "anyio", "asyncio", "celery", "dspy", "grpc", "hashlib", "httpcore",
    "httpx", "importlib", "kombu", "litellm", "openai", "redis", "socket", "ssl", "tiktoken",
}  # fmt: skip

_in_user_thread: ContextVar[bool] = ContextVar("dspex_in_user_thread", default=False)


class Threads:
    """An unbounded pool of daemon threads, which never delay the process's exit."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._work: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._idle = 0
        self._count = 0

    def __len__(self) -> int:
        """Return the number of threads."""
        return self._count

    def run(self, work: Callable[[], None]) -> None:
        """Run a function, which must not raise, in an idle thread or a new one.

        Raises:
            RuntimeError: the system can't start another thread.
        """
        with self._lock:
            if self._idle:
                self._idle -= 1
                self._work.put(work)
                return
            self._count += 1
        try:
            # In an empty context: the thread will run more than the function that it is started for.
            Context().run(threading.Thread(target=self._serve, args=(work,), name=self._name, daemon=True).start)
        except BaseException:
            with self._lock:
                self._count -= 1
            raise

    def _serve(self, work: Callable[[], None]) -> None:
        while True:
            work()
            with self._lock:
                self._idle += 1
            try:
                work = self._work.get(timeout=_IDLE_S)
            except queue.Empty:
                with self._lock:
                    # `run` may have claimed this thread just now.
                    if self._idle:
                        self._idle -= 1
                        self._count -= 1
                        return
                work = self._work.get()


@dataclass(frozen=True, slots=True)
class _Call:
    """A function to call in a thread, and the future for its result."""

    future: Future[Any]
    function: Callable[[], Any]

    def run(self) -> None:
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            result = self.function()
        except StopIteration as exc:
            # Before Python 3.12, asyncio's future neither takes one nor ends: whoever awaits it would for ever.
            error = RuntimeError(f"The call raised StopIteration: {exc}")
            error.__cause__ = exc
            self.future.set_exception(error)
        except BaseException as exc:  # noqa: BLE001 (goes to the caller)
            self.future.set_exception(exc)
        else:
            self.future.set_result(result)


class UserThreads(Executor):
    """Executor for user code: each call runs in its caller's context, below a frame with its prediction's id.

    Args:
        max_calls: maximum number of concurrent calls; nested calls don't count, since their caller may wait for them.
    """

    def __init__(self, max_calls: int = _USER_THREADS) -> None:
        self._max_calls = max_calls
        self._threads = Threads("dspex-user")
        self._lock = threading.Lock()
        self._running = 0
        self._waiting: deque[_Call] = deque()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Schedule a call and return the future for its result."""
        future: Future[T] = Future()
        context, task_id, nested = copy_context(), current_prediction_id(), _in_user_thread.get()
        context.run(_in_user_thread.set, True)
        work = functools.partial(fn, *args, **kwargs)
        call = _Call(future, lambda: context.run(lambda: call_marked(task_id, work)))
        if nested:
            self._threads.run(call.run)
            return future
        with self._lock:
            if self._running >= self._max_calls:
                self._waiting.append(call)
                return future
            self._running += 1
        self._start(call)
        return future

    def _start(self, call: _Call) -> None:
        try:
            self._threads.run(functools.partial(self._run, call))
        except BaseException:
            self._start_next()
            raise

    def _run(self, call: _Call) -> None:
        following: _Call | None = call
        while following is not None:
            following.run()
            following = self._take_next()

    def _take_next(self) -> _Call | None:
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            self._running -= 1
            return None

    def _start_next(self) -> None:
        following = self._take_next()
        if following is not None:
            self._start(following)


class HomeThreads(ThreadPoolExecutor):
    """The home loop's default executor: its own threads for library code, ``USER_THREADS`` for user code."""

    def __init__(self) -> None:
        super().__init__(_LIBRARY_THREADS, thread_name_prefix="dspex-work")

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Schedule a call in the threads for its kind and return the future for its result."""
        if is_library_code(fn):
            return super().submit(fn, *args, **kwargs)
        return USER_THREADS.submit(fn, *args, **kwargs)


def is_library_code(function: Any) -> bool:
    """Check whether a function belongs to a library, looking through the wrapper of ``asyncio.to_thread``."""
    while isinstance(function, functools.partial):
        partial = cast("functools.partial[Any]", function)
        in_context = isinstance(getattr(partial.func, "__self__", None), Context)
        function = partial.args[0] if in_context and partial.args else partial.func
    module = getattr(function, "__module__", None)
    return isinstance(module, str) and module.partition(".")[0] in _LIBRARIES


async def run_in_user_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a user's function in a thread with the current context and return its result."""
    return await asyncio.wrap_future(USER_THREADS.submit(function, *args, **kwargs))


USER_THREADS = UserThreads()
"""This process's threads for user code."""


def _forget() -> None:
    """Reset in a forked child, which has none of its parent's threads."""
    USER_THREADS.__init__()


after_fork_in_child(_forget)

"""Threads: whose work runs in which, so that no blocked thread holds up what it waits for.

A library's own work (looking a host up, preparing a request, importing) is short, and all predictions wait for it; it
has threads of its own. Code of a user's may block for as long as it likes. What it waits for may need a thread again,
so there are as many threads as such code runs; only predictions that begin wait for one another.
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
from snakepit_bridge.process.frames import call_under, whose

P = ParamSpec("P")
T = TypeVar("T")

# DSPy prepares each native LM call in a thread. asyncio's own default is the number of cores and four, which would
# hold up hundreds of waiting calls.
_LIBRARY_THREADS = 64
_USER_THREADS = 512
# A thread without work for so long ends.
_IDLE_S = 30.0
# Whose work is a library's: what such code waits for is never a prediction.
_LIBRARIES = frozenset({
    "_hashlib", "_io", "_socket", "aiohttp", "anyio", "asyncio", "celery", "config", "dspy", "grpc", "hashlib",
    "httpcore", "httpx", "importlib", "kombu", "litellm", "openai", "redis", "snakepit_bridge", "socket", "ssl",
    "tasks", "tiktoken", "workers",
})  # fmt: skip

_inside: ContextVar[bool] = ContextVar("dspex_in_user_thread", default=False)


class Threads:
    """Daemon threads, as many as have work: none of them holds up the process's end."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._work: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._idle = 0
        self._count = 0

    def __len__(self) -> int:
        """How many there are."""
        return self._count

    def run(self, work: Callable[[], None]) -> None:
        """Runs a function, which must not raise, in a thread that has nothing to do, or else in a new one.

        Raises:
            RuntimeError: the system gives no more threads.
        """
        with self._lock:
            if self._idle:
                self._idle -= 1
                self._work.put(work)
                return
            self._count += 1
        try:
            # In a context of its own: what it is started for is one of many things that it will do.
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
                    # Somebody may have counted on this thread just now.
                    if self._idle:
                        self._idle -= 1
                        self._count -= 1
                        return
                work = self._work.get()


@dataclass(frozen=True, slots=True)
class _Call:
    """A function to be called in a thread, and where its result goes."""

    future: Future[Any]
    function: Callable[[], Any]

    def run(self) -> None:
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            result = self.function()
        except BaseException as error:  # noqa: BLE001 (it is its caller's)
            self.future.set_exception(error)
        else:
            self.future.set_result(result)


class UserThreads(Executor):
    """Runs code of users in threads, each call in its caller's context and below a frame with its prediction's id.

    Args:
        most: calls that run at a time; those that such a call makes itself don't count, since it may wait for them.
    """

    def __init__(self, most: int = _USER_THREADS) -> None:
        self._most = most
        self._threads = Threads("dspex-user")
        self._lock = threading.Lock()
        self._running = 0
        self._waiting: deque[_Call] = deque()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Has a function called, and returns where its result will be."""
        future: Future[T] = Future()
        context, task_id, nested = copy_context(), whose(), _inside.get()
        context.run(_inside.set, True)
        work = functools.partial(fn, *args, **kwargs)
        call = _Call(future, lambda: context.run(lambda: call_under(task_id, work)))
        if nested:
            self._threads.run(call.run)
            return future
        with self._lock:
            if self._running >= self._most:
                self._waiting.append(call)
                return future
            self._running += 1
        self._begin(call)
        return future

    def _begin(self, call: _Call) -> None:
        try:
            self._threads.run(functools.partial(self._run, call))
        except BaseException:
            self._next()
            raise

    def _run(self, call: _Call) -> None:
        following: _Call | None = call
        while following is not None:
            following.run()
            following = self._following()

    def _following(self) -> _Call | None:
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            self._running -= 1
            return None

    def _next(self) -> None:
        following = self._following()
        if following is not None:
            self._begin(following)


class HomeThreads(ThreadPoolExecutor):
    """The default executor of the home loop: threads of their own for libraries, and other ones for users' code."""

    def __init__(self) -> None:
        super().__init__(_LIBRARY_THREADS, thread_name_prefix="dspex-work")

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Has a function called in the threads for its kind, and returns where its result will be."""
        if is_librarys(fn):
            return super().submit(fn, *args, **kwargs)
        return USERS.submit(fn, *args, **kwargs)


def is_librarys(function: Any) -> bool:
    """Tells whether a function is a library's own, under what ``asyncio.to_thread`` wraps it in."""
    while isinstance(function, functools.partial):
        partial = cast("functools.partial[Any]", function)
        in_context = isinstance(getattr(partial.func, "__self__", None), Context)
        function = partial.args[0] if in_context and partial.args else partial.func
    module = getattr(function, "__module__", None)
    return isinstance(module, str) and module.partition(".")[0] in _LIBRARIES


async def in_user_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Returns what a function of a user's returns, called in a thread with this context; the loop goes on meanwhile."""
    return await asyncio.wrap_future(USERS.submit(function, *args, **kwargs))


USERS = UserThreads()
"""The threads of this process for code of users."""


def _forget() -> None:
    """A forked child has none of its parent's threads."""
    USERS.__init__()


after_fork_in_child(_forget)

"""Programs that ask their LM from threads of their own, in each way in which Python starts one."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import dspy

from tests.harness import lag
from tests.harness.waiting import PATIENCE_S

# Its threads begin with whichever prediction comes first, and serve all that come after it.
_SHARED = ThreadPoolExecutor(2)

# Programs that are counted, and told of when none of them runs any more.
_counted = threading.Condition()
_running = 0

_jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
_served = False


class _Asks(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.answer = dspy.Predict("question -> answer")


def _texts(question: str) -> list[str]:
    return [f"{question} first", f"{question} second"]


def _joined(answers: Any) -> dspy.Prediction:
    return dspy.Prediction(answer=" | ".join(answer.answer for answer in answers))


@contextmanager
def _count() -> Generator[None]:
    global _running
    with _counted:
        _running += 1
    try:
        yield
    finally:
        with _counted:
            _running -= 1
            _counted.notify_all()


class InPool(_Asks):
    def forward(self, question: str) -> Any:
        with _count(), ThreadPoolExecutor(1) as pool:
            return _joined(pool.map(lambda text: self.answer(question=text), _texts(question)))


class InSharedPool(_Asks):
    shared_attributes = ("answer",)

    def forward(self, question: str) -> Any:
        futures = [_SHARED.submit(self.answer, question=text) for text in _texts(question)]
        return _joined(future.result() for future in futures)


class InThreads(_Asks):
    def forward(self, question: str) -> Any:
        answers: list[Any] = []

        def ask(text: str) -> None:
            answers.append(self.answer(question=text))

        with _count():
            for text in _texts(question):
                # A thread within a thread, too.
                outer = threading.Thread(target=lambda text=text: _join(threading.Thread(target=ask, args=(text,))))
                _join(outer)
            return _joined(answers)


def _join(thread: threading.Thread) -> None:
    thread.start()
    thread.join()


class ToThread(_Asks):
    async def aforward(self, question: str) -> Any:
        calls = [asyncio.to_thread(self.answer, question=text) for text in _texts(question)]
        return _joined(await asyncio.gather(*calls))


class InExecutor(_Asks):
    async def aforward(self, question: str) -> Any:
        loop, (first, second) = asyncio.get_running_loop(), _texts(question)
        with ThreadPoolExecutor(1) as pool:
            calls = [
                loop.run_in_executor(None, lambda: self.answer(question=first)),
                loop.run_in_executor(pool, lambda: self.answer(question=second)),
            ]
            return _joined(await asyncio.gather(*calls))


class InParallel(_Asks):
    def forward(self, question: str) -> Any:
        pairs = [(self.answer, dspy.Example(question=text).with_inputs("question")) for text in _texts(question)]
        return _joined(dspy.Parallel(num_threads=2, disable_progress_bar=True)(pairs))


class Asyncified(_Asks):
    async def aforward(self, question: str) -> Any:
        ask: Any = dspy.asyncify(self.answer)
        return _joined(await asyncio.gather(*(ask(question=text) for text in _texts(question))))


class OwnLoop(_Asks):
    def forward(self, question: str) -> Any:
        async def ask() -> Any:
            return await asyncio.gather(*(self.answer.acall(question=text) for text in _texts(question)))

        return _joined(asyncio.run(ask()))


WAYS = (InPool, InSharedPool, InThreads, ToThread, InExecutor, InParallel, Asyncified, OwnLoop)


class InForeignThread(_Asks):
    """Hands its call to a thread that the module started at its import, outside of any prediction."""

    def forward(self, question: str) -> Any:
        answer: queue.SimpleQueue[Any] = queue.SimpleQueue()

        def ask() -> None:
            try:
                answer.put(self.answer(question=question))
            except BaseException as error:  # noqa: BLE001
                answer.put(error)

        _jobs.put(ask)
        found = answer.get()
        if isinstance(found, BaseException):
            raise found
        return found


class Lingering(_Asks):
    """Leaves a thread behind that asks again and again."""

    def forward(self, question: str) -> Any:
        def ask() -> None:
            for number in range(100):
                self.answer(question=f"{question} {number}")
                time.sleep(0.1)

        threading.Thread(target=ask, daemon=True).start()
        return self.answer(question=question)


def _serve() -> None:
    while True:
        _jobs.get()()


threading.Thread(target=_serve, daemon=True).start()


class ComesLast(_Asks):
    """Asks once no ``InPool`` and no ``InThreads`` runs in this process, threads that a cancellation left included."""

    def forward(self, question: str) -> Any:
        with _counted:
            if not _counted.wait_for(lambda: not _running, timeout=PATIENCE_S):
                raise TimeoutError("the threads don't end")
        return self.answer(question=question)


class Blocking(_Asks):
    """Blocks its thread for a while."""

    def forward(self, question: str) -> Any:
        lag.block_while_measured()
        return self.answer(question=question)


class Rewarded(_Asks):
    """Asks for the best of two answers, by a reward function that blocks."""

    def forward(self, question: str) -> Any:
        best = dspy.BestOfN(self.answer, N=2, reward_fn=slow_reward, threshold=0.5)
        return best(question=question)


class Agent(dspy.Module):
    """An agent on the loop, whose tool blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.react = dspy.ReAct("question -> answer", tools=[slow_search], max_iters=1)  # pyright: ignore[reportArgumentType]

    async def aforward(self, question: str) -> Any:
        return await self.react.acall(question=question)


def slow_search(query: str) -> str:
    """Look something up."""
    lag.block_while_measured()
    return f"found {query}"


def slow_reward(args: Any, prediction: Any) -> float:
    """Take its time to like an answer."""
    lag.block_while_measured()
    return 1.0

"""Programs that print and log what they are asked, by each way that there is."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from itertools import count
from typing import Any

import dspy
from celery.utils.log import get_task_logger

_log = logging.getLogger(__name__)
_task_log = get_task_logger(__name__)

READING = "%s has %d characters"


class _Asks(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.answer = dspy.Predict("question -> answer")


class Prints(_Asks):
    """Prints in its own thread, in one of its own, and as errors are printed."""

    def forward(self, question: str) -> Any:
        print(question)
        print("asked", question, file=sys.stderr)
        thread = threading.Thread(target=print, args=(question,))
        thread.start()
        thread.join()
        try:
            raise LookupError(question)
        except LookupError:
            traceback.print_exc()
        return self.answer(question=question)


class Logs(_Asks):
    """Logs by loggers of its own, of Celery's and of nobody's."""

    def forward(self, question: str) -> Any:
        for log in (_log, _task_log, logging.getLogger("elsewhere"), logging.getLogger()):
            log.warning("a text of the source")
            log.warning("%s has %d letters", question, len(question))
            log.warning("%(asked)s has %(letters)d letters", {"asked": question, "letters": len(question)})
            log.error(f"asked {question}")
            log.error(f"asked {question} %s", question)
            log.error(question)
            log.error(READING, question, len(question))
            try:
                raise LookupError(question)
            except LookupError as exc:
                log.exception("it failed: %s", exc)
                log.error(exc)
        handler = logging.StreamHandler(sys.__stderr__)
        own = logging.getLogger(f"{__name__}.own")
        own.addHandler(handler)
        own.error("asked %s", question)
        own.removeHandler(handler)
        return self.answer(question=question)


class Warns(_Asks):
    """Warns of what it was asked."""

    def forward(self, question: str) -> Any:
        warnings.warn(f"asked {question}", UserWarning, stacklevel=1)
        warnings.warn(f"asked {question}\nand {question}", RuntimeWarning, stacklevel=2)
        return self.answer(question=question)


class Leaves(_Asks):
    """Leaves failures to whoever finds them: of a thread, of a task, of an object that is thrown away."""

    async def aforward(self, question: str) -> Any:
        async def fail() -> None:
            raise LookupError(question)

        def fail_here() -> None:
            raise LookupError(question)

        thread = threading.Thread(target=fail_here)
        thread.start()
        await asyncio.to_thread(thread.join)
        task = asyncio.create_task(fail())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        del task
        asyncio.get_running_loop().call_soon(_refuse, question)
        _Unwilling(question)
        gc.collect()
        return await self.answer.acall(question=question)


class _Unwilling:
    def __init__(self, question: str) -> None:
        self._question = question

    def __del__(self) -> None:
        raise LookupError(self._question)


def _refuse(question: str) -> None:
    raise LookupError(question)


class InParallel(_Asks):
    """Asks in parallel, where one of the questions fails: DSPy logs what it was."""

    def forward(self, question: str) -> Any:
        pairs = [(_fail, {"question": question}), (self.answer, {"question": question})]
        return dspy.Parallel(num_threads=2, provide_traceback=True, max_errors=5)(pairs)[1]


def _fail(question: str) -> Any:
    raise LookupError(question)


class BestOf(_Asks):
    """Asks for the best of several answers, some of which can't be judged: DSPy prints why."""

    def forward(self, question: str) -> Any:
        return dspy.BestOfN(self.answer, N=2, reward_fn=judge(), threshold=2.0, fail_count=2)(question=question)


class Refined(_Asks):
    """Refines an answer that can't be judged: DSPy prints why."""

    def forward(self, question: str) -> Any:
        return dspy.Refine(self.answer, N=2, reward_fn=judge(), threshold=2.0, fail_count=2)(question=question)


def judge() -> Callable[[Any, Any], float]:
    """Return a reward function that can't judge the first answer, and says which that was."""
    calls = count()

    def judged(args: Any, prediction: Any) -> float:
        if next(calls) == 0:
            raise ValueError(f"can't judge {prediction.answer}")
        return 1.0

    return judged


WAYS = (Prints, Logs, Warns, Leaves, InParallel, BestOf, Refined)

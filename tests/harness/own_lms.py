"""Programs that make an LM for themselves, in each way in which one comes to be asked."""

from __future__ import annotations

import os
import threading
from typing import Any

import dspy
from dspy.utils import DummyLM


class _Asks(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.answer = dspy.Predict("question -> answer")


def _declared() -> dspy.LM:
    return dspy.LM("openai/other", temperature=0.25, max_tokens=77)


class InContext(_Asks):
    def forward(self, question: str) -> Any:
        with dspy.context(lm=_declared()):
            return self.answer(question=question)


class Awaited(_Asks):
    async def aforward(self, question: str) -> Any:
        with dspy.context(lm=_declared()):
            return await self.answer.acall(question=question)


class ByKeyword(_Asks):
    def forward(self, question: str) -> Any:
        return self.answer(question=question, lm=_declared())


class InThread(_Asks):
    def forward(self, question: str) -> Any:
        answers: list[Any] = []
        thread = threading.Thread(target=lambda: answers.append(self.answer(question=question, lm=_declared())))
        thread.start()
        thread.join()
        return answers[0]


class OnItsPredictor(_Asks):
    async def aforward(self, question: str) -> Any:
        predictor = dspy.Predict("question -> answer")
        predictor.set_lm(_declared())
        return await predictor.acall(question=question)


class SaysTheSame(_Asks):
    """Says of the connection what its profile says."""

    def forward(self, question: str) -> Any:
        lm = dspy.LM("openai/other", temperature=0.25, max_tokens=77, api_key=os.environ["STAGE_LM_KEY"])
        return self.answer(question=question, lm=lm)


WAYS = (InContext, Awaited, ByKeyword, InThread, OnItsPredictor, SaysTheSame)


class ByItself(_Asks):
    """Calls its LM without a predictor, by the name of a profile."""

    def forward(self, question: str) -> Any:
        return dspy.Prediction(answer=dspy.LM("demo", temperature=0.25)(question)[0])


class Undeclared(_Asks):
    def forward(self, question: str) -> Any:
        return self.answer(question=question, lm=dspy.LM("openai/gpt-4o-mini"))


class ElsewhereAwaited(_Asks):
    async def aforward(self, question: str) -> Any:
        return await self.answer.acall(question=question, lm=dspy.LM("openai/demo", api_base="http://127.0.0.1:9/v1"))


class WithItsKey(_Asks):
    def forward(self, question: str) -> Any:
        return self.answer(question=question, lm=dspy.LM("openai/demo", api_key="its own"))


class OfItsClass(_Asks):
    def forward(self, question: str) -> Any:
        return self.answer(question=question, lm=DummyLM([{"answer": f"dummy {question}"}]))


class _Engine:
    def complete(self, request: Any) -> Any:
        raise AssertionError("it was asked")


class OfItsEngine(_Asks):
    def forward(self, question: str) -> Any:
        return self.answer(question=question, lm=dspy.LM("openai/demo", engine=_Engine()))


class Swallows(_Asks):
    """Asks an undeclared LM by a module that swallows what goes wrong."""

    def forward(self, question: str) -> Any:
        best = dspy.BestOfN(self.answer, N=2, reward_fn=_like, threshold=0.5, fail_count=5)
        with dspy.context(lm=dspy.LM("openai/gpt-4o-mini")):
            return best(question=question)


def _like(args: Any, prediction: Any) -> float:
    return 1.0


REFUSED = {
    Undeclared: "no LM profile declares it",
    ElsewhereAwaited: "it says api_base by itself",
    WithItsKey: "it says api_key by itself",
    OfItsClass: "its class DummyLM sends requests by itself",
    OfItsEngine: "its engine _Engine sends requests by itself",
    Swallows: "no LM profile declares it",
}

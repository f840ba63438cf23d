"""Tell the response cache which answers were parsed, as DSPy's adapters report it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import dspy
from dspy.utils.callback import BaseCallback

from tasks.prediction_context import PredictionContext, current_prediction
from tasks.response_cache.single_flight import AnswerCache


@contextmanager
def share_answers(cache: AnswerCache, scope: PredictionContext) -> Generator[None]:
    """Share the answers to a program's LM calls once the program has parsed them."""
    try:
        with dspy.context(callbacks=[*dspy.settings.get("callbacks", []), ParseCallback(cache)]):
            yield
    except BaseException:
        cache.finish(scope, succeeded=False)
        raise
    cache.finish(scope, succeeded=True)


class ParseCallback(BaseCallback):
    """A DSPy callback around each parse of an answer. DSPy swallows exceptions of callbacks; this one raises none."""

    def __init__(self, cache: AnswerCache) -> None:
        self._cache = cache
        self._texts: dict[str, str] = {}

    def on_adapter_parse_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """Remember the text that is parsed."""
        self._texts[call_id] = str(inputs.get("completion") or "")

    def on_adapter_parse_end(
        self, call_id: str, outputs: dict[str, Any] | None, exception: BaseException | None = None
    ) -> None:
        """Report whether it was parsed."""
        text, scope = self._texts.pop(call_id, ""), current_prediction()
        if scope is not None:
            self._cache.resolve(scope, text, parsed=exception is None)

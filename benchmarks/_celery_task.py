"""A fleet's worker with a task of Celery's that calls DSPy and nothing else: what any task costs on this pool.

No session, no registry, no limits, no journal and no provenance: the message and its lease, Celery's tracer, and the
stored result.
"""

from __future__ import annotations

import functools
import os
from typing import Any

import dspy

from benchmarks._bare import bare_module, bare_settings
from workers import worker_command
from workers.app import app


@functools.cache
def _load() -> tuple[dict[str, Any], Any]:
    return bare_settings(os.environ["BENCH_MODEL"], os.environ["BENCH_LM"]), bare_module()


@app.task(name="plain.predict")  # pyright: ignore[reportUntypedFunctionDecorator]
async def predict(question: str) -> float:
    """Answer a question."""
    settings, module = _load()
    with dspy.context(**settings):
        prediction = await module.acall(question=question)
    return prediction.answer


if __name__ == "__main__":
    worker_command.main()

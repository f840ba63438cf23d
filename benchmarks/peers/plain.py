"""Celery and DSPy as their guides show them: a module-level LM and program, a task that calls it.

celery -A benchmarks.peers.plain worker --pool prefork -c 2
celery -A benchmarks.peers.plain worker --pool threads -c 100
"""

from __future__ import annotations

import os

import dspy
from celery import Celery

app = Celery("plain", broker=os.environ["PLAIN_URL"], backend=os.environ["PLAIN_URL"])
app.conf.update(task_acks_late=True, worker_prefetch_multiplier=1, result_expires=600)

dspy.configure(
    lm=dspy.LM(os.environ["PLAIN_MODEL"], api_base=os.environ["PLAIN_LM"], api_key="none-needed", cache=False)
)
program = dspy.ChainOfThought("question -> answer: float")


@app.task(name="plain.predict")  # pyright: ignore[reportUntypedFunctionDecorator]
def predict(question: str) -> float:
    """Answers a question."""
    return program(question=question).answer

"""The contestant: DSPy's own MIPROv2 on its default of eight threads, in a process of its own.

It is given the model, the LM's api_base and how many examples it validates on, and prints the seconds that it took.
"""

from __future__ import annotations

import contextlib
import sys
import time
from typing import Any

import dspy

from benchmarks.strangers.evaluated import SIGNATURE, build_examples, has_answer

OPTIONS: Any = {
    "auto": None,
    "num_candidates": 3,
    "max_bootstrapped_demos": 0,
    "max_labeled_demos": 0,
    "verbose": False,
}
COMPILE_OPTIONS: Any = {"num_trials": 4, "minibatch": False}
_TRAINED = 10


def main(model: str, api_base: str, count: int) -> float:
    """Return the seconds that an optimization takes."""
    lm = dspy.LM(model, api_base=api_base, api_key="none-needed", cache=False, num_retries=0)
    examples = build_examples(_TRAINED + count)
    with dspy.context(lm=lm), contextlib.redirect_stdout(sys.stderr):
        optimizer = dspy.MIPROv2(metric=has_answer, **OPTIONS)
        started = time.perf_counter()
        trainset, valset = examples[:_TRAINED], examples[_TRAINED:]
        optimizer.compile(dspy.ChainOfThought(SIGNATURE), trainset=trainset, valset=valset, **COMPILE_OPTIONS)
        return time.perf_counter() - started


if __name__ == "__main__":
    sys.stdout.write(f"{main(sys.argv[1], sys.argv[2], int(sys.argv[3])):.3f}\n")

"""The contestant: DSPy's own ``Evaluate`` on threads, in a process of its own.

It is given the model, the LM's api_base, and how many examples and threads, and prints the seconds that it took.
"""

from __future__ import annotations

import sys
import time

import dspy

from benchmarks.strangers.evaluated import SIGNATURE, build_examples, has_answer


def main(model: str, api_base: str, count: int, threads: int) -> float:
    """Return the seconds that an evaluation takes, after two examples that warm the process up."""
    lm = dspy.LM(model, api_base=api_base, api_key="none-needed", cache=False, num_retries=0)
    program, devset = dspy.ChainOfThought(SIGNATURE), build_examples(count)
    with dspy.context(lm=lm):
        dspy.Evaluate(devset=devset[:2], metric=has_answer, num_threads=2)(program)
        started = time.perf_counter()
        dspy.Evaluate(devset=devset, metric=has_answer, num_threads=threads)(program)
        return time.perf_counter() - started


if __name__ == "__main__":
    sys.stdout.write(f"{main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])):.3f}\n")

"""The bare contestant: DSPy's own ``acall`` in a loop, as a process that answers how many it is told on stdin."""

from __future__ import annotations

import asyncio
import sys

import dspy

from workers.lifecycle import load_dspy

SIGNATURE = "question -> answer: float"
TEMPERATURE = 0.5


async def predict(module: dspy.Module, count: int, in_flight: int) -> None:
    """Makes predictions, a bounded number at a time."""
    numbers = iter(range(count))

    async def lane() -> None:
        for number in numbers:
            await module.acall(question=f"What is {number} + 1?")

    await asyncio.gather(*(lane() for _ in range(in_flight)))


async def main(model: str, api_base: str, in_flight: int) -> None:
    """Reads counts from stdin, and writes a line when that many predictions are made."""
    lm = dspy.LM(model, api_base=api_base, api_key="none-needed", cache=False, num_retries=0, timeout=60)
    with dspy.context(lm=lm, trace=[], disable_history=True, track_usage=True):
        module = dspy.ChainOfThought(SIGNATURE)
        module.predict.config = {"temperature": TEMPERATURE}
        while line := await asyncio.to_thread(sys.stdin.readline):
            await predict(module, int(line), in_flight)
            sys.stdout.write("done\n")
            sys.stdout.flush()


if __name__ == "__main__":
    load_dspy()
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))

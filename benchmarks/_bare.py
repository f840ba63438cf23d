"""The bare contestant: DSPy's own ``acall`` in a loop, on the fleet's engine, whose connections nothing limits.

A process of its own. It reads lines of ``COUNT IN_FLIGHT`` from stdin, and answers each with a line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import dspy
from pydantic import SecretStr

from benchmarks._load import closed_loop
from snakepit_bridge.lm.profiles import LMProfile
from workers.lifecycle import load_dspy

SIGNATURE = "question -> answer: float"
TEMPERATURE = 0.5


def bare_settings(model: str, api_base: str) -> dict[str, Any]:
    """Return DSPy's settings for a loop without the fleet."""
    lm = LMProfile("bare", model, api_base=api_base, api_key=SecretStr("none-needed"), timeout_s=60).build()
    return {"lm": lm, "trace": [], "disable_history": True, "track_usage": True}


def bare_module() -> Any:
    """Return the module that every contestant calls."""
    module: Any = dspy.ChainOfThought(SIGNATURE)
    module.predict.config = {"temperature": TEMPERATURE}
    return module


async def main(model: str, api_base: str) -> None:
    """Make as many predictions as it is told."""
    with dspy.context(**bare_settings(model, api_base)):
        module = bare_module()

        async def predict(number: int) -> None:
            await module.acall(question=f"What is {number} + 1?")

        while line := await asyncio.to_thread(sys.stdin.readline):
            count, in_flight = map(int, line.split())
            done = await closed_loop(predict, count, in_flight)
            sys.stdout.write(json.dumps({"per_s": done.per_s, "p99_ms": done.p99_ms}) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    load_dspy()
    asyncio.run(main(sys.argv[1], sys.argv[2]))

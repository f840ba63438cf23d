"""Tools with an effect, which a test counts in a file; a worker names this module in its allowed packages."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import dspy

from snakepit_bridge.dspy_integration import tool, tool_call_id

LEDGER = "TEST_LEDGER"
"""The environment variable with the path of the file."""


def _pay(how: str, amount: int) -> str:
    with Path(os.environ[LEDGER]).open("a", encoding="utf-8") as file:
        file.write(f"{how} {amount} {tool_call_id.get()}\n")
    return f"paid {amount}"


@tool(idempotent=False)
def pay(amount: int) -> str:
    """Pays an amount."""
    return _pay("once", amount)


@tool(idempotent=False)
async def pay_soon(amount: int) -> str:
    """Pays an amount, awaited."""
    return _pay("awaited", amount)


@tool(idempotent=True)
def look(amount: int) -> str:
    """Looks an amount up."""
    return _pay("looked", amount)


class Payer(dspy.Module):
    """Calls each tool, the paying one twice with the same amount, and asks the LM."""

    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict("question -> answer")

    async def aforward(self, question: str) -> Any:
        """Returns the answer."""
        paid = [pay(1), pay(1), await pay_soon(2), await dspy.Tool(pay).acall(amount=3), look(4)]
        return await self.ask.acall(question=f"{question} {len(paid)}")


class ThreadedPayer(dspy.Module):
    """Pays in a thread, and asks the LM."""

    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict("question -> answer")

    def forward(self, question: str) -> Any:
        """Returns the answer."""
        return self.ask(question=f"{question} {pay(5)}")

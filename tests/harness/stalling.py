"""A program whose code holds up whatever runs it, where its question says so, in each way in which code can."""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from typing import Any

import dspy

WAYS = ("spin", "sleep", "regex", "call", "power")
"""A loop in Python, a wait, a regular expression and a computation that hold the lock, a call in C that doesn't."""


class Stalling(dspy.Module):
    """Answers as a plain ``Predict`` does, unless its question begins with one of the ways to hang."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = dspy.Predict("question -> answer")

    async def aforward(self, question: str) -> Any:
        """Answer on the loop, which it may hold up."""
        if question.startswith("wait"):
            await asyncio.sleep(600)
        hang(question)
        return await self.answer.acall(question=question)


class StallingInThread(dspy.Module):
    """The same without a coroutine of its own, so that it runs in a thread."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = dspy.Predict("question -> answer")

    def forward(self, question: str) -> Any:
        """Answer in a thread."""
        hang(question)
        return self.answer(question=question)


def hang(question: str) -> None:
    """Hang in the way that a question begins with, if it begins with one."""
    way, _, seconds = question.partition(" ")[0].partition(":")
    if way not in WAYS:
        return
    deadline = time.monotonic() + float(seconds or 600)
    if way == "spin":
        while time.monotonic() < deadline:
            pass
    elif way == "sleep":
        time.sleep(deadline - time.monotonic())
    elif way == "regex":
        re.match(r"(a+)+$", "a" * 48 + "!")
    elif way == "call":
        hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
    else:
        sum(range(10**13))

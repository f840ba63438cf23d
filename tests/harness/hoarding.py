"""A program that takes all the files that its process may open, for so many seconds as it is asked to."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress
from typing import Any

import dspy


class Hoarding(dspy.Module):
    """Opens files until there are none, again and again, and then closes them."""

    async def aforward(self, question: str) -> Any:
        """Return how many it took."""
        descriptors, until = list[int](), time.monotonic() + float(question)
        try:
            while time.monotonic() < until:
                with suppress(OSError):
                    while True:
                        descriptors.append(os.open(os.devnull, os.O_RDONLY))
                await asyncio.sleep(0.01)
        finally:
            for each in descriptors:
                os.close(each)
        return dspy.Prediction(answer=str(len(descriptors)))

"""A program that takes all the files that its process may open, for so many seconds as it is asked to."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import dspy


class Hoarding(dspy.Module):
    """Opens files until there are none, waits, and closes them."""

    async def aforward(self, question: str) -> Any:
        """Returns how many it took."""
        taken: list[int] = []
        try:
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            await asyncio.sleep(float(question))
        finally:
            for each in taken:
                os.close(each)
        return dspy.Prediction(answer=str(len(taken)))

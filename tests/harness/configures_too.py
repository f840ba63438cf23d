"""A second package that configures DSPy at import, which DSPy allows only to the thread that did so first."""

from __future__ import annotations

import dspy

dspy.configure(adapter=dspy.XMLAdapter(), lm=None)


class Asks(dspy.Module):
    """Asks without naming an adapter."""

    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict("question -> answer")

    async def aforward(self, question: str) -> dspy.Prediction:
        """Return the answer."""
        return await self.ask.acall(question=question)

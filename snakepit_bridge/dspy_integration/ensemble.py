"""Ensemble as a module: DSPy's own compiles to a local class that hides its programs."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any

import dspy


class Ensemble(dspy.Module):
    """Runs several programs on the same inputs and reduces their outputs to one, as ``dspy.Ensemble`` does.

    Args:
        programs: the programs; :meth:`compile` can set them later.
        reduce_fn: reduces the list of outputs to one, such as ``dspy.majority``; None returns the list.
        size: how many programs are sampled for each call; None runs all.
    """

    def __init__(
        self,
        programs: Sequence[Any] = (),
        *,
        reduce_fn: Callable[[list[Any]], Any] | None = None,
        size: int | None = None,
    ) -> None:
        super().__init__()
        self.programs = list(programs)
        self.reduce_fn = reduce_fn
        self.size = size

    def compile(self, programs: Sequence[Any]) -> Any:
        """Set the programs and return this ensemble, so that it reads as ``dspy.Ensemble(…).compile(programs)``."""
        self.programs = list(programs)
        return self

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._reduce([program(*args, **kwargs) for program in self._sample_programs()])

    async def aforward(self, *args: Any, **kwargs: Any) -> Any:
        return self._reduce(
            await asyncio.gather(*(program.acall(*args, **kwargs) for program in self._sample_programs()))
        )

    def _sample_programs(self) -> list[Any]:
        return random.sample(self.programs, self.size) if self.size else self.programs

    def _reduce(self, outputs: list[Any]) -> Any:
        return self.reduce_fn(outputs) if self.reduce_fn is not None else outputs

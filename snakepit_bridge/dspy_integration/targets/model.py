"""Where a bound model is looked up, and the value that a target is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import dspy

from snakepit_bridge.dspy_integration.bounds import DEFAULT_BOUNDS, TargetBounds, abbreviate
from snakepit_bridge.exceptions import ValidationError
from snakepit_bridge.lm.profiles import LMProfiles, copy_with_model


class BoundValue(NamedTuple):
    """One bound value, and the variable that it came from."""

    variable: str
    value: Any


@dataclass(frozen=True, slots=True)
class LMScope:
    """Where a bound model is looked up: in the profiles if there are any, else next to the ambient LM.

    Attributes:
        profiles: the LM profiles.
        ambient: the default LM.
        bounds: upper bounds of bound values.
    """

    profiles: LMProfiles | None = None
    ambient: dspy.LM | None = None
    bounds: TargetBounds = DEFAULT_BOUNDS

    def choose(self, bound: BoundValue) -> dspy.LM:
        """Return the LM that the value names.

        Raises:
            ValidationError: the value names no declared profile or reachable model.
        """
        if not isinstance(bound.value, str) or not bound.value.strip():
            raise ValidationError(
                bound.variable, abbreviate(bound.value), "it is bound to the model and must be a text"
            )
        if self.profiles:
            return self.profiles.choose(bound.value, variable=bound.variable).lm
        if self.ambient is None:
            raise ValidationError(
                bound.variable,
                abbreviate(bound.value),
                "neither LM profiles nor dspy.configure(lm=…) say where to find it",
            )
        return copy_with_model(self.ambient, bound.value, variable=bound.variable)

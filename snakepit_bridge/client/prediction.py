"""A prediction that came from the fleet: DSPy's own, with its provenance."""

from __future__ import annotations

from typing import Self, cast

import dspy

from snakepit_bridge.messages import Result
from snakepit_bridge.provenance import Provenance


class FleetPrediction(dspy.Prediction):
    """A ``dspy.Prediction`` whose ``provenance`` tells what produced it. Its outputs are JSON values."""

    # Declared here, so that DSPy keeps it beside the outputs and not among them.
    provenance: Provenance = cast(Provenance, None)

    @property
    def truncated(self) -> bool:
        """Whether an answer that it was made of was cut off at its token limit."""
        return self.provenance.truncated

    @classmethod
    def of(cls, result: Result) -> Self:
        """Makes the prediction from what the worker stored."""
        several = [dict(each) for each in result.completions]
        prediction = cls.from_completions(several) if several else cls(**result.outputs)
        prediction.provenance = Provenance.decode(result.provenance)
        prediction.set_lm_usage(dict(prediction.provenance.usage))
        return prediction

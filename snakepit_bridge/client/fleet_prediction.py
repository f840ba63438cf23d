"""A prediction that came from the fleet: DSPy's own, with its provenance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Self, cast

import dspy
from dspy.primitives.prediction import Completions
from pydantic import TypeAdapter

from snakepit_bridge.protocol.messages import Result
from snakepit_bridge.protocol.provenance import Provenance


class JSONObject(dict[str, Any]):
    """A JSON object of an output: a dict whose keys can be read as attributes too, ``prediction.ticket.category``.

    The class that it was on the worker need not be here; :meth:`FleetPrediction.typed` makes it where it is.
    """

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"The object has no '{name}', only: {', '.join(self) or 'nothing'}") from None

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self]


@dataclass(frozen=True, slots=True)
class TraceStep:
    """One call of a predictor of a program.

    Attributes:
        predictor: its path within the program, as in ``named_predictors()``; ``self`` for a program that is one.
        inputs, outputs: field to JSON value.
        usage: what its LM calls used, by model.
    """

    predictor: str
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]
    usage: Mapping[str, Any]


class FleetPrediction(dspy.Prediction):
    """A ``dspy.Prediction`` whose ``provenance`` tells what produced it, and ``evaluation`` what a metric said of it.

    Its outputs are JSON values, and objects among them can be read by attribute. An output that is called as an
    attribute of a prediction is read by key: ``prediction["items"]``.
    """

    # Declared here, so that DSPy keeps it beside the outputs and not among them.
    provenance: Provenance = cast(Provenance, None)
    # The calls of its predictors in the order in which they ended, if it was submitted with ``trace=True``.
    trace: tuple[TraceStep, ...] = ()
    evaluation: Mapping[str, Any] = MappingProxyType({})

    @property
    def truncated(self) -> bool:
        """Whether an answer that it was made of was cut off at its token limit."""
        return self.provenance.truncated

    @classmethod
    def from_result(cls, result: Result) -> Self:
        """Return the prediction that a worker stored."""
        several = [_wrap_objects(each) for each in result.completions]
        prediction = cls()
        # By key: an output may be called `base`, `self` or whatever else DSPy's constructor takes.
        vars(prediction)["_store"] = dict(several[0]) if several else _wrap_objects(result.outputs)
        if several:
            vars(prediction)["_completions"] = _Completions(several)
        prediction.provenance = Provenance.decode(result.provenance)
        prediction.trace = tuple(TraceStep(**step) for step in result.trace)
        prediction.evaluation = result.evaluation
        prediction.set_lm_usage(dict(prediction.provenance.usage))
        return prediction

    def typed(self, signature: Any) -> Self:
        """Return the prediction with its outputs in the types that a signature's fields have, such as pydantic models.

        Args:
            signature: a ``dspy.Signature``; outputs that it doesn't have stay as they are.

        Raises:
            pydantic.ValidationError: an output isn't of its type.
        """
        typed_copy = self.copy()
        vars(typed_copy).update({name: value for name, value in vars(self).items() if name != "_store"})
        for name, info in signature.output_fields.items():
            if name in self:
                typed_copy[name] = TypeAdapter[Any](info.annotation).validate_python(self[name])
        return typed_copy


class _Completions(Completions):
    """DSPy's completions, whose single ones are made by key as well."""

    def __getitem__(self, key: Any) -> Any:
        if not isinstance(key, int):
            return super().__getitem__(key)
        if not 0 <= key < len(self):
            raise IndexError("Index out of range")
        single = dspy.Prediction()
        vars(single)["_store"] = {name: values[key] for name, values in self.items()}
        return single


def _wrap_objects(outputs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _wrap(value) for name, value in outputs.items()}


def _wrap(value: Any) -> Any:
    if isinstance(value, dict):
        return JSONObject({name: _wrap(held) for name, held in cast(dict[str, Any], value).items()})
    if isinstance(value, list):
        return [_wrap(held) for held in cast(list[Any], value)]
    return value

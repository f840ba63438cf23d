"""A program whose calls run on the fleet, as an optimizer holds it: an ordinary DSPy module, copied and changed as any.

Its class is a subclass of the program's own, with another ``forward``. So what an optimizer does to predictors (demos,
instructions, LM settings) is seen by it alone, and each call sends the program as it is at that moment: as a variant,
by the digest of its spec.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Protocol, cast

import dspy
from pydantic import TypeAdapter, ValidationError

from snakepit_bridge.client.fleet_prediction import FleetPrediction, TraceStep
from snakepit_bridge.dspy_integration.module_tree import predictors
from snakepit_bridge.programs.serialize import find_own_class
from snakepit_bridge.programs.steps import WHOLE

_LOCAL_CLASS = "_dspex_local_class"


class ProgramRunner(Protocol):
    """Runs a program as it is now."""

    def run(self, module: Any, inputs: Mapping[str, Any]) -> FleetPrediction:
        """Return the prediction of a local module's twin on the fleet."""
        ...


def make_remote(module: Any, runner: ProgramRunner) -> Any:
    """Return a copy of a module whose calls run elsewhere; copies of it do, too."""
    kind, own = type(module), find_own_class(module)

    def forward(self: Any, **inputs: Any) -> FleetPrediction:
        prediction = runner.run(self, inputs)
        _replay_trace(self, prediction)
        return prediction

    async def aforward(self: Any, **inputs: Any) -> FleetPrediction:
        import asyncio

        prediction = await asyncio.to_thread(runner.run, self, inputs)
        _replay_trace(self, prediction)
        return prediction

    members = {"forward": forward, "aforward": aforward, _LOCAL_CLASS: kind}
    # By these names its source is found, which MIPROv2 shows to the LM that proposes instructions.
    names = {"__module__": own.__module__, "__qualname__": own.__qualname__, "__doc__": own.__doc__}
    remote = module.deepcopy()
    remote.__class__ = cast(Any, type(kind))(own.__name__, (kind,), {**members, **names})
    return remote


def to_local(remote: Any) -> Any:
    """Return the module with the program's own class, which shares everything with the remote one."""
    kind: Any = getattr(type(remote), _LOCAL_CLASS, type(remote))
    local = kind.__new__(kind)
    # GEPA replaces the forward of the instance for a while.
    vars(local).update({name: value for name, value in vars(remote).items() if name not in ("forward", "aforward")})
    return local


def type_outputs(remote: Any, prediction: FleetPrediction) -> None:
    """Give a prediction's outputs the types that the program's predictors declare, as a local call has them."""
    signatures: list[Any] = [predictor.signature for _, predictor in predictors(remote)]
    fields = {name: info.annotation for each in signatures for name, info in each.output_fields.items()}
    for name in list(prediction):
        if name in fields:
            prediction[name] = _to_type(fields[name], prediction[name])


def _replay_trace(remote: Any, prediction: FleetPrediction) -> None:
    """Add the steps to DSPy's trace, as calls of the predictors of the module that was called."""
    trace: list[Any] | None = dspy.settings.trace
    if trace is None:
        return
    own = {path or WHOLE: predictor for path, predictor in predictors(remote)}
    for step in prediction.trace:
        if (predictor := own.get(step.predictor)) is not None:
            trace.append((predictor, _typed_inputs(predictor, step), _typed_outputs(predictor, step)))


def _typed_inputs(predictor: Any, step: TraceStep) -> dict[str, Any]:
    fields = predictor.signature.input_fields
    return {
        name: _to_type(fields[name].annotation, value) if name in fields else value
        for name, value in step.inputs.items()
    }


def _typed_outputs(predictor: Any, step: TraceStep) -> dspy.Prediction:
    fields, prediction = predictor.signature.output_fields, dspy.Prediction()
    vars(prediction)["_store"] = {
        name: _to_type(fields[name].annotation, value) if name in fields else value
        for name, value in step.outputs.items()
    }
    return prediction


def _to_type(annotation: Any, value: Any) -> Any:
    """Return a JSON value in a field's type; a program may return another one under the same name."""
    try:
        return TypeAdapter[Any](annotation).validate_python(value)
    except ValidationError:
        return value


def fingerprint_state(local: Any, configs: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a digest of what an optimizer changes of a program: the same digest is the same spec."""
    text = json.dumps([local.dump_state(), configs], default=repr, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()

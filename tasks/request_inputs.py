"""Resolve a request's inputs: fetch references, and pick them from a chain's previous result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from snakepit_bridge.delivery.payloads import Payloads, is_reference
from snakepit_bridge.exceptions import InputError
from snakepit_bridge.protocol.json_values import ValueBounds, find_problem, unescape
from snakepit_bridge.protocol.messages import PredictionRequest, Result, is_result


async def fetch_payloads(payloads: Payloads, request: PredictionRequest) -> PredictionRequest:
    """Return the request with its inputs loaded and unescaped.

    Raises:
        PayloadLostError: a referenced payload has expired.
        StoreUnavailableError: Redis is unavailable.
    """
    inputs: Any = request.inputs
    if is_reference(inputs):
        return replace(request, inputs=await payloads.get(inputs))
    if request.escaped:
        inputs = unescape(inputs)
    elif request.chained or request.take:
        inputs = await _load_previous_results(payloads, inputs)
    return request if inputs is request.inputs else replace(request, inputs=inputs)


async def _load_previous_results(payloads: Payloads, inputs: Any) -> Any:
    """Return the result of a chain's previous prediction, or a group's list of results; anything else unchanged."""
    if is_result(inputs):
        return await payloads.load_result(Result.decode(inputs))
    if isinstance(inputs, list) and inputs and all(is_result(each) for each in cast(list[Any], inputs)):
        return [await payloads.load_result(Result.decode(each)) for each in cast(list[Any], inputs)]
    return inputs


def select_inputs(request: PredictionRequest, bounds: ValueBounds) -> Mapping[str, Any]:
    """Return a request's inputs; in a chain, pick them from the previous result or from a group's results.

    Raises:
        InputError: the previous result lacks a selected field, the inputs aren't an object, or one is too deep or too
            large.
    """
    inputs = _collect_inputs(request)
    for name, value in inputs.items():
        if (problem := find_problem(value, bounds)) is not None:
            raise InputError(request.program, name, problem)
    return inputs


def _collect_inputs(request: PredictionRequest) -> Mapping[str, Any]:
    inputs: Any = request.inputs
    if isinstance(inputs, Result):
        return _pick(request, inputs.outputs, request.take or _same_names(inputs))
    if isinstance(inputs, list) and inputs and isinstance(inputs[0], Result):
        previous = cast("list[Result]", inputs)
        wanted = request.take or _same_names(previous[0])
        picked = [_pick(request, each.outputs, wanted) for each in previous]
        return {name: [each[name] for each in picked] for name in wanted}
    if not isinstance(inputs, dict):
        raise InputError(
            request.program, "inputs", f"they must be an object of named inputs, not {type(inputs).__name__}"
        )
    return cast("dict[str, Any]", inputs)


def _same_names(result: Result) -> Mapping[str, str]:
    return {name: name for name in result.outputs}


def _pick(request: PredictionRequest, outputs: Mapping[str, Any], wanted: Mapping[str, str]) -> dict[str, Any]:
    for name, output in wanted.items():
        if output not in outputs:
            raise InputError(request.program, name, f"the previous prediction has no output '{output}'", tuple(outputs))
    return {name: outputs[output] for name, output in wanted.items()}

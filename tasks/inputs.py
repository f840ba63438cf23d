"""A request's inputs: as they travelled, by reference or as the previous step's result, and as the program wants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from snakepit_bridge.exceptions import InputError
from snakepit_bridge.messages import Request, Result, is_result
from snakepit_bridge.payloads import Payloads, is_reference


async def arrived(payloads: Payloads, request: Request) -> Request:
    """Returns a request whose inputs are at hand, however large.

    Raises:
        PayloadLostError: they aren't there any more.
        StoreUnavailableError: Redis is away.
    """
    inputs: Any = request.inputs
    if is_reference(inputs):
        return replace(request, inputs=await payloads.get(inputs))
    if isinstance(inputs, list):
        return replace(request, inputs=cast(Any, [await _whole(payloads, each) for each in cast(list[Any], inputs)]))
    return replace(request, inputs=await _whole(payloads, inputs)) if is_result(inputs) else request


async def _whole(payloads: Payloads, previous: Any) -> Any:
    """A previous result in its JSON form; what is none stays as it is."""
    if not is_result(previous) or "payload" not in previous:
        return previous
    return (await payloads.whole(Result.decode(previous))).encode()


def taken(request: Request) -> Mapping[str, Any]:
    """Returns a request's inputs; in a chain they are picked out of the previous result, or of a group's results.

    Raises:
        InputError: the previous result lacks a field that should be taken, or the inputs aren't an object.
    """
    inputs: Any = request.inputs
    if is_result(inputs):
        return _pick(request, inputs["outputs"], request.take or _by_name(inputs))
    if isinstance(inputs, list) and inputs and all(is_result(each) for each in inputs):
        wanted = request.take or _by_name(inputs[0])
        picked = [_pick(request, each["outputs"], wanted) for each in inputs]
        return {name: [each[name] for each in picked] for name in wanted}
    if not isinstance(inputs, dict):
        raise InputError(
            request.program, "inputs", f"they must be an object of named inputs, not {type(inputs).__name__}"
        )
    return inputs


def _by_name(result: Mapping[str, Any]) -> Mapping[str, str]:
    return {name: name for name in result["outputs"]}


def _pick(request: Request, outputs: Mapping[str, Any], wanted: Mapping[str, str]) -> dict[str, Any]:
    for name, output in wanted.items():
        if output not in outputs:
            raise InputError(request.program, name, f"the previous prediction has no output '{output}'", tuple(outputs))
    return {name: outputs[output] for name, output in wanted.items()}

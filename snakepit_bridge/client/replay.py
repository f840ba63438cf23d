"""Replay: a finished prediction made again under its exact revision and program version, beside the first one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from snakepit_bridge.client.handle import Handle
from snakepit_bridge.client.results import Results
from snakepit_bridge.delivery.payloads import Payloads
from snakepit_bridge.protocol.messages import Result
from snakepit_bridge.protocol.provenance import Provenance

if TYPE_CHECKING:
    from snakepit_bridge.client.fleet_prediction import FleetPrediction


@dataclass(frozen=True, slots=True)
class Replay:
    """A prediction and its repetition.

    Attributes:
        inputs: what was asked both times.
        first: the prediction as it was stored.
        again: the one made now.
    """

    inputs: Mapping[str, Any]
    first: FleetPrediction
    again: FleetPrediction

    @property
    def differences(self) -> dict[str, tuple[Any, Any]]:
        """Return output field to (first, again), where the two differ; an LM may well answer differently."""
        return find_differences(dict(self.first.items()), dict(self.again.items()))


def find_differences(first: Mapping[str, Any], again: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return output field to (first, again), where the outputs of two predictions differ."""
    names = [*first, *(name for name in again if name not in first)]
    return {name: (first.get(name), again.get(name)) for name in names if first.get(name) != again.get(name)}


async def fetch_with_inputs(results: Results, payloads: Payloads, task_id: str, wait_s: float) -> Result:
    """Return a finished prediction's result with its inputs, fetched if they are stored by reference."""
    return await load_inputs(payloads, await payloads.load_result(await results.wait(task_id, wait_s), task_id))


async def load_inputs(payloads: Payloads, result: Result) -> Result:
    """Return a result with its inputs, fetched if they are stored by reference.

    Raises:
        PayloadLostError: they were stored by reference, and aren't there any more.
    """
    inputs = result.inputs
    return replace(result, inputs=await payloads.get(inputs)) if isinstance(inputs, str) else result


def submit_again(result: Result, submit: Callable[..., Handle]) -> Handle:
    """Submit a finished prediction under its exact revision and program version, and return the repetition's handle.

    Args:
        result: its result, with its inputs.
        submit: ``Fleet.submit``.

    Raises:
        RevisionLostError: the store can't give the revision any more.
    """
    provenance = Provenance.decode(result.provenance)
    program = f"{provenance.program}:{provenance.version}"
    return submit(program, result.inputs, session=provenance.session, exactly=provenance.token)


def repeat(result: Result, submit: Callable[..., Handle], wait_s: float) -> Replay:
    """Make a finished prediction again, as ``Fleet.replay`` says.

    Args:
        result: its result, with its inputs.
        submit: ``Fleet.submit``.
        wait_s: seconds to wait for the repetition.
    """
    # DSPy comes in here, as it does with any prediction.
    from snakepit_bridge.client.fleet_prediction import FleetPrediction

    again = submit_again(result, submit).get(wait_s)
    return Replay(cast("Mapping[str, Any]", result.inputs), FleetPrediction.from_result(result), again)

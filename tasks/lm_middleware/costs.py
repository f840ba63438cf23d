"""Count what each request to a provider uses and costs, for the prediction, its span, the limits and the metrics."""

from __future__ import annotations

from dspy.lm15 import LM15Error, Response

from snakepit_bridge.costs.usage import PICO_PER_USD, LMUsage, charge_usage
from snakepit_bridge.lm.engine import note_answering
from snakepit_bridge.lm.failures import find_usage
from snakepit_bridge.lm.profiles import LMProfiles
from snakepit_bridge.telemetry import TELEMETRY
from snakepit_bridge.telemetry.metrics import COST, UNPRICED_CALLS
from tasks.lm_middleware.middleware import CallNext, PredictionCall


class CountCosts:
    """Charges each request to the LM profile that answered it, also a failed one whose usage the provider reported.

    Args:
        profiles: the LM profiles, with their prices.
    """

    def __init__(self, profiles: LMProfiles) -> None:
        self._profiles = profiles

    async def __call__(self, call: PredictionCall, call_next: CallNext) -> Response:
        """Return the response of the rest of the chain."""
        engine = call.engine
        price = self._profiles[call.profile].price_of(engine.endpoint.model)
        with note_answering(engine.dialect) as answering:
            try:
                response = await call_next(call)
            except LM15Error as exc:
                if (reported := find_usage(exc)) is not None:
                    record_charge(call, charge_usage(reported, answering.dialect, price))
                raise
        record_charge(call, charge_usage(response.usage, answering.dialect, price))
        return response


def record_charge(call: PredictionCall, usage: LMUsage) -> None:
    """Count what a request used and cost for its prediction, its call and the metrics."""
    call.charges.append(usage)
    call.usage[call.profile] = call.usage.pop(call.profile, LMUsage()) + usage  # the last one is who answered
    call.scope.spending.add(call.profile, usage)
    meter = TELEMETRY.meter
    if not meter.enabled:
        return
    if usage.unpriced_calls:
        meter.add(UNPRICED_CALLS, 1, {"dspex.profile": call.profile})
    elif usage.cost_pico:
        labels = {"dspex.program": call.program, "dspex.profile": call.profile, "dspex.session": call.scope.session}
        meter.add(COST, usage.cost_pico / PICO_PER_USD, labels)

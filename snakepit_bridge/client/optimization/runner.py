"""Run the calls of an optimizer's programs on the fleet, each under the digest of the program as it is then."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import dspy

from snakepit_bridge.client.fleet_prediction import FleetPrediction
from snakepit_bridge.client.handle import Handle
from snakepit_bridge.client.optimization.budget import Spent
from snakepit_bridge.client.optimization.remote_program import fingerprint_state, to_local, type_outputs
from snakepit_bridge.client.optimization.trials import Trials, mark_variant
from snakepit_bridge.dspy_integration.module_tree import predictors
from snakepit_bridge.dspy_integration.targets.keywords import ANY_ENGINE
from snakepit_bridge.exceptions import OptimizationError
from snakepit_bridge.lm.fleet_lm import FleetLM
from snakepit_bridge.process.home_loop import run_blocking
from snakepit_bridge.programs.build import serialize_module
from snakepit_bridge.programs.registry import VARIANT_KEPT_S
from snakepit_bridge.programs.spec import ProgramSpec
from snakepit_bridge.programs.steps import WHOLE
from snakepit_bridge.redis.outages import retry_through_outages

StoreVariant = Callable[[str, ProgramSpec], str]
Submit = Callable[..., Handle]

# What the variants of a program have in common with it.
_KEPT = ("bindings", "attributes", "lm", "cache", "executes_code", "journal")


@dataclass(frozen=True, slots=True)
class RunSettings:
    """What all calls of an optimization have in common.

    Attributes:
        run_id: of the optimization; the same call of the same run is one prediction.
        program: the name of the program.
        options: keyword arguments of :meth:`Fleet.submit`.
        wait_s: seconds to wait for one prediction.
    """

    run_id: str
    program: str
    options: Mapping[str, Any]
    wait_s: float


class FleetRunner:
    """Runs programs of an optimization. Safe in threads.

    Args:
        settings: what its calls have in common.
        spec: the program that is optimized, whose parts that no optimizer changes are those of all its variants.
        store: stores a spec and returns the reference under which it runs.
        submit: :meth:`Fleet.submit`.
        trials: gets each variant.
        spent: gets each prediction.
        on_progress: called whenever a prediction has ended.
    """

    def __init__(
        self,
        settings: RunSettings,
        spec: ProgramSpec,
        store: StoreVariant,
        submit: Submit,
        trials: Trials,
        spent: Spent,
        on_progress: Callable[[], object] = lambda: None,
    ) -> None:
        self._settings = settings
        self._spec = spec
        self._store = store
        self._submit = submit
        self._trials = trials
        self._spent = spent
        self._on_progress = on_progress
        self._base_lm: Any = dspy.settings.lm
        self._lock = threading.Lock()
        self._specs: dict[str, ProgramSpec] = {}
        self._stored: dict[str, tuple[str, float]] = {}

    def run(self, module: Any, inputs: Mapping[str, Any]) -> FleetPrediction:
        """Return the prediction of a program as it is now; the same call of the same run is made once.

        Raises:
            BudgetSpentError: the optimization has reached a limit.
            OptimizationError: it asks for an LM that the fleet doesn't have.
            StoreUnavailableError: Redis stays away for longer than one prediction may take.
            BridgeError: the prediction failed.
        """
        self._spent.begin_prediction()
        spec = self.describe(module)
        reference, handle = run_blocking(
            retry_through_outages(lambda: asyncio.to_thread(self._send, spec, inputs), patience_s=self._settings.wait_s)
        )
        prediction = handle.get(self._settings.wait_s)
        self._spent.add_cost(prediction.provenance.cost_usd)
        type_outputs(module, prediction)
        mark_variant(prediction, reference.partition("#")[2])
        self._on_progress()
        return prediction

    def _send(self, spec: ProgramSpec, inputs: Mapping[str, Any]) -> tuple[str, Handle]:
        """Store a variant and submit a call of it. Sending the same twice makes one prediction."""
        reference = self._keep(spec)
        key = self._name_call(reference, inputs)
        return reference, self._submit(reference, inputs, trace=True, idempotency_key=key, **self._settings.options)

    def describe(self, module: Any) -> ProgramSpec:
        """Return the spec of a program as it is now, under the LM settings that apply to it now."""
        local, overrides = to_local(module), self._find_overrides(module)
        state = fingerprint_state(local, overrides)
        with self._lock:
            known = self._specs.get(state)
        if known is not None:
            return known
        spec = self._serialize(local, overrides)
        with self._lock:
            self._specs[state] = spec
        return spec

    def _serialize(self, local: Any, overrides: Mapping[str, Mapping[str, Any]]) -> ProgramSpec:
        base, name = self._spec, self._settings.program
        found = serialize_module(local, program=name, arguments=base.arguments)
        config = {path: dict(values) for path, values in found.config.items()}
        for path, values in overrides.items():
            config[path] = {**values, **config.get(path, {})}
        kept = {key: getattr(base, key) for key in _KEPT}
        profile = self._find_profile()
        return found.model_copy(update={**kept, "config": config, **({"lm": profile} if profile else {})})

    def _find_overrides(self, module: Any) -> dict[str, dict[str, Any]]:
        """Return the LM keywords by which an optimizer samples, by predictor: those that differ from the start's."""
        found: dict[str, dict[str, Any]] = {}
        for path, predictor in predictors(module):
            lm: Any = getattr(predictor, "lm", None) or dspy.settings.lm
            self._check_model(lm)
            base = self._base_lm.kwargs
            changed = {key: value for key, value in lm.kwargs.items() if value != base.get(key) and key in ANY_ENGINE}
            if changed:
                found[path or WHOLE] = changed
        return found

    def _check_model(self, lm: Any) -> None:
        if isinstance(lm, FleetLM) or lm.model == self._base_lm.model:
            return
        raise OptimizationError(
            f"the LM {lm.model}",
            "the optimizer runs the program on it, and the fleet knows its own LM profiles alone; name one of them: "
            "FleetLM('PROFILE')",
        )

    def _find_profile(self) -> str:
        lm = dspy.settings.lm
        return lm.profile if isinstance(lm, FleetLM) else ""

    def _keep(self, spec: ProgramSpec) -> str:
        """Store a variant, and again before it expires; return its reference."""
        key = hashlib.sha256(spec.encode()).hexdigest()
        with self._lock:
            reference, until = self._stored.get(key, ("", 0.0))
        if time.monotonic() < until:
            return reference
        reference = self._store(self._settings.program, spec)
        self._trials.add(key, spec, self._spent)
        with self._lock:
            self._stored[key] = reference, time.monotonic() + VARIANT_KEPT_S / 2
        return reference

    def _name_call(self, reference: str, inputs: Mapping[str, Any]) -> str:
        """Return the idempotency key of a call, by which a run under the same revision finds it again."""
        run_id, token = self._settings.run_id, str(self._settings.options.get("exactly", ""))
        text = json.dumps([run_id, token, reference, dict(inputs)], default=repr, sort_keys=True)
        return f"optimize/{hashlib.sha256(text.encode()).hexdigest()}"

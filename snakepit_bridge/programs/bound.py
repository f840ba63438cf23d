"""Bound programs: a program with one snapshot's values applied, built once and shared by all tasks that run it."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import dspy
from dspy.primitives.base_module import BaseModule

from snakepit_bridge.dspy_integration.binding import MODEL, BoundValue, LMScope, apply_values
from snakepit_bridge.dspy_integration.bounds import DEFAULT_BOUNDS, TargetBounds
from snakepit_bridge.dspy_integration.cached_adapter import SHARED_ADAPTER
from snakepit_bridge.dspy_integration.compat import RLM, Flex
from snakepit_bridge.dspy_integration.isolation import Isolation
from snakepit_bridge.dspy_integration.knn_few_shot import KNNFewShot
from snakepit_bridge.dspy_integration.module_tree import clone, parts
from snakepit_bridge.dspy_integration.modules import plain_class_name
from snakepit_bridge.dspy_integration.process_settings import default_settings
from snakepit_bridge.exceptions import ProgramSpecError, UnknownModuleError, ValidationError, copy_error
from snakepit_bridge.lm.profiles import ChosenLM, LMProfiles
from snakepit_bridge.process.frames import unmarked
from snakepit_bridge.process.lru_cache import ThreadSafeLRUCache
from snakepit_bridge.process.threads import run_in_user_thread
from snakepit_bridge.programs.bounds import check_bounds
from snakepit_bridge.programs.build import build_module, make_isolation
from snakepit_bridge.programs.imports import AllowedImports
from snakepit_bridge.programs.inputs import ProgramInputs
from snakepit_bridge.programs.packages import find_releases
from snakepit_bridge.programs.registry import Program
from snakepit_bridge.programs.spec import ModuleVariable, ProgramSpec
from snakepit_bridge.programs.steps import RecordedUsage, SharedUsage, StepRecorder
from snakepit_bridge.snapshots.snapshot import Snapshot

# Bounds of the caches: templates are as many as programs in use, bound programs as many as their live value sets.
_MAX_TEMPLATES = 512
_MAX_BOUND = 2_048
# They execute code that an LM wrote.
_EXECUTE_CODE = (dspy.ProgramOfThought, dspy.CodeAct, RLM, Flex)
# A call decrements their fail_count.
_STATEFUL = (dspy.BestOfN, dspy.Refine)
# Where modules come from whose calls are known.
_OWN_PACKAGES = ("dspy.", "snakepit_bridge.")


@dataclass(frozen=True, slots=True)
class BoundProgram:
    """A program bound to one snapshot's values. Never changed once built, so tasks run it at the same time.

    Attributes:
        program: the registered program that it was built from.
        module_name: DSPy module class that runs.
        module: the bound module.
        choice: the LM for whatever names none itself.
        variables: variable name to the value that was bound.
        inputs: its inputs.
        is_stateful: whether a call changes the module, so that calls can't share it.
        executes_code: whether it needs a process of its own, since it computes or executes code rather than waiting.
        packages: the distributions that its own code comes from, with their versions.
        keeps_journal: whether what its calls are answered is kept until its result is committed.
        isolation: makes the module of a call; None where calls share it, or where it is that of one call already.
    """

    program: Program
    module_name: str
    module: Any
    choice: ChosenLM
    variables: Mapping[str, Any]
    inputs: ProgramInputs
    is_stateful: bool = False
    executes_code: bool = False
    isolation: Isolation | None = None
    packages: Mapping[str, str] = field(default_factory=dict[str, str])
    keeps_journal: bool = False

    def isolate(self) -> BoundProgram:
        """Return the program with a module that no other prediction sees, where its code is the user's own."""
        return self if self.isolation is None else replace(self, module=self.isolation.copy(), isolation=None)

    async def acall(self, steps: StepRecorder | None = None, /, **inputs: Any) -> dspy.Prediction:
        """Run the program and return DSPy's prediction with its LM usage; raise what DSPy raises.

        Args:
            steps: records the calls of its predictors.
            **inputs: its inputs.
        """
        if self.isolation is not None:
            return await self.isolate().acall(steps, **inputs)
        args, kwargs = self.inputs.to_arguments(inputs)
        # With its own trace: the process-wide one keeps the last 10,000 calls alive.
        settings: dict[str, Any] = {
            "lm": self.choice.lm,
            "adapter": dspy.settings.adapter or SHARED_ADAPTER,
            "trace": [] if steps is None else steps,
        }
        usage = SharedUsage() if steps is None else RecordedUsage(steps)
        with dspy.context(**settings, disable_history=True, track_usage=True, usage_tracker=usage):
            module = clone(self.module) if self.is_stateful else self.module
            if steps is not None:
                steps.module = module
            prediction = await module.acall(*args, **kwargs)
        if isinstance(prediction, dspy.Prediction):
            prediction.set_lm_usage(usage.get_total_tokens())
        return prediction


@dataclass(frozen=True, slots=True)
class _Template:
    """A module built from a spec without bound values, and what all programs bound from it have in common."""

    module: Any
    module_name: str
    inputs: ProgramInputs
    is_stateful: bool
    executes_code: bool
    packages: Mapping[str, str]
    makes_several_calls: bool
    names_profiles: bool

    @classmethod
    def of(cls, module: Any, spec: ProgramSpec) -> Self:
        inside = [part for _, part in parts(module, BaseModule)]
        used_up = any(isinstance(part, _STATEFUL) for part in inside)
        executes_code = any(map(_executes_code, inside))
        return cls(
            module,
            plain_class_name(module),
            ProgramInputs.of(module),
            used_up,
            executes_code,
            find_releases(spec),
            _makes_several_calls(module, inside),
            any(isinstance(part, KNNFewShot) for part in inside),
        )


class BoundPrograms:
    """The bound programs of a process, by content: program, module type and bound values.

    Args:
        profiles: the LM profiles.
        allowed: the packages that specs may name.
        build_limit_s: seconds that building a program may take.
        bounds: upper bounds of specs and values.
    """

    def __init__(
        self,
        profiles: LMProfiles,
        allowed: AllowedImports,
        *,
        build_limit_s: float = 60.0,
        bounds: TargetBounds = DEFAULT_BOUNDS,
    ) -> None:
        self._profiles = profiles
        self._allowed = allowed
        self._bounds = bounds
        # A race may build one twice; both are equal.
        self._templates: ThreadSafeLRUCache[tuple[str, str], _Template] = ThreadSafeLRUCache(_MAX_TEMPLATES)
        self._bound: ThreadSafeLRUCache[Any, BoundProgram] = ThreadSafeLRUCache(_MAX_BOUND)
        self._build_timeout_s = build_limit_s
        self._building: dict[Any, asyncio.Future[BoundProgram]] = {}

    def bind(self, program: Program, snapshot: Snapshot) -> BoundProgram:
        """Return the program bound to a snapshot; snapshots that differ only in other variables share it.

        Raises:
            VariableNotFoundError: the snapshot lacks a bound variable.
            UnknownModuleError: the module-type variable names a module that the program doesn't allow.
            ValidationError: a value isn't valid for its target, or the LM profile isn't declared.
            ProgramSpecError: the module can't be built here, for example because a package isn't installed.
        """
        module_name, used = _resolve_module_name(program, snapshot)
        for variable in program.spec.bindings.values():
            used[variable] = snapshot.value(variable)
        key = _cache_key(program, snapshot, module_name, used)
        return self._bound.get(key) or self._bind(key, program, module_name, used)

    async def abind(self, program: Program, snapshot: Snapshot) -> BoundProgram:
        """Return what ``bind`` does; a program that isn't built yet is built in a thread, once for all callers.

        Raises:
            VariableNotFoundError, UnknownModuleError, ValidationError, ProgramSpecError: as ``bind`` does. The last
                also where building takes longer than it may.
        """
        module_name, used = _resolve_module_name(program, snapshot)
        for variable in program.spec.bindings.values():
            used[variable] = snapshot.value(variable)
        key = _cache_key(program, snapshot, module_name, used)
        if (bound := self._bound.get(key)) is not None:
            return bound
        building = self._building.get(key)
        if building is None:
            building = self._building[key] = asyncio.ensure_future(self._build(program, snapshot))
            building.add_done_callback(functools.partial(self._finish_build, key))
        # wait() instead of await: each caller gets its own error, and a cancelled caller doesn't cancel the build.
        await asyncio.wait([building])
        error = building.exception()
        if error is not None:
            raise copy_error(error)
        return building.result()

    async def _build(self, program: Program, snapshot: Snapshot) -> BoundProgram:
        try:
            async with asyncio.timeout(self._build_timeout_s):
                return await run_in_user_thread(self.bind, program, snapshot)
        except TimeoutError:
            problem = (
                f"it isn't built after {self._build_timeout_s:g} s; move what takes so long out of its constructor"
            )
            raise ProgramSpecError(program.name, "the whole", problem) from None

    def _finish_build(self, key: Any, building: asyncio.Future[BoundProgram]) -> None:
        self._building.pop(key, None)
        if not building.cancelled():
            building.exception()  # the callers may have been cancelled

    def _bind(self, key: Any, program: Program, module_name: str, used: dict[str, Any]) -> BoundProgram:
        return self._bound.put_if_absent(key, self._build_bound(program, module_name, used))

    def _build_bound(self, program: Program, module_name: str, used: dict[str, Any]) -> BoundProgram:
        template = self._load_template(program, module_name)
        bindings = {name: BoundValue(variable, used[variable]) for name, variable in program.spec.bindings.items()}
        choice = self._choose(program, bindings)
        module = clone(template.module)
        apply_values(module, bindings, LMScope(self._profiles, choice.lm, self._bounds))
        if template.names_profiles:
            self._connect(module)
        module._bound = True
        isolation = make_isolation(module, program=program.name)
        return BoundProgram(
            program,
            template.module_name,
            module,
            choice,
            dict(used),
            template.inputs,
            template.is_stateful,
            template.executes_code or program.spec.executes_code,
            isolation,
            template.packages,
            template.makes_several_calls if program.spec.journal is None else program.spec.journal,
        )

    def _connect(self, module: Any) -> None:
        """Connect the parts of a module that name LM profiles, which their constructors don't know."""
        for _, few_shot in parts(module, KNNFewShot):
            few_shot.connect(self._choose_teacher, self._profiles.open_embedder)

    def _choose_teacher(self, name: str) -> dspy.LM:
        return self._profiles.choose(name, variable="teacher_lm").lm

    def _load_template(self, program: Program, module_name: str) -> _Template:
        key = (program.digest, module_name)
        return self._templates.get(key) or self._templates.put_if_absent(
            key, self._build_template(program, module_name)
        )

    def _build_template(self, program: Program, module_name: str) -> _Template:
        check_bounds(program.spec, self._bounds, program=program.name)
        # A constructor may configure DSPy, read its settings, or start threads.
        with default_settings(), unmarked():
            module = build_module(program.spec, module_name, self._allowed, program=program.name)
            return _Template.of(module, program.spec)

    def _choose(self, program: Program, bindings: Mapping[str, BoundValue]) -> ChosenLM:
        """Return the LM that a module-wide model binding names, else the program's own, else the default."""
        for target in MODEL:
            if target in bindings and isinstance(bindings[target].value, str):
                return self._profiles.choose(bindings[target].value, variable=bindings[target].variable)
        try:
            return self._profiles.choose(program.spec.lm)
        except ValidationError as exc:
            raise ValidationError(f"lm of program {program.name}", exc.value, exc.rule) from None


def _cache_key(program: Program, snapshot: Snapshot, module_name: str, used: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return a cache key of encoded values, in which NaN equals itself and 1 differs from 1.0."""
    values = tuple(snapshot.variables[name].encode() for name in used)
    return (program.name, program.version, program.digest, module_name, values)


def _resolve_module_name(program: Program, snapshot: Snapshot) -> tuple[str, dict[str, Any]]:
    """Return the module type to run, and the module-type variable with its value if one decided."""
    choice = program.spec.module
    if not isinstance(choice, ModuleVariable):
        return choice, {}
    named = snapshot.value(choice.variable)
    for allowed in choice.allowed:
        if allowed.casefold() == str(named).casefold():
            return allowed, {choice.variable: named}
    raise UnknownModuleError(str(named), choice.allowed)


def _executes_code(part: Any) -> bool:
    """Check whether a part executes code; a user's class declares it by an attribute."""
    return isinstance(part, _EXECUTE_CODE) or getattr(type(part), "executes_code", False) is True


def _makes_several_calls(module: Any, inside: Sequence[Any]) -> bool:
    """Check whether a program may make more than one LM call or use tools: all but DSPy's own single predictors."""
    predictors = sum(isinstance(part, dspy.Predict) for part in inside)
    is_single = isinstance(module, (dspy.Predict, dspy.ChainOfThought, dspy.MultiChainComparison))
    return predictors > 1 or not is_single or not type(module).__module__.startswith(_OWN_PACKAGES)

"""A trial: the registered module and the one that a worker would build must format the same prompts.

Copies of both run here with an adapter that records the prompts and answers with placeholders, so that no LM is called.
Anything else that a module does also happens in a trial, up to a timeout.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import re
import threading
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

import dspy
from dspy.primitives.base_module import BaseModule
from pydantic import BaseModel

from snakepit_bridge.dspy_integration.compat import RLM, Flex
from snakepit_bridge.dspy_integration.isolation import Isolation
from snakepit_bridge.dspy_integration.knn_few_shot import KNNFewShot
from snakepit_bridge.dspy_integration.module_tree import clone, parts, runs_natively
from snakepit_bridge.exceptions import ProgramSpecError
from snakepit_bridge.programs.inputs import ProgramInputs

_log = logging.getLogger(__name__)

TRIAL_TIMEOUT_S = 5.0
"""Seconds that a trial of one module may take; a longer one is ignored."""
# They execute code that an LM wrote, which is slow and may need what isn't installed here.
_EXECUTE_CODE = (dspy.ProgramOfThought, dspy.CodeAct, RLM, Flex)
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_MAX_DEPTH = 4
_MAX_SHOWN = 120


def compare_prompts(module: Any, rebuilt: Any, *, program: str) -> None:
    """Check that a rebuilt module formats the same prompts as the registered one.

    A module whose prompts differ between calls, or that makes no LM call with placeholders, isn't compared.

    Raises:
        ProgramSpecError: the prompts differ; shows where.
    """
    if any(isinstance(part, _EXECUTE_CODE) for _, part in parts(module, BaseModule)):
        return
    if isinstance(module, KNNFewShot):  # it would embed and bootstrap, with placeholders
        module, rebuilt = module.student, rebuilt.student
    inputs = _make_placeholders(ProgramInputs.of(module))
    own_prompts = record_prompts(module, inputs)
    if not own_prompts or record_prompts(module, inputs) != own_prompts:
        return
    rebuilt_prompts = record_prompts(rebuilt, inputs)
    if rebuilt_prompts is None or sorted(rebuilt_prompts) == sorted(own_prompts):
        return
    raise ProgramSpecError(program, "the whole", _describe_difference(own_prompts, rebuilt_prompts))


def record_prompts(module: Any, inputs: Mapping[str, Any]) -> list[str] | None:
    """Return the prompts of a module for some inputs, without calling an LM; None if it takes too long."""
    recorder = _Recorder()
    copied = _copy_module(module, recorder)
    ended = threading.Event()

    def run() -> None:
        settings = {"lm": recorder.lm, "adapter": recorder, "trace": [], "callbacks": [], "disable_history": True}
        args, kwargs = ProgramInputs.of(copied).to_arguments(inputs)
        try:
            with dspy.context(**settings):
                if runs_natively(type(copied)):
                    asyncio.run(copied.acall(*args, **kwargs))
                else:
                    copied(*args, **kwargs)
        except BaseException as exc:  # noqa: BLE001 (a module may fail on placeholders)
            _log.debug("A trial of %s ended in %r", type(copied).__name__, exc)
        finally:
            ended.set()

    threading.Thread(target=run, name="dspex-trial", daemon=True).start()
    return list(recorder.prompts) if ended.wait(TRIAL_TIMEOUT_S) else None


class _RecordingLM(dspy.BaseLM):
    """Records calls of an LM that bypass the adapter."""

    def __init__(self, prompts: list[str]) -> None:
        super().__init__(model="trial/trial")
        self.prompts = prompts

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.prompts.append(_format_request((args, kwargs)))
        return ["text"]

    async def acall(self, *args: Any, **kwargs: Any) -> Any:
        return self(*args, **kwargs)


class _Recorder(dspy.ChatAdapter):
    """Records each request that a predictor makes, and answers with placeholders."""

    def __init__(self) -> None:
        super().__init__()
        self.prompts: list[str] = []
        self.lm = _RecordingLM(self.prompts)

    def __call__(self, lm: Any, lm_kwargs: Any, signature: Any, demos: Any, inputs: Any) -> list[dict[str, Any]]:
        self.prompts.append(_format_request((dspy.ChatAdapter().format(signature, demos, inputs), lm_kwargs)))
        answer = {name: _make_placeholder(info.annotation, name) for name, info in signature.output_fields.items()}
        count = lm_kwargs.get("n") or 1
        return [dict(answer) for _ in range(min(count, 8))]

    async def acall(self, lm: Any, lm_kwargs: Any, signature: Any, demos: Any, inputs: Any) -> list[dict[str, Any]]:
        return self(lm, lm_kwargs, signature, demos, inputs)


def _copy_module(module: Any, recorder: _Recorder) -> Any:
    isolation = Isolation.of(module)
    copied = clone(module) if isolation is None else isolation.copy()
    for _, part in parts(copied, BaseModule):
        for name, value in list(vars(part).items()):
            if isinstance(value, dspy.BaseLM):
                vars(part)[name] = recorder.lm
        if hasattr(part, "_bound"):
            setattr(part, "_bound", True)  # noqa: B010 (an aware module would read its session)
    return copied


def _make_placeholders(inputs: ProgramInputs) -> dict[str, Any]:
    fields = {**inputs.hints, **inputs.fields}
    return {name: _make_placeholder(info.annotation, name) for name, info in fields.items() if info.is_required()}


def _make_placeholder(annotation: Any, name: str, depth: int = 0) -> Any:
    """Return a placeholder value of a type; a text contains the field's name."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is str or annotation is Any:
        return f"text for {name}"
    if origin is Literal:
        return "finish" if "finish" in arguments else arguments[0]
    if origin in (typing.Union, types.UnionType):
        return _make_placeholder(next(a for a in arguments if a is not type(None)), name, depth)
    kind = origin or annotation
    if kind in (bool, int, float):
        return kind(1)
    if kind in (list, tuple, set, frozenset) and depth < _MAX_DEPTH:
        return kind([_make_placeholder(arguments[0] if arguments else str, name, depth + 1)])
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return next(iter(kind))
    return _make_object(kind, name, depth)


def _make_object(kind: Any, name: str, depth: int) -> Any:
    if not isinstance(kind, type):
        return None
    if issubclass(kind, BaseModel) and depth < _MAX_DEPTH:
        required = {key: info for key, info in kind.model_fields.items() if info.is_required()}
        try:
            return kind(**{key: _make_placeholder(info.annotation, name, depth + 1) for key, info in required.items()})
        except Exception:  # noqa: BLE001 (a user's validators may raise anything)
            return None
    try:
        return kind()
    except Exception:  # noqa: BLE001 (the same)
        return None


def _format_request(request: Any) -> str:
    return _ADDRESS.sub(" at …", str(request))


def _describe_difference(own: list[str], others: list[str]) -> str:
    advice = (
        "Give what its constructor needs as arguments=…, make it all in the constructor, or register with trial=False"
    )
    if len(own) != len(others):
        return f"the module asks {len(own)} times, the one that a worker would build {len(others)} times. {advice}"
    expected, found = next((a, b) for a, b in zip(sorted(own), sorted(others), strict=True) if a != b)
    at = next(
        (at for at, (a, b) in enumerate(zip(expected, found, strict=False)) if a != b), min(len(expected), len(found))
    )
    start = max(0, at - _MAX_SHOWN // 3)
    shown = f"{expected[start : start + _MAX_SHOWN]!r} instead of {found[start : start + _MAX_SHOWN]!r}"
    return f"the module asks otherwise than the one that a worker would build: {shown}. {advice}"

"""LMs that programs create themselves, on a worker: their calls go through an LM profile or are rejected.

``dspy.LM("openai/gpt-4o", temperature=0.2)`` within a ``forward`` is usual in a script. On a worker it would bypass
rate limits, cancellation, the deadline and usage tracking. So if an LM profile declares the model, its engine makes
the call, with the keywords of the program's LM; calls of any other LM raise an error that names it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import dspy

from snakepit_bridge.dspy_integration.thread_context import NoPredictionLM, no_prediction_error
from snakepit_bridge.exceptions import BridgeError, OwnLMError, join_names
from snakepit_bridge.lm import models as lm_models
from snakepit_bridge.lm.blocking import BlockingEngine
from snakepit_bridge.lm.compat import CLIENT_KEYS
from snakepit_bridge.lm.extensions import ExtendedLM
from snakepit_bridge.lm.profiles import LMProfile, LMProfiles
from snakepit_bridge.process.frames import current_prediction_id


@dataclass(frozen=True, slots=True)
class ProgramLMPolicy:
    """How calls of LMs that programs create are handled.

    Attributes:
        profiles: the LM profiles.
        allowed: whether an LM that no profile declares may be called, without the middleware.
        note: called with each error, since programs and DSPy's modules swallow errors.
    """

    profiles: LMProfiles
    allowed: bool
    note: Callable[[BridgeError], None]

    def resolve(self, lm: dspy.BaseLM) -> dspy.BaseLM:
        """Return the LM to call in place of a program's own: a profile's, or itself if that is allowed.

        Raises:
            OwnLMError: no profile declares it.
            LMCallOutsidePredictionError: the call belongs to no prediction.
        """
        if isinstance(lm, (ExtendedLM, NoPredictionLM)):
            return lm
        found = self._route(lm)
        if self.allowed and not isinstance(found, dspy.BaseLM):
            return lm
        if not current_prediction_id():
            raise no_prediction_error()
        if not isinstance(found, dspy.BaseLM):
            error = OwnLMError(lm.model, found, join_names(self.profiles.names))
            self.note(error)
            raise error
        return found

    def _route(self, lm: dspy.BaseLM) -> dspy.BaseLM | str:
        """Return the profile's LM for a program's own, or why there is none."""
        if not isinstance(lm, dspy.LM) or _overrides(type(lm)):
            return f"its class {type(lm).__qualname__} sends requests by itself"
        if not isinstance(lm.engine, str):
            return f"its engine {type(lm.engine).__qualname__} sends requests by itself"
        declared = [profile for profile in self.profiles if lm.model in (profile.name, profile.model, *profile.models)]
        if not declared:
            return "no LM profile declares it"
        own_settings = {name: lm.kwargs[name] for name in CLIENT_KEYS if lm.kwargs.get(name) is not None}
        ambient = _find_profile_name(dspy.settings.lm)
        problem = ""
        for profile in sorted(declared, key=lambda profile: profile.name != ambient):
            foreign = sorted(
                name for name, value in own_settings.items() if value != _get_profile_setting(profile, name)
            )
            if foreign:
                problem = f"it says {', '.join(foreign)} by itself, where LM profile '{profile.name}' says it"
                continue
            return self._build_routed_lm(profile, lm)
        return problem

    def _build_routed_lm(self, profile: LMProfile, lm: dspy.LM) -> dspy.BaseLM | str:
        own_name = lm.model in (profile.name, profile.model)
        chosen = self.profiles.choose(profile.name if own_name else lm.model).lm
        if lm.model_type not in ("chat", chosen.model_type):
            return f"its model_type is {lm.model_type}, and that of LM profile '{profile.name}' {chosen.model_type}"
        routed = chosen.copy()
        own_keywords = {
            name: value for name, value in lm.kwargs.items() if value is not None and name not in CLIENT_KEYS
        }
        routed.kwargs |= {lm_models.native_name(routed.model, name): value for name, value in own_keywords.items()}
        routed.callbacks = list(lm.callbacks)
        return routed


_policy: ProgramLMPolicy | None = None
_CALLS = ((dspy.BaseLM, "__call__"), (dspy.BaseLM, "acall"), (dspy.LM, "forward"), (dspy.LM, "aforward"))
_UNGUARDED = tuple(getattr(lm_class, name) for lm_class, name in _CALLS)


def guard_lms(policy: ProgramLMPolicy) -> None:
    """Apply a policy to every LM call in this process. Only for worker processes."""
    global _policy
    if _policy is None:
        for (lm_class, name), method in zip(_CALLS, _UNGUARDED, strict=True):
            guard = _guard_coroutine_method if inspect.iscoroutinefunction(method) else _guard_method
            setattr(lm_class, name, guard(method))
    _policy = policy


def unguard_lms() -> None:
    """Let LMs be called in this process as DSPy has it."""
    global _policy
    for (lm_class, name), method in zip(_CALLS, _UNGUARDED, strict=True):
        setattr(lm_class, name, method)
    _policy = None


def _guard_method(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def reached(self: dspy.BaseLM, *args: Any, **kwargs: Any) -> Any:
        lm = _resolve_lm(self)
        return method(self, *args, **kwargs) if lm is self else getattr(lm, method.__name__)(*args, **kwargs)

    return reached


def _guard_coroutine_method(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    async def reached(self: dspy.BaseLM, *args: Any, **kwargs: Any) -> Any:
        lm = _resolve_lm(self)
        called = method(self, *args, **kwargs) if lm is self else getattr(lm, method.__name__)(*args, **kwargs)
        return await called

    return reached


def _resolve_lm(lm: dspy.BaseLM) -> dspy.BaseLM:
    return lm if _policy is None else _policy.resolve(lm)


def _overrides(lm_class: type[dspy.LM]) -> bool:
    *_, forward, aforward = _UNGUARDED
    return lm_class.forward not in (forward, dspy.LM.forward) or lm_class.aforward not in (aforward, dspy.LM.aforward)


def _get_profile_setting(profile: LMProfile, name: str) -> Any:
    """Return a profile's connection setting by DSPy's name for it."""
    settings: Mapping[str, Any] = {
        **profile.parameters,
        "api_base": profile.api_base,
        "base_url": profile.api_base,
        "api_key": None if profile.api_key is None else profile.api_key.get_secret_value(),
        "timeout": profile.timeout_s,
    }
    return settings.get(name)


def _find_profile_name(lm: Any) -> str | None:
    engine = cast("Any", lm).engine if isinstance(lm, ExtendedLM) else None
    return engine.async_engine.endpoint.profile if isinstance(engine, BlockingEngine) else None

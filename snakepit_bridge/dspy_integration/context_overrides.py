"""``dspy.context`` overrides (LM, adapter, LM keywords) applied around the calls of one part of a bound copy.

Some values have no predictor to be set on: an adapter is only read from the settings, and Refine, RLM and Flex call the
ambient LM besides their predictors. So the copied part applies the overrides around each of its calls.
"""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import dspy

from snakepit_bridge.dspy_integration.module_tree import APPLIES_OVERRIDES
from snakepit_bridge.dspy_integration.targets.keywords import native_name

OVERRIDES = "_context_overrides"
"""Attribute of a part that holds its overrides."""


def override(part: Any, **settings: Any) -> None:
    """Override DSPy settings while a part runs. The part must belong to a copy that isn't shared yet."""
    vars(part)[OVERRIDES] = {**vars(part).get(OVERRIDES, {}), **settings}
    if not hasattr(type(part), APPLIES_OVERRIDES):
        part.__class__ = _make_overriding_class(type(part))


def override_keyword(part: Any, keyword: str, value: Any) -> None:
    """Override a keyword of the ambient LM while a part runs."""
    override(part, keywords={**vars(part).get(OVERRIDES, {}).get("keywords", {}), keyword: value})


def apply_overrides(part: Any) -> AbstractContextManager[Any]:
    """Return a context manager that applies the overrides of a part, if it has any."""
    overrides = vars(part).get(OVERRIDES)
    return dspy.context(**_resolve_settings(overrides)) if overrides else nullcontext()


def _resolve_settings(overrides: dict[str, Any]) -> dict[str, Any]:
    """Return the settings to apply; overridden LM keywords are set on a copy of the LM that is ambient by then."""
    settings = {name: value for name, value in overrides.items() if name != "keywords"}
    lm = settings.get("lm") or dspy.settings.lm
    if "keywords" in overrides and lm is not None:
        settings["lm"] = lm.copy(**{native_name(name, lm): value for name, value in overrides["keywords"].items()})
    return settings


class _Overriding:
    _applies_overrides = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with apply_overrides(self):
            return cast(Any, super()).__call__(*args, **kwargs)

    async def acall(self, *args: Any, **kwargs: Any) -> Any:
        with apply_overrides(self):
            return await cast(Any, super()).acall(*args, **kwargs)


@functools.cache
def _make_overriding_class(kind: type) -> type:
    # Refine and BestOfN only look at the class's name and methods, which stay.
    namespace = {"__doc__": kind.__doc__, "__module__": kind.__module__, "__qualname__": kind.__qualname__}
    make = cast(Any, type(kind))
    return cast(type, make(kind.__name__, (_Overriding, kind), namespace))

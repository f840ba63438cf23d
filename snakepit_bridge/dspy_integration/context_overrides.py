"""Surroundings: an LM, an adapter or LM keywords that hold while one part of a bound copy runs.

Some of what DSPy does has no predictor to put a value on: an adapter is only ever read from the settings, and Refine,
RLM and Flex ask the ambient LM beside their predictors. So the copy of the part enters them around each of its calls.
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
    """Let DSPy settings hold while a part runs. The part must belong to a copy that nobody else holds yet."""
    vars(part)[OVERRIDES] = {**vars(part).get(OVERRIDES, {}), **settings}
    if not hasattr(type(part), APPLIES_OVERRIDES):
        part.__class__ = _make_overriding_class(type(part))


def override_keyword(part: Any, keyword: str, value: Any) -> None:
    """Let an LM keyword hold for whatever asks the ambient LM while a part runs."""
    override(part, keywords={**vars(part).get(OVERRIDES, {}).get("keywords", {}), keyword: value})


def apply_overrides(part: Any) -> AbstractContextManager[Any]:
    """Enter the surroundings of a part, if it has any."""
    kept = vars(part).get(OVERRIDES)
    return dspy.context(**_resolve_settings(kept)) if kept else nullcontext()


def _resolve_settings(kept: dict[str, Any]) -> dict[str, Any]:
    """The settings to enter; an LM that is to have other keywords is a copy of what the ambient one is by then."""
    settings = {name: value for name, value in kept.items() if name != "keywords"}
    lm = settings.get("lm") or dspy.settings.lm
    if "keywords" in kept and lm is not None:
        settings["lm"] = lm.copy(**{native_name(name, lm): value for name, value in kept["keywords"].items()})
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
    # Refine and BestOfN look at nothing but the class's name and methods, which stay.
    namespace = {"__doc__": kind.__doc__, "__module__": kind.__module__, "__qualname__": kind.__qualname__}
    make = cast(Any, type(kind))
    return cast(type, make(kind.__name__, (_Overriding, kind), namespace))

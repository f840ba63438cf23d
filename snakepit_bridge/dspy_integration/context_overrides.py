"""Surroundings: an LM, an adapter or LM keywords that hold while one part of a bound copy runs.

Some of what DSPy does has no predictor to put a value on: an adapter is only ever read from the settings, and Refine,
RLM and Flex ask the ambient LM beside their predictors. So the copy of the part enters them around each of its calls.
"""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import dspy

from snakepit_bridge.dspy_integration.targets.keywords import spelt

_KEPT = "_surroundings"
# Set on classes whose calls enter their surroundings by themselves.
_ENTERS = "_enters_surroundings"


def surround(part: Any, **settings: Any) -> None:
    """Lets DSPy settings hold while a part runs. The part must belong to a copy that nobody else holds yet."""
    vars(part)[_KEPT] = {**vars(part).get(_KEPT, {}), **settings}
    if not hasattr(type(part), _ENTERS):
        part.__class__ = _surrounded(type(part))


def surround_with_keyword(part: Any, keyword: str, value: Any) -> None:
    """Lets an LM keyword hold for whatever asks the ambient LM while a part runs."""
    surround(part, keywords={**vars(part).get(_KEPT, {}).get("keywords", {}), keyword: value})


def within(part: Any) -> AbstractContextManager[Any]:
    """Enters the surroundings of a part, if it has any."""
    kept = vars(part).get(_KEPT)
    return dspy.context(**_settings(kept)) if kept else nullcontext()


def _settings(kept: dict[str, Any]) -> dict[str, Any]:
    """The settings to enter; an LM that is to have other keywords is a copy of what the ambient one is by then."""
    settings = {name: value for name, value in kept.items() if name != "keywords"}
    lm = settings.get("lm") or dspy.settings.lm
    if "keywords" in kept and lm is not None:
        settings["lm"] = lm.copy(**{spelt(name, lm): value for name, value in kept["keywords"].items()})
    return settings


class _Surrounded:
    _enters_surroundings = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with within(self):
            return cast(Any, super()).__call__(*args, **kwargs)

    async def acall(self, *args: Any, **kwargs: Any) -> Any:
        with within(self):
            return await cast(Any, super()).acall(*args, **kwargs)


@functools.cache
def _surrounded(kind: type) -> type:
    # Refine and BestOfN look at nothing but the class's name and methods, which stay.
    namespace = {"__doc__": kind.__doc__, "__module__": kind.__module__, "__qualname__": kind.__qualname__}
    make = cast(Any, type(kind))
    return cast(type, make(kind.__name__, (_Surrounded, kind), namespace))

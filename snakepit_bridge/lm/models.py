"""What a model doesn't take, and what it calls by another name: one table for all doors.

Some models refuse a whole request for a keyword that others are steered by. A session may name such a model at any
moment, beside variables that suit another one, so what it doesn't take is left out, and the provenance says so.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, cast

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class ModelFamily:
    """Models that have something in common.

    Attributes:
        models: matches the part of their names behind the provider.
        refuses: LM keywords that they don't take.
        spells: LM keywords that they call by another name.
    """

    models: re.Pattern[str]
    unsupported: frozenset[str]
    native_names: Mapping[str, str] = field(default_factory=dict[str, str])


_SAMPLING = frozenset(
    {"temperature", "top_p", "presence_penalty", "frequency_penalty", "logprobs", "top_logprobs", "logit_bias"}
)

FAMILIES: tuple[ModelFamily, ...] = (
    # OpenAI's reasoning models, as DSPy tells them; the chat variants of gpt-5 are none.
    ModelFamily(
        re.compile(r"o[1345](-(mini|nano|pro))?(-\d{4}-\d{2}-\d{2})?|gpt-5(\.\d+)*(?!-chat)(-.*)?"),
        _SAMPLING | {"stop"},
        {"max_tokens": "max_completion_tokens"},
    ),
    # xAI's: https://docs.x.ai says that a request with one of these fails.
    ModelFamily(re.compile(r"grok-(4|3-mini|code).*"), frozenset({"presence_penalty", "frequency_penalty", "stop"})),
)


@functools.lru_cache(maxsize=512)
def find_family(model: str) -> ModelFamily | None:
    """Return the family of a model, by DSPy's ``provider/model`` string; None if it takes everything."""
    name = model.rpartition("/")[2].lower()
    return next((family for family in FAMILIES if family.models.fullmatch(name)), None)


def native_name(model: str, keyword: str) -> str:
    """Return a model's own name for an LM keyword."""
    family = find_family(model)
    return keyword if family is None else family.native_names.get(keyword, keyword)


def find_unsupported(model: str, keywords: Mapping[str, Any]) -> list[str]:
    """Return those of some LM keywords that a model doesn't take; one without a value isn't sent anyway."""
    family = find_family(model)
    if family is None:
        return []
    return sorted(name for name, value in keywords.items() if name in family.unsupported and value not in (None, ()))


def fitting(model: str, request: R) -> tuple[R, tuple[str, ...]]:
    """Return a request without what a model doesn't take, and the names of that.

    Args:
        model: DSPy's ``provider/model`` string of the model that gets it.
        request: the request, in DSPy's canonical form.
    """
    family = find_family(model)
    if family is None:
        return request, ()
    config: Any = cast(Any, request).config
    extensions = {name: value for name, value in (config.extensions or {}).items() if name not in family.unsupported}
    own = {name: getattr(config, name) for name in family.unsupported if hasattr(config, name)}
    dropped = [*find_unsupported(model, own), *find_unsupported(model, config.extensions or {})]
    if not dropped:
        return request, ()
    without = dict.fromkeys(own, None) | ({"stop": ()} if "stop" in own else {})
    changed = replace(config, **without, extensions=extensions or None)
    return cast(R, replace(cast(Any, request), config=changed)), tuple(sorted(dropped))

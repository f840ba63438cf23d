"""Which LM keywords a model doesn't support, and which it has another name for: one table for every caller.

Some models reject a whole request for a keyword that others support. A session may select such a model at any moment,
beside variables that suit another one, so unsupported keywords are dropped, and the provenance lists them.
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
    """Models that support the same LM keywords.

    Attributes:
        models: matches their names without the provider.
        unsupported: LM keywords that they reject.
        native_names: LM keywords that have another name on them.
    """

    models: re.Pattern[str]
    unsupported: frozenset[str]
    native_names: Mapping[str, str] = field(default_factory=dict[str, str])


_SAMPLING = frozenset(
    {"temperature", "top_p", "presence_penalty", "frequency_penalty", "logprobs", "top_logprobs", "logit_bias"}
)

FAMILIES: tuple[ModelFamily, ...] = (
    # OpenAI's reasoning models, as DSPy recognizes them; the chat variants of gpt-5 aren't.
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
    """Return the family of a model, by DSPy's ``provider/model`` string; None if it supports every keyword."""
    name = model.rpartition("/")[2].lower()
    return next((family for family in FAMILIES if family.models.fullmatch(name)), None)


def native_name(model: str, keyword: str) -> str:
    """Return a model's own name for an LM keyword."""
    family = find_family(model)
    return keyword if family is None else family.native_names.get(keyword, keyword)


def find_unsupported(model: str, keywords: Mapping[str, Any]) -> list[str]:
    """Return which of some LM keywords a model doesn't support; those without a value aren't sent anyway."""
    family = find_family(model)
    if family is None:
        return []
    return sorted(name for name, value in keywords.items() if name in family.unsupported and value not in (None, ()))


def drop_unsupported(model: str, request: R) -> tuple[R, tuple[str, ...]]:
    """Return a request without the keywords that a model doesn't support, and their names.

    Args:
        model: DSPy's ``provider/model`` string of the model.
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

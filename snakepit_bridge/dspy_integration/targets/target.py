"""The table of targets: what a variable can be bound to on a part of a program, and where DSPy reads it.

Setting ``module.temperature`` changes nothing in the LM call, since DSPy reads ``predictor.config``, ``predictor.lm``,
``predictor.signature`` and its settings. Each target knows the parts on which it takes effect, checks its values, and
sets them where they are read. It is only applied to a fresh clone, so it may replace attributes but not edit them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import dspy
from dspy.primitives.base_module import BaseModule

from snakepit_bridge.dspy_integration.bounds import abbreviate
from snakepit_bridge.dspy_integration.compat import (
    RLM,
    Flex,
    list_flex_tools,
    rebuild_flex,
    runs_baseline,
    set_interpreter_factory,
)
from snakepit_bridge.dspy_integration.context_overrides import override, override_keyword
from snakepit_bridge.dspy_integration.knn_few_shot import KNNFewShot
from snakepit_bridge.dspy_integration.module_tree import has_part, is_user_class, parts, predictors
from snakepit_bridge.dspy_integration.registry import ADAPTERS, INTERPRETERS, REDUCERS, REWARDS
from snakepit_bridge.dspy_integration.targets import attributes as live
from snakepit_bridge.dspy_integration.targets import keywords
from snakepit_bridge.dspy_integration.targets import prompt as signatures
from snakepit_bridge.dspy_integration.targets import tools as toolbox
from snakepit_bridge.dspy_integration.targets.model import BoundValue, LMScope
from snakepit_bridge.exceptions import ValidationError

MODEL = ("lm", "model")
INSTRUCTIONS = "instructions"
ANY_KEYWORD = "config.<LM keyword>"

# They execute code that an LM wrote.
_CODE_EXECUTORS = (dspy.ProgramOfThought, dspy.CodeAct, RLM, Flex)
# They call the ambient LM themselves, besides their predictors.
_AMBIENT_LM_USERS = (RLM, dspy.Refine, Flex)


@dataclass(frozen=True, slots=True)
class Target:
    """One row of the table of targets.

    Attributes:
        matches: whether a name belongs to this target on some part.
        offers: the names that can be bound on a part; none if it would take no effect there.
        apply: applies a value to a cloned part.
        rank: lower ones are applied first, if others depend on them.
    """

    matches: Callable[[str], bool]
    offers: Callable[[Any], Iterable[str]]
    apply: Callable[[Any, str, BoundValue, LMScope], None]
    rank: int = 2


def find_target(part: Any, name: str) -> Target | None:
    """Return the target of a name on a part, or None where it would take no effect."""
    if name.startswith("config.") and ANY_KEYWORD in _offer_keywords(part):
        return _KEYWORD_BY_PATH if keywords.is_allowed(name.removeprefix("config.")) else None
    return next((target for target in iter_targets() if target.matches(name) and name in target.offers(part)), None)


def iter_targets() -> Iterator[Target]:
    """Yield every target, in their order of precedence."""
    yield from _TARGETS
    yield from CUSTOM_TARGETS.values()
    yield _ATTRIBUTES


def find_user_instructions(part: Any) -> str | None:
    """Return the user's own instructions within a module, or None if they can't be determined.

    Those of a lone predictor are the user's. ReAct and similar modules add text of their own to the module's signature
    for each predictor; there only the user's part is replaced. A wrapper such as BestOfN has its module's.
    """
    below = predictors(part)
    if len(below) == 1:
        return cast(str, cast(Any, below[0][1].signature).instructions)
    own = getattr(part, "signature", None)
    if below and own is not None:
        return cast(str, own.instructions)
    inner = _find_only_child(part)
    return None if inner is None else find_user_instructions(inner)


def _find_only_child(part: Any) -> Any | None:
    """Return the single module that holds a module's predictors, if there is exactly one."""
    children = [child for child in vars(part).values() if isinstance(child, BaseModule) and predictors(child)]
    return children[0] if len(children) == 1 and len(predictors(children[0])) == len(predictors(part)) else None


# ---------------------------------------------------------------- LM keywords


_ALL_KEYWORDS = dict.fromkeys((*keywords.RULES, ANY_KEYWORD))


def _find_flexes(part: Any) -> list[Any]:
    return [flex for _, flex in parts(part, Flex)]


def _offer_keywords(part: Any) -> Iterable[str]:
    return _ALL_KEYWORDS if has_part(part, (dspy.Predict, Flex)) else ()


def _apply_keyword(part: Any, name: str, bound: BoundValue, scope: LMScope) -> None:
    keyword = name.removeprefix("config.")
    value = keywords.check_value(keyword, bound.variable, bound.value)
    for _, predictor in predictors(part):
        _check_engine_allows(keyword, bound, predictor.lm or scope.ambient)
        _configure(predictor, keywords.native_name(keyword, predictor.lm or scope.ambient), value)
    for _, asker in parts(part, _AMBIENT_LM_USERS):
        if isinstance(asker, Flex) and asker.lm is not None:
            asker.lm = asker.lm.copy(**{keywords.native_name(keyword, asker.lm): value})
        else:
            override_keyword(asker, keyword, value)
    if name in vars(part):  # a user's module that reads it as well
        setattr(part, name, value)


def _check_engine_allows(keyword: str, bound: BoundValue, lm: Any) -> None:
    if lm is not None and not keywords.is_allowed(keyword, lm):
        rule = f"it is bound to {keyword}, which a variable may not set on the engine of '{lm.model}'"
        raise ValidationError(bound.variable, repr(bound.value), rule)


def _configure(predictor: Any, keyword: str, value: Any) -> None:
    rest = {key: kept for key, kept in predictor.config.items() if key != keyword}
    predictor.config = rest if value is None else {**rest, keyword: value}


# ---------------------------------------------------------------- model, adapter


def _offer_lm(part: Any) -> Iterable[str]:
    return ("lm",) if _calls_lm(part) else ()


def _offer_model(part: Any) -> Iterable[str]:
    return ("model",) if _calls_lm(part) else ()


def _apply_model(part: Any, name: str, bound: BoundValue, scope: LMScope) -> None:
    lm = scope.choose(bound)
    for _, predictor in predictors(part):
        predictor.lm = lm
    for flex in _find_flexes(part):
        flex.lm = lm
    if not isinstance(part, dspy.Predict):
        override(part, lm=lm)
    if isinstance(vars(part).get(name), str):  # a user's module that reads it as well
        setattr(part, name, bound.value)


def _offer_adapter(part: Any) -> Iterable[str]:
    return ("adapter",) if _calls_lm(part) else ()


def _apply_adapter(part: Any, name: str, bound: BoundValue, scope: LMScope) -> None:
    override(part, adapter=ADAPTERS.find(bound.value, bound.variable))


def _calls_lm(part: Any) -> bool:
    """Check whether a part may call an LM; a user's module may do so in ways that aren't visible from outside."""
    users = isinstance(part, dspy.Module) and is_user_class(type(part))
    return users or has_part(part, (dspy.Predict, Flex))


# ---------------------------------------------------------------- prompts


def _offer_instructions(part: Any) -> Iterable[str]:
    if isinstance(part, Flex):
        return (INSTRUCTIONS,) if runs_baseline(part) else ()
    return (INSTRUCTIONS,) if isinstance(part, BaseModule) and find_user_instructions(part) is not None else ()


def _apply_instructions(part: Any, name: str, bound: BoundValue, scope: LMScope) -> None:
    text = keywords.check_value(INSTRUCTIONS, bound.variable, bound.value, keywords.text_rule)
    if isinstance(part, Flex):
        signature = part.signature.with_instructions(text)
        return rebuild_flex(part, signature, list_flex_tools(part))
    base = find_user_instructions(part) or ""
    for _, predictor in predictors(part):
        predictor.signature = signatures.replace_instructions(cast(Any, predictor.signature), base, text)
    return None


def _offer_descriptions(part: Any) -> Iterable[str]:
    return dict.fromkeys(f"desc.{field}" for _, p in predictors(part) for field in cast(Any, p.signature).fields)


def _apply_description(part: Any, name: str, bound: BoundValue, scope: LMScope) -> None:
    field = name.removeprefix("desc.")
    text = keywords.check_value(name, bound.variable, bound.value, keywords.text_rule)
    for _, predictor in predictors(part):
        if field in cast(Any, predictor.signature).fields:
            predictor.signature = signatures.replace_description(cast(Any, predictor.signature), field, text)


def _offer_demos(part: Any) -> Iterable[str]:
    return ("demos",) if len(predictors(part)) == 1 and not has_part(part, KNNFewShot) else ()


def _apply_demos(part: Any, name: str, bound: BoundValue, scope: LMScope) -> None:
    predictor = predictors(part)[0][1]
    fields = cast(Any, predictor.signature).fields
    demos = keywords.parse_json_text(bound.value)
    fit = isinstance(demos, (list, tuple)) and all(
        isinstance(demo, (dict, dspy.Example)) and dict(demo) and dict(demo).keys() <= fields.keys()
        for demo in cast(list[Any], demos)
    )
    if not fit:
        rule = f"it is bound to demos and must be a JSON list of objects with fields of: {', '.join(fields)}"
        raise ValidationError(bound.variable, abbreviate(bound.value), rule)
    predictor.demos = [dspy.Example(**dict(demo)) for demo in cast(list[Any], demos)]


# ---------------------------------------------------------------- specific modules


def _offer_tools(part: Any) -> Iterable[str]:
    bindable = isinstance(part, toolbox.AGENTS) and (not isinstance(part, Flex) or runs_baseline(part))
    return ("tools",) if bindable else ()


def _apply_tools(part: Any, name: str, bound: BoundValue, scope: LMScope) -> None:
    toolbox.set_tools(part, bound)


def _offer_interpreter(part: Any) -> Iterable[str]:
    return ("interpreter",) if has_part(part, _CODE_EXECUTORS) else ()


def _apply_interpreter(part: Any, name: str, bound: BoundValue, scope: LMScope) -> None:
    factory = INTERPRETERS.find(bound.value, bound.variable)
    for _, coder in parts(part, _CODE_EXECUTORS):
        set_interpreter_factory(coder, factory)


def _offer_attempts(part: Any) -> Iterable[str]:
    return ("M",) if isinstance(part, dspy.MultiChainComparison) else ()


def _apply_attempts(part: Any, name: str, bound: BoundValue, scope: LMScope) -> None:
    part.M = keywords.check_value("M", bound.variable, bound.value, keywords.count_rule(1))
    part.predict.signature = signatures.with_attempts(part.predict.signature, part.M)


def _offer_functions(part: Any) -> Iterable[str]:
    names = ("reward_fn", "reduce_fn")
    return [name for name in names if name in vars(part) and live.has_scoring_function(part)]


def _apply_function(part: Any, name: str, bound: BoundValue, scope: LMScope) -> None:
    live.set_function(part, name, (REWARDS if name == "reward_fn" else REDUCERS).find(bound.value, bound.variable))


def _offer_sub_lm(part: Any) -> Iterable[str]:
    return ("sub_lm",) if isinstance(part, RLM) else ()


def _apply_sub_lm(part: Any, name: str, bound: BoundValue, scope: LMScope) -> None:
    part.sub_lm = scope.choose(bound)


def _apply_attribute(part: Any, name: str, bound: BoundValue, scope: LMScope) -> None:
    live.set_attribute(part, name, bound)


def _is_one_of(*names: str) -> Callable[[str], bool]:
    return frozenset(names).__contains__


_KEYWORD_BY_PATH = Target(_is_one_of(), _offer_keywords, _apply_keyword)

_TARGETS: tuple[Target, ...] = (
    Target(_is_one_of("tools"), _offer_tools, _apply_tools, rank=0),
    Target(_is_one_of("M"), _offer_attempts, _apply_attempts, rank=0),
    Target(_is_one_of("lm"), _offer_lm, _apply_model, rank=1),
    Target(_is_one_of("model"), _offer_model, _apply_model, rank=1),
    Target(keywords.RULES.__contains__, _offer_keywords, _apply_keyword),
    Target(_is_one_of("adapter"), _offer_adapter, _apply_adapter),
    Target(_is_one_of(INSTRUCTIONS), _offer_instructions, _apply_instructions),
    Target(lambda name: name.startswith("desc."), _offer_descriptions, _apply_description),
    Target(_is_one_of("demos"), _offer_demos, _apply_demos),
    Target(_is_one_of("interpreter"), _offer_interpreter, _apply_interpreter),
    Target(_is_one_of("reward_fn", "reduce_fn"), _offer_functions, _apply_function),
    Target(_is_one_of("sub_lm"), _offer_sub_lm, _apply_sub_lm),
)

CUSTOM_TARGETS: dict[str, Target] = {}
"""The targets of ``register_target``, by name."""

_ATTRIBUTES = Target(lambda _: True, live.list_attributes, _apply_attribute, rank=0)


def is_built_in(name: str) -> bool:
    """Check whether a name is a target on some module of DSPy's."""
    return any(target.matches(name) for target in _TARGETS) or live.is_known_attribute(name)


_UNREADABLE = frozenset({"lm", "sub_lm", "demos", "tools", "reward_fn", "reduce_fn"})


def is_readable_target(name: str) -> bool:
    """Check whether a bound value can be set on the module to be read; DSPy keeps objects under some names."""
    return name not in _UNREADABLE and "." not in name

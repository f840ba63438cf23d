"""Targets: what a variable may steer on a part of a program, and where DSPy reads it.

Setting ``module.temperature`` changes nothing in the LM call, since DSPy reads ``predictor.config``, ``predictor.lm``,
``predictor.signature`` and its settings. Each target knows the parts on which it takes effect, checks its values, and
puts them where they are read. It is only ever put on a fresh clone, so it may replace attributes but not edit them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast

import dspy
from dspy.primitives.base_module import BaseModule

from snakepit_bridge.dspy_integration.bounds import shown
from snakepit_bridge.dspy_integration.compat import RLM, Flex
from snakepit_bridge.dspy_integration.context_overrides import surround, surround_with_keyword
from snakepit_bridge.dspy_integration.module_tree import has_part, parts, predictors
from snakepit_bridge.dspy_integration.registry import ADAPTERS, INTERPRETERS, REDUCERS, REWARDS
from snakepit_bridge.dspy_integration.targets import attributes as live
from snakepit_bridge.dspy_integration.targets import keywords
from snakepit_bridge.dspy_integration.targets import prompt as signatures
from snakepit_bridge.dspy_integration.targets import tools as toolbox
from snakepit_bridge.dspy_integration.targets.model import Bound, LMScope
from snakepit_bridge.exceptions import ValidationError

MODEL = ("lm", "model")
INSTRUCTIONS = "instructions"
ANY_KEYWORD = "config.<LM keyword>"

# They run code that an LM wrote.
_CODERS = (dspy.ProgramOfThought, dspy.CodeAct, RLM, Flex)
# They ask the ambient LM themselves, beside their predictors.
_ASKERS = (RLM, dspy.Refine, Flex)


@dataclass(frozen=True, slots=True)
class Target:
    """One row of the table of targets.

    Attributes:
        claims: whether a name may be one of its own on some part.
        offers: the names under which a part can be steered by it; none where it would take no effect.
        put: puts a value on a cloned part.
        rank: lower ones are put first, where another's meaning depends on them.
    """

    claims: Callable[[str], bool]
    offers: Callable[[Any], Iterable[str]]
    put: Callable[[Any, str, Bound, LMScope], None]
    rank: int = 2


def target_of(part: Any, name: str) -> Target | None:
    """Returns the target of a name on a part, or None where it would take no effect."""
    if name.startswith("config.") and ANY_KEYWORD in _keywords(part):
        return _KEYWORD_BY_PATH if keywords.allowed(name.removeprefix("config.")) else None
    return next((target for target in TARGETS if target.claims(name) and name in target.offers(part)), None)


def instructions_scope(part: Any) -> str | None:
    """Returns the user's own instructions within a module, or None where that can't be told.

    A lone predictor's are all of them. ReAct and its kin build each predictor's from the module's signature and words
    of their own; there only the user's words are replaced. What only wraps another module, as BestOfN does, has its.
    """
    below = predictors(part)
    if len(below) == 1:
        return cast(str, cast(Any, below[0][1].signature).instructions)
    own = getattr(part, "signature", None)
    if below and own is not None:
        return cast(str, own.instructions)
    inner = _only_child(part)
    return None if inner is None else instructions_scope(inner)


def _only_child(part: Any) -> Any | None:
    """The one module that a module holds its predictors in, if there is just one."""
    children = [child for child in vars(part).values() if isinstance(child, BaseModule) and predictors(child)]
    return children[0] if len(children) == 1 and len(predictors(children[0])) == len(predictors(part)) else None


# ---------------------------------------------------------------- LM keywords


_ALL_KEYWORDS = dict.fromkeys((*keywords.RULES, ANY_KEYWORD))


def _flexes(part: Any) -> list[Any]:
    return [flex for _, flex in parts(part, Flex)]


def _keywords(part: Any) -> Iterable[str]:
    return _ALL_KEYWORDS if has_part(part, (dspy.Predict, Flex)) else ()


def _put_keyword(part: Any, name: str, bound: Bound, scope: LMScope) -> None:
    keyword = name.removeprefix("config.")
    value = keywords.check(keyword, bound.variable, bound.value)
    for _, predictor in predictors(part):
        _refuse_for_engine(keyword, bound, predictor.lm or scope.ambient)
        _configure(predictor, keywords.spelt(keyword, predictor.lm or scope.ambient), value)
    for _, asker in parts(part, _ASKERS):
        if isinstance(asker, Flex) and asker.lm is not None:
            asker.lm = asker.lm.copy(**{keywords.spelt(keyword, asker.lm): value})
        else:
            surround_with_keyword(asker, keyword, value)
    if name in vars(part):  # a module of the user's own that reads it as well
        setattr(part, name, value)


def _refuse_for_engine(keyword: str, bound: Bound, lm: Any) -> None:
    if lm is not None and not keywords.allowed(keyword, lm):
        rule = f"it is bound to {keyword}, which a variable may not set on the engine of '{lm.model}'"
        raise ValidationError(bound.variable, repr(bound.value), rule)


def _configure(predictor: Any, keyword: str, value: Any) -> None:
    rest = {key: kept for key, kept in predictor.config.items() if key != keyword}
    predictor.config = rest if value is None else {**rest, keyword: value}


# ---------------------------------------------------------------- model, adapter


def _lm(part: Any) -> Iterable[str]:
    return ("lm",) if _asks(part) else ()


def _model(part: Any) -> Iterable[str]:
    return ("model",) if _asks(part) else ()


def _put_model(part: Any, name: str, bound: Bound, scope: LMScope) -> None:
    lm = scope.choose(bound)
    for _, predictor in predictors(part):
        predictor.lm = lm
    for flex in _flexes(part):
        flex.lm = lm
    if not isinstance(part, dspy.Predict):
        surround(part, lm=lm)
    if isinstance(vars(part).get(name), str):  # a module of the user's own that reads it as well
        setattr(part, name, bound.value)


def _adapters(part: Any) -> Iterable[str]:
    return ("adapter",) if _asks(part) else ()


def _put_adapter(part: Any, name: str, bound: Bound, scope: LMScope) -> None:
    surround(part, adapter=ADAPTERS.find(bound.value, bound.variable))


def _asks(part: Any) -> bool:
    """Modules of the user's own may ask the ambient LM in ways that can't be seen from outside."""
    users = isinstance(part, dspy.Module) and live.is_users(type(part))
    return users or has_part(part, (dspy.Predict, Flex))


# ---------------------------------------------------------------- prompts


def _instructions(part: Any) -> Iterable[str]:
    if isinstance(part, Flex):
        return (INSTRUCTIONS,) if toolbox.runs_baseline(part) else ()
    return (INSTRUCTIONS,) if isinstance(part, BaseModule) and instructions_scope(part) is not None else ()


def _put_instructions(part: Any, name: str, bound: Bound, scope: LMScope) -> None:
    text = keywords.check(INSTRUCTIONS, bound.variable, bound.value, keywords.text)
    if isinstance(part, Flex):
        signature = part.signature.with_instructions(text)
        return toolbox.rebuild_flex(part, signature, list(part._flex_ctx.tools))
    base = instructions_scope(part) or ""
    for _, predictor in predictors(part):
        predictor.signature = signatures.instructed(cast(Any, predictor.signature), base, text)
    return None


def _descriptions(part: Any) -> Iterable[str]:
    return dict.fromkeys(f"desc.{field}" for _, p in predictors(part) for field in cast(Any, p.signature).fields)


def _put_description(part: Any, name: str, bound: Bound, scope: LMScope) -> None:
    field = name.removeprefix("desc.")
    text = keywords.check(name, bound.variable, bound.value, keywords.text)
    for _, predictor in predictors(part):
        if field in cast(Any, predictor.signature).fields:
            predictor.signature = signatures.described(cast(Any, predictor.signature), field, text)


def _demos(part: Any) -> Iterable[str]:
    return ("demos",) if len(predictors(part)) == 1 else ()


def _put_demos(part: Any, name: str, bound: Bound, scope: LMScope) -> None:
    predictor = predictors(part)[0][1]
    fields = cast(Any, predictor.signature).fields
    demos = keywords.parsed(bound.value)
    fit = isinstance(demos, (list, tuple)) and all(
        isinstance(demo, (dict, dspy.Example)) and dict(demo) and dict(demo).keys() <= fields.keys()
        for demo in cast(list[Any], demos)
    )
    if not fit:
        rule = f"it is bound to demos and must be a JSON list of objects with fields of: {', '.join(fields)}"
        raise ValidationError(bound.variable, shown(bound.value), rule)
    predictor.demos = [dspy.Example(**dict(demo)) for demo in cast(list[Any], demos)]


# ---------------------------------------------------------------- what is peculiar to some modules


def _tools(part: Any) -> Iterable[str]:
    bindable = isinstance(part, toolbox.AGENTS) and (not isinstance(part, Flex) or toolbox.runs_baseline(part))
    return ("tools",) if bindable else ()


def _put_tools(part: Any, name: str, bound: Bound, scope: LMScope) -> None:
    toolbox.put_tools(part, bound)


def _interpreters(part: Any) -> Iterable[str]:
    return ("interpreter",) if has_part(part, _CODERS) else ()


def _put_interpreter(part: Any, name: str, bound: Bound, scope: LMScope) -> None:
    factory = INTERPRETERS.find(bound.value, bound.variable)
    for _, coder in parts(part, _CODERS):
        coder._interpreter_factory = factory
        if isinstance(coder, Flex):
            coder._rebuild_bridge()
            coder._bridge.bind(cast(str, coder.module_src))


def _attempts(part: Any) -> Iterable[str]:
    return ("M",) if isinstance(part, dspy.MultiChainComparison) else ()


def _put_attempts(part: Any, name: str, bound: Bound, scope: LMScope) -> None:
    part.M = keywords.check("M", bound.variable, bound.value, keywords.count(1))
    part.predict.signature = signatures.with_attempts(part.predict.signature, part.M)


def _functions(part: Any) -> Iterable[str]:
    names = ("reward_fn", "reduce_fn")
    return [name for name in names if name in vars(part) and live.judges(part)]


def _put_function(part: Any, name: str, bound: Bound, scope: LMScope) -> None:
    live.put_function(part, name, (REWARDS if name == "reward_fn" else REDUCERS).find(bound.value, bound.variable))


def _sub_lm(part: Any) -> Iterable[str]:
    return ("sub_lm",) if isinstance(part, RLM) else ()


def _put_sub_lm(part: Any, name: str, bound: Bound, scope: LMScope) -> None:
    part.sub_lm = scope.choose(bound)


def _put_live(part: Any, name: str, bound: Bound, scope: LMScope) -> None:
    live.put(part, name, bound)


def _named(*names: str) -> Callable[[str], bool]:
    return frozenset(names).__contains__


_KEYWORD_BY_PATH = Target(_named(), _keywords, _put_keyword)

TARGETS: tuple[Target, ...] = (
    Target(_named("tools"), _tools, _put_tools, rank=0),
    Target(_named("M"), _attempts, _put_attempts, rank=0),
    Target(_named("lm"), _lm, _put_model, rank=1),
    Target(_named("model"), _model, _put_model, rank=1),
    Target(keywords.RULES.__contains__, _keywords, _put_keyword),
    Target(_named("adapter"), _adapters, _put_adapter),
    Target(_named(INSTRUCTIONS), _instructions, _put_instructions),
    Target(lambda name: name.startswith("desc."), _descriptions, _put_description),
    Target(_named("demos"), _demos, _put_demos),
    Target(_named("interpreter"), _interpreters, _put_interpreter),
    Target(_named("reward_fn", "reduce_fn"), _functions, _put_function),
    Target(_named("sub_lm"), _sub_lm, _put_sub_lm),
    Target(lambda _: True, live.attributes, _put_live, rank=0),
)
"""Every target; on a part, the first one that offers a name has it."""

_NOT_SHOWN = frozenset({"lm", "sub_lm", "demos", "tools", "reward_fn", "reduce_fn"})


def can_show(name: str) -> bool:
    """Tells whether a bound value can stand on the module as an attribute; DSPy keeps objects under some names."""
    return name not in _NOT_SHOWN and "." not in name

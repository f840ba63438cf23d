"""Live attributes: those that a module's ``forward`` reads in each call, such as ``max_iters`` of ReAct."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import dspy

from snakepit_bridge.dspy_integration.bounds import abbreviate
from snakepit_bridge.dspy_integration.compat import KNN, RLM, Flex, Parallel, ReActV2, set_max_predictor_calls
from snakepit_bridge.dspy_integration.ensemble import Ensemble
from snakepit_bridge.dspy_integration.module_tree import is_user_class
from snakepit_bridge.dspy_integration.targets import tools as toolbox
from snakepit_bridge.dspy_integration.targets.keywords import Rule, check_value, count_rule, flag_rule, number_rule
from snakepit_bridge.dspy_integration.targets.model import BoundValue
from snakepit_bridge.exceptions import ValidationError

_AT_LEAST_ONE = count_rule(1)

# The attributes that DSPy's modules read; each class also has those of its base classes.
_LIVE_ATTRIBUTES: dict[type, dict[str, Rule]] = {
    dspy.ReAct: {"max_iters": _AT_LEAST_ONE},
    ReActV2: {"max_iters": _AT_LEAST_ONE},
    dspy.ProgramOfThought: {"max_iters": _AT_LEAST_ONE},
    RLM: {
        "max_iters": _AT_LEAST_ONE,
        "max_llm_calls": _AT_LEAST_ONE,
        "max_output_chars": _AT_LEAST_ONE,
        "verbose": flag_rule,
    },
    dspy.BestOfN: {"N": _AT_LEAST_ONE, "threshold": number_rule(), "fail_count": count_rule(0)},
    dspy.Refine: {"N": _AT_LEAST_ONE, "threshold": number_rule(), "fail_count": count_rule(0)},
    Flex: {"max_predictor_calls": _AT_LEAST_ONE},
    Ensemble: {"size": _AT_LEAST_ONE},
    KNN: {"k": _AT_LEAST_ONE},
    Parallel: {
        "num_threads": _AT_LEAST_ONE,
        "max_errors": _AT_LEAST_ONE,
        "timeout": count_rule(0),
        "straggler_limit": count_rule(0),
        "access_examples": flag_rule,
        "return_failed_examples": flag_rule,
        "provide_traceback": flag_rule,
        "disable_progress_bar": flag_rule,
    },
}

# Attributes of DSPy's modules that have no effect once the module is built.
_INERT = frozenset({"stage", "last_key", "module_code", "reward_fn_code", "error_count", "lm"})


def list_attributes(part: Any) -> list[str]:
    """Return the names of a part's live attributes."""
    return [*_find_rules(part), *(_list_user_attributes(part) if is_user_class(type(part)) else ())]


def is_known_attribute(name: str) -> bool:
    """Check whether a module of DSPy's has a live attribute of that name."""
    return any(name in rules for rules in _LIVE_ATTRIBUTES.values())


def set_attribute(part: Any, name: str, bound: BoundValue) -> None:
    """Set a live attribute of a cloned part.

    Raises:
        ValidationError: the value has the wrong type or is out of range.
    """
    rule = _find_rules(part).get(name)
    value = (
        check_value(name, bound.variable, bound.value, rule)
        if rule
        else _check_same_type(getattr(part, name), name, bound)
    )
    if name == "max_llm_calls":
        return toolbox.set_max_llm_calls(part, value)
    if name == "max_predictor_calls":
        return set_max_predictor_calls(part, value)
    if name == "size" and value > len(part.programs):
        rule_says = f"it is bound to size, and there are {len(part.programs)} programs"
        raise ValidationError(bound.variable, abbreviate(value), rule_says)
    if name == "N" and part.fail_count == part.N:
        part.fail_count = value  # its default is N
    setattr(part, name, value)
    return None


def has_scoring_function(part: Any) -> bool:
    """Check whether a part's calls read a reward or reduce function."""
    return isinstance(part, (dspy.BestOfN, dspy.Refine, Ensemble))


def set_function(part: Any, name: str, function: Callable[..., Any]) -> None:
    """Set another reward or reduce function on a cloned part; Refine's prompt contains its source."""
    setattr(part, name, function)
    if isinstance(part, dspy.Refine):
        described = function if inspect.isroutine(function) else type(function)
        part.reward_fn_code = inspect.getsource(described)


def _find_rules(part: Any) -> dict[str, Rule]:
    return {
        name: rule for kind, rules in _LIVE_ATTRIBUTES.items() if isinstance(part, kind) for name, rule in rules.items()
    }


def _list_user_attributes(part: Any) -> list[str]:
    """Return the public plain attributes of a user's class; which of them it reads can't be known."""
    return [
        name
        for name, value in vars(part).items()
        if not name.startswith("_")
        and name not in _INERT
        and not (name == "M" and isinstance(part, dspy.MultiChainComparison))
        and (value is None or isinstance(value, (bool, int, float, str)))
    ]


def _check_same_type(current: Any, name: str, bound: BoundValue) -> Any:
    """Check that a value has the attribute's type: the module would fail on another one later, or ignore it."""
    value = bound.value
    if isinstance(current, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if current is not None and type(value) is not type(current):
        wanted = type(current).__name__
        raise ValidationError(bound.variable, abbreviate(value), f"it is bound to {name}, which is of type {wanted}")
    if name == "max_iters":
        return check_value(name, bound.variable, value, _AT_LEAST_ONE)
    return value

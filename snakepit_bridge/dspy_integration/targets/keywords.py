"""The LM keywords that a variable can be bound to, with the range of each.

DSPy silently passes a value that its native engine rejects to another engine, so values are checked here first.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from snakepit_bridge.dspy_integration.bounds import abbreviate
from snakepit_bridge.exceptions import ValidationError
from snakepit_bridge.lm import models as lm_models


def _identity(value: Any) -> Any:
    return value


@dataclass(frozen=True, slots=True)
class Rule:
    """What a target accepts: a test, the requirement as a message, and how a text is parsed before it."""

    accepts: Callable[[Any], bool]
    requirement: str
    parse: Callable[[Any], Any] = _identity


def number_rule(low: float = -math.inf, high: float = math.inf) -> Rule:
    """Return the rule of a finite number in a range."""

    def accepts(value: Any) -> bool:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return is_number and _is_finite(value) and low <= value <= high

    bounded = math.isfinite(low) or math.isfinite(high)
    return Rule(accepts, "it must be a number" + (f" from {low:g} to {high:g}" if bounded else ""))


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer too large for a float
        return False


def count_rule(low: int) -> Rule:
    """Return the rule of an integer from ``low`` on."""

    def accepts(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and value >= low

    return Rule(accepts, f"it must be a whole number from {low} on")


def parse_json_text(value: Any) -> Any:
    """Parse a text that is a JSON list or object, which no variable type can hold; return other values unchanged."""
    if isinstance(value, str) and value.strip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def _is_stop_value(value: Any) -> bool:
    many = isinstance(value, (list, tuple)) and len(value) > 0 and all(isinstance(v, str) and v for v in value)
    return many or (isinstance(value, str) and value != "")


_integer_rule = Rule(lambda value: isinstance(value, int) and not isinstance(value, bool), "it must be a whole number")
_object_rule = Rule(lambda value: isinstance(value, dict), "it must be a JSON object", parse_json_text)
text_rule = Rule(lambda value: isinstance(value, str) and value.strip() != "", "it must be a text that isn't empty")
flag_rule = Rule(lambda value: isinstance(value, bool), "it must be true or false")

RULES: dict[str, Rule] = {
    "temperature": number_rule(0, 2),
    "top_p": number_rule(0, 1),
    "max_tokens": count_rule(1),
    "n": count_rule(1),
    "stop": Rule(_is_stop_value, "it must be a text, or a JSON list of texts, none of them empty", parse_json_text),
    "seed": _integer_rule,
    "presence_penalty": number_rule(-2, 2),
    "frequency_penalty": number_rule(-2, 2),
    "top_k": count_rule(1),
    "min_p": number_rule(0, 1),
    "logprobs": flag_rule,
    "top_logprobs": count_rule(0),
    "logit_bias": _object_rule,
    "parallel_tool_calls": flag_rule,
    "reasoning_effort": text_rule,
    "rollout_id": _integer_rule,
    "service_tier": text_rule,
    "user": text_rule,
    "verbosity": text_rule,
}
"""The keywords by name; further ones can be bound as ``config.<keyword>``."""

# Sampling parameters, under the names of the providers and servers that support them.
_SAMPLING = frozenset(
    {"bad_words", "chat_template_kwargs", "dry_allowed_length", "dry_base", "dry_multiplier", "dynatemp_range"}
    | {"enable_thinking", "epsilon_cutoff", "eta_cutoff", "guided_choice", "guided_grammar", "guided_json"}
    | {"guided_regex", "ignore_eos", "include_stop_str_in_output", "length_penalty", "max_completion_tokens"}
    | {"min_tokens", "mirostat", "mirostat_eta", "mirostat_mode", "mirostat_tau", "no_repeat_ngram_size"}
    | {"prediction", "prompt_cache_key", "repeat_last_n", "repeat_penalty", "repetition_penalty", "safety_settings"}
    | {"skip_special_tokens", "spaces_between_special_tokens", "stop_token_ids", "tfs_z", "thinking"}
    | {"thinking_budget", "top_a", "typical_p", "xtc_probability", "xtc_threshold"}
)
# litellm interprets some of these itself, or sends them to providers that reject the whole request.
_NOT_BY_LITELLM = frozenset({"chat_template_kwargs", "enable_thinking", "thinking_budget"})

ALLOWED: dict[str, frozenset[str]] = {
    "lm15": frozenset(RULES) | _SAMPLING,
    "litellm": frozenset(RULES) | _SAMPLING - _NOT_BY_LITELLM,
}
"""By the engine of its profile: the LM keywords that a variable or a spec may set, and no others.

A keyword that an engine doesn't know is passed to the provider or into litellm, where it may decide where the request
goes, who pays for it, which hooks run and what is logged. So this is a list of allowed names, not of forbidden ones.
"""

ANY_ENGINE = frozenset[str]().union(*ALLOWED.values())
"""Keywords that at least one engine allows: what can be checked before a program's profile is known."""

# They decide where a request goes and who pays for it, or belong to the adapter.
REFUSED = frozenset(
    {"api_base", "api_key", "api_version", "azure_ad_token_provider", "base_url", "custom_llm_provider", "extra_body"}
    | {"extra_headers", "extra_query", "headers", "organization", "project", "proxy", "timeout"}
    | {"messages", "model", "model_list", "prompt", "response_format", "tools"}
)


def is_allowed(keyword: str, lm: Any = None) -> bool:
    """Return whether a variable or a spec may set an LM keyword.

    Args:
        keyword: its exact name.
        lm: the LM whose engine it is for; None checks whether any engine allows it.
    """
    return keyword in (ANY_ENGINE if lm is None else ALLOWED[_find_engine_name(lm)])


def _find_engine_name(lm: Any) -> str:
    """Return the name of an LM's engine; a caller's own LM holds DSPy's name for it, and ``auto`` prefers lm15."""
    engine = getattr(lm, "engine", None)
    endpoint = getattr(getattr(engine, "async_engine", None), "endpoint", None)
    name = engine if isinstance(engine, str) else getattr(endpoint, "engine", "lm15")
    return name if name in ALLOWED else "lm15"


_SCALARS = (bool, int, float, str, list, dict)
_default_rule = Rule(
    lambda value: isinstance(value, _SCALARS), "it must be a number, a text, a flag or JSON", parse_json_text
)


def check_value(keyword: str, variable: str, value: Any, rule: Rule | None = None) -> Any:
    """Return a value as its target accepts it; None, which removes an LM keyword, is always accepted.

    Args:
        keyword: the target.
        variable: the variable that holds the value, for the error.
        value: the variable's value.
        rule: the target's rule; by default that of the LM keyword.

    Raises:
        ValidationError: the value is outside the target's range.
    """
    rule = rule or RULES.get(keyword, _default_rule)
    if value is None:
        return None
    read = rule.parse(value)
    if not rule.accepts(read):
        raise ValidationError(variable, abbreviate(value), f"it is bound to {keyword}, and {rule.requirement}")
    return read


def native_name(keyword: str, lm: Any) -> str:
    """Return an LM's own name for a keyword.

    Reasoning models have another name for the token limit, and DSPy ignores the usual name on them.
    """
    reasoning = keyword == "max_tokens" and "max_completion_tokens" in getattr(lm, "kwargs", {})
    return "max_completion_tokens" if reasoning else lm_models.native_name(getattr(lm, "model", ""), keyword)

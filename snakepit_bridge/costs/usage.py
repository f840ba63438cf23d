"""Tokens, prices and money of LM calls. Money is a whole number of picodollars (10^-12 USD), so that sums are exact.

A price has at most six decimals, so that one token costs a whole number of picodollars.
"""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, Self, cast

if TYPE_CHECKING:  # a client reads costs without DSPy
    from dspy.lm15 import Usage

PICO_PER_USD = 10**12
MAX_USD_PER_MILLION = 10_000
"""The highest price, in USD per million tokens."""

# Whole numbers up to here survive JSON readers that know doubles alone.
_MAX_COUNT = 2**53
# Beyond any context window. A larger count is an error of the provider, which may not drown real amounts.
_MAX_TOKENS = 100_000_000
# APIs that don't count cached input as input, or reasoning as output.
_DISJOINT_INPUT = frozenset({"anthropic"})
_DISJOINT_OUTPUT = frozenset({"gemini", "xai"})
_USD = re.compile(r"\d{1,12}(\.\d{1,12})?")


@dataclass(frozen=True, slots=True)
class LMUsage:
    """What a number of LM calls used and cost.

    Attributes:
        calls: requests that a provider answered, and failed ones whose usage it reported.
        unpriced_calls: those of them whose cost isn't known.
        input_tokens: all input tokens, and ``cached_input_tokens`` those that the provider read from its cache.
        output_tokens: all output tokens, and ``reasoning_tokens`` those that were spent on reasoning.
        cost_pico: the cost of the priced calls in picodollars.
    """

    calls: int = 0
    unpriced_calls: int = 0
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cost_pico: int = 0

    def __add__(self, other: Self) -> Self:
        return type(self)(
            self.calls + other.calls,
            self.unpriced_calls + other.unpriced_calls,
            self.input_tokens + other.input_tokens,
            self.cached_input_tokens + other.cached_input_tokens,
            self.output_tokens + other.output_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
            self.cost_pico + other.cost_pico,
        )

    @property
    def cost_usd(self) -> Decimal | None:
        """The cost of the priced calls in USD, exactly; None if there are calls and none is priced."""
        return None if self._is_unpriced else Decimal(format_usd(self.cost_pico))

    @property
    def _is_unpriced(self) -> bool:
        return self.calls > 0 and self.calls == self.unpriced_calls

    def encode(self) -> dict[str, Any]:
        """Return the JSON form, whose ``cost_usd`` is text: a JSON number would be rounded."""
        counts = {name: getattr(self, name) for name in _COUNTS}
        return {**counts, "cost_usd": None if self._is_unpriced else format_usd(self.cost_pico)}

    @classmethod
    def decode(cls, message: Mapping[str, Any]) -> Self:
        """Decode the JSON form.

        Raises:
            ValueError: it isn't one.
        """
        counts = {name: message.get(name, 0) for name in _COUNTS}
        for name, count in counts.items():
            if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= _MAX_COUNT:
                raise ValueError(f"{name} must be a whole number, not {count!r:.50}")
        return cls(**counts, cost_pico=parse_usd(message.get("cost_usd") or "0"))


@dataclass(frozen=True, slots=True)
class Price:
    """What the tokens of a model cost, in USD per million.

    Attributes:
        input: of an input token.
        output: of an output token.
        cached_input: of an input token that the provider reads from its cache; ``input`` if None.
        reasoning: of an output token that is spent on reasoning; ``output`` if None.
    """

    input: Decimal
    output: Decimal
    cached_input: Decimal | None = None
    reasoning: Decimal | None = None

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if value is not None:
                _check_price(each.name, value)

    @classmethod
    def of(cls, **prices: Any) -> Self:
        """Return a price of numbers or decimal texts; a float is the number that its shortest text says.

        Raises:
            ValueError: one isn't a price, or ``input`` or ``output`` is missing; the message names it.
        """
        names = [each.name for each in fields(cls)]
        for name in prices:
            if name not in names:
                raise ValueError(f"{name}: there is no such price; they are {', '.join(names)}")
        missing = [name for name in names[:2] if prices.get(name) is None]
        if missing:
            raise ValueError(f"{missing[0]}: it is missing; a model that costs nothing has 0")
        given: dict[str, Any] = {name: _parse_price(name, value) for name, value in prices.items() if value is not None}
        return cls(**given)

    def cost_pico(self, tokens: LMUsage) -> int:
        """Return what tokens cost, in picodollars."""
        cached, reasoning = tokens.cached_input_tokens, tokens.reasoning_tokens
        amounts = (
            (tokens.input_tokens - cached, self.input),
            (cached, self.input if self.cached_input is None else self.cached_input),
            (tokens.output_tokens - reasoning, self.output),
            (reasoning, self.output if self.reasoning is None else self.reasoning),
        )
        return sum(count * int(price.scaleb(6)) for count, price in amounts)

    def estimate_usd(self, input_tokens: float, output_tokens: float) -> float:
        """Return about what a call costs, for the limits on spend."""
        return (input_tokens * float(self.input) + output_tokens * float(self.output)) / 1e6


_COUNTS = tuple(each.name for each in fields(LMUsage))[:-1]
_NOTHING = LMUsage()


def charge_usage(usage: Usage, dialect: str, price: Price | None) -> LMUsage:
    """Return what one call with the given usage used and cost; unpriced if input or output wasn't reported.

    Args:
        usage: as the provider reported it.
        dialect: the API that it came from, as ``LMEngine.dialect`` names it.
        price: of its model; None if it has none.
    """
    given, written = _count(usage.input_tokens), _count(usage.output_tokens)
    cached, reasoning = _count(usage.cache_read_tokens) or 0, _count(usage.reasoning_tokens) or 0
    known = given is not None and written is not None
    given, written = given or 0, written or 0
    if dialect in _DISJOINT_INPUT:
        given += cached + (_count(usage.cache_write_tokens) or 0)
    if dialect in _DISJOINT_OUTPUT:
        written += reasoning
    tokens = LMUsage(1, 0, given, min(cached, given), written, min(reasoning, written))
    if price is None or not known:
        return tokens + LMUsage(unpriced_calls=1)
    return tokens + LMUsage(cost_pico=price.cost_pico(tokens))


def _count(tokens: object) -> int | None:
    """Return a count of tokens; None if the provider reported none, or what can't be one."""
    if not isinstance(tokens, int) or isinstance(tokens, bool):
        return None
    return tokens if 0 <= tokens <= _MAX_TOKENS else None


def sum_usage(usages: Iterable[LMUsage]) -> LMUsage:
    """Return the sum of usages."""
    each = iter(usages)
    return functools.reduce(operator.add, each, next(each, _NOTHING))


def encode_by_profile(by_profile: Mapping[str, LMUsage]) -> dict[str, dict[str, Any]]:
    """Return the JSON form of usages by LM profile."""
    return {profile: usage.encode() for profile, usage in by_profile.items()}


def decode_by_profile(message: object) -> dict[str, LMUsage]:
    """Decode the JSON form of usages by LM profile.

    Raises:
        ValueError: it isn't one.
    """
    if not isinstance(message, Mapping):
        raise ValueError(f"usage by profile must be an object, not {type(message).__name__}")
    found: dict[str, LMUsage] = {}
    for profile, usage in cast("Mapping[Any, Any]", message).items():
        if not isinstance(profile, str) or not isinstance(usage, Mapping):
            raise ValueError("usage by profile must map names to objects")
        found[profile] = LMUsage.decode(cast("Mapping[str, Any]", usage))
    return found


def format_usd(pico: int) -> str:
    """Return picodollars as a decimal number of USD, without trailing zeros."""
    whole, fraction = divmod(pico, PICO_PER_USD)
    return f"{whole}.{fraction:012d}".rstrip("0").rstrip(".")


def parse_usd(text: object) -> int:
    """Return the picodollars of a decimal number of USD.

    Raises:
        ValueError: it isn't text of up to 12 digits before and after the point.
    """
    if not isinstance(text, str) or not _USD.fullmatch(text):
        raise ValueError(f"an amount of USD must be decimal text, not {text!r:.50}")
    return int(Decimal(text).scaleb(12))


def _parse_price(name: str, value: Any) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        raise ValueError(f"{name}: a price is a number of USD per million tokens; got {value!r}")
    try:
        return Decimal(str(value))
    except InvalidOperation:
        raise ValueError(f"{name}: a price is a number of USD per million tokens; got {value!r}") from None


def _check_price(name: str, value: Decimal) -> None:
    if not value.is_finite() or not 0 <= value <= MAX_USD_PER_MILLION:
        raise ValueError(f"{name}: a price is 0 to {MAX_USD_PER_MILLION} USD per million tokens; got {value}")
    if value != value.quantize(Decimal("0.000001")):
        raise ValueError(f"{name}: a price has at most six decimals; got {value}")

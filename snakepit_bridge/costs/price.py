"""Prices of tokens. A price has at most six decimals, so that one token costs a whole number of picodollars."""

from __future__ import annotations

from dataclasses import dataclass, fields
from decimal import Decimal, InvalidOperation
from typing import Any, Self

from snakepit_bridge.costs.usage import LMUsage

MAX_USD_PER_MILLION = 10_000
"""The highest price, in USD per million tokens."""


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

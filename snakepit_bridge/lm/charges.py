"""What one LM call used and cost: its tokens as prices count them, whatever the provider's way to count."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from dspy.lm15 import Usage

from snakepit_bridge.costs.usage import LMUsage, Price

# Beyond any context window. A larger count is an error of the provider, which may not drown real amounts.
_MAX_TOKENS = 100_000_000
# APIs that don't count cached input as input, or reasoning as output.
_DISJOINT_INPUT = frozenset({"anthropic"})
_DISJOINT_OUTPUT = frozenset({"gemini", "xai"})


@dataclass(slots=True)
class Answering:
    """The API that answers a request, also where the answer is an error.

    Attributes:
        dialect: as ``LMEngine.dialect`` names it; empty for litellm, which counts tokens in OpenAI's way.
    """

    dialect: str


_answering: ContextVar[Answering | None] = ContextVar("dspex_answering", default=None)


@contextmanager
def note_answering(dialect: str) -> Generator[Answering]:
    """Have the request of the block note the API that it is sent to; until then it is ``dialect``."""
    answering = Answering(dialect)
    token = _answering.set(answering)
    try:
        yield answering
    finally:
        _answering.reset(token)


def answer_by(dialect: str) -> None:
    """Note the API that the current request is sent to."""
    answering = _answering.get()
    if answering is not None:
        answering.dialect = dialect


def charge_usage(usage: Usage, dialect: str, price: Price | None) -> LMUsage:
    """Return what one call with the given usage used and cost; unpriced if input or output wasn't reported.

    Args:
        usage: as the provider reported it.
        dialect: the API that it came from.
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

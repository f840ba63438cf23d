"""Estimate how many tokens a call will use.

Averages per program of what its calls used; at first the length of the text alone. A wrong estimate costs little: the
difference is refunded or becomes debt as soon as the call has ended.
"""

from __future__ import annotations

from dataclasses import dataclass

from cachetools import LRUCache

from tasks.rate_limits.protocol import Basis, Estimate, Used

# English text has about four characters per token. DSPy's prompt adds some hundred tokens to the inputs.
_CHARACTERS_PER_TOKEN = 4.0
_PROMPT_OVERHEAD_TOKENS = 200.0
_INITIAL_OUTPUT_TOKENS = 300.0
# Weight of the newest call in the moving average.
_SMOOTHING = 0.2
_MAX_PROGRAMS = 4_096


@dataclass(slots=True)
class _Averages:
    """Moving averages of a program's calls."""

    characters: float
    input_tokens: float
    output_tokens: float


class Estimates:
    """The estimates of one process, by program."""

    def __init__(self) -> None:
        self._averages: LRUCache[tuple[str, Basis], _Averages] = LRUCache(_MAX_PROGRAMS)

    def predict_tokens(self, program: str, estimate: Estimate) -> tuple[float, float]:
        """Return the expected input and output tokens of a program's next call."""
        known = self._averages.get((program, estimate.basis))
        if known is None:
            around = _PROMPT_OVERHEAD_TOKENS if estimate.basis == "inputs" else 0.0
            expected, output = around + estimate.characters / _CHARACTERS_PER_TOKEN, _INITIAL_OUTPUT_TOKENS
        else:
            # One part of the prompt is fixed; the rest grows with the text.
            more = (estimate.characters - known.characters) / _CHARACTERS_PER_TOKEN
            expected, output = max(1.0, known.input_tokens + more), known.output_tokens
        return expected, output if estimate.max_output_tokens is None else min(
            output, float(estimate.max_output_tokens)
        )

    def learn(self, program: str, estimate: Estimate, used: Used) -> None:
        """Update the averages with a call's real usage."""
        key = (program, estimate.basis)
        known = self._averages.get(key)
        if known is None:
            self._averages[key] = _Averages(estimate.characters, used.input_tokens, used.output_tokens)
            return
        known.characters += _SMOOTHING * (estimate.characters - known.characters)
        known.input_tokens += _SMOOTHING * (used.input_tokens - known.input_tokens)
        known.output_tokens += _SMOOTHING * (used.output_tokens - known.output_tokens)

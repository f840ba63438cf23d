"""Estimates: how many tokens a call will take, before anybody knows.

Learned per program from what its calls really used; at first from the length of the text alone. An estimate that is
wrong costs little: the difference is refunded or becomes debt as soon as the call has ended.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from tasks.rate_limits.protocol import Basis, Estimate, Used

# Of English text about four characters make a token. What DSPy's prompt adds around the inputs is some hundred tokens.
_CHARACTERS_PER_TOKEN = 4.0
_PROMPT_OVERHEAD_TOKENS = 200.0
_INITIAL_OUTPUT_TOKENS = 300.0
# How much of what is known the newest call replaces.
_SMOOTHING = 0.2
_MAX_PROGRAMS = 4_096


@dataclass(slots=True)
class _Averages:
    """What a program's calls took on average."""

    characters: float
    input_tokens: float
    output_tokens: float


class Estimates:
    """What one process learned about the programs that it runs."""

    def __init__(self) -> None:
        self._averages: OrderedDict[tuple[str, Basis], _Averages] = OrderedDict()

    def predict_tokens(self, program: str, estimate: Estimate) -> tuple[float, float]:
        """Return the input and the output tokens that a program's next call will probably take."""
        known = self._averages.get((program, estimate.basis))
        if known is None:
            around = _PROMPT_OVERHEAD_TOKENS if estimate.basis == "inputs" else 0.0
            expected, output = around + estimate.characters / _CHARACTERS_PER_TOKEN, _INITIAL_OUTPUT_TOKENS
        else:
            # A part is fixed, and the rest grows with the text, as usual text does.
            more = (estimate.characters - known.characters) / _CHARACTERS_PER_TOKEN
            expected, output = max(1.0, known.input_tokens + more), known.output_tokens
        return expected, output if estimate.max_output_tokens is None else min(
            output, float(estimate.max_output_tokens)
        )

    def learn(self, program: str, estimate: Estimate, used: Used) -> None:
        """Take a call's real usage into account."""
        key = (program, estimate.basis)
        known = self._averages.get(key)
        if known is None:
            self._averages[key] = _Averages(estimate.characters, used.input_tokens, used.output_tokens)
            if len(self._averages) > _MAX_PROGRAMS:
                self._averages.popitem(last=False)
            return
        self._averages.move_to_end(key)
        known.characters += _SMOOTHING * (estimate.characters - known.characters)
        known.input_tokens += _SMOOTHING * (used.input_tokens - known.input_tokens)
        known.output_tokens += _SMOOTHING * (used.output_tokens - known.output_tokens)

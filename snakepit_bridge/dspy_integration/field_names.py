"""Reserved names of a signature's fields, which DSPy uses for something else.

Every other name works, whatever attributes DSPy's objects have: values are stored and read by key. A field that DSPy
would lose or misinterpret is rejected when the program is registered, before any call is paid for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ReservedNames:
    """Names that can't be input or output fields."""

    inputs: frozenset[str] = frozenset()
    outputs: frozenset[str] = frozenset()


# Attributes of a signature itself, and those that pydantic protects.
_OF_SIGNATURES = frozenset({
    "fields", "input_fields", "output_fields", "signature", "instructions", "model_config", "model_dump",
    "model_dump_json", "model_validate", "model_validate_json", "model_validate_strings",
})  # fmt: skip

EVERYWHERE = ReservedNames(
    # DSPy's calls take these themselves.
    _OF_SIGNATURES | {"self", "instance", "config", "demos", "lm", "new_signature", "completions"},
    _OF_SIGNATURES,
)
"""Names that no signature can have."""

_REASONING = frozenset({"reasoning"})
_CODE = frozenset({"generated_code", "previous_code", "error", "final_generated_code", "code_output", "reasoning"})

_BY_MODULE: Mapping[str, ReservedNames] = {
    "ChainOfThought": ReservedNames(_REASONING),
    "ChainOfThoughtWithHint": ReservedNames(_REASONING),
    "ReAct": ReservedNames(
        frozenset({"trajectory", "next_thought", "next_tool_name", "next_tool_args", "max_iters", "reasoning"}),
        frozenset({"trajectory"}),
    ),
    "ReActV2": ReservedNames(
        frozenset({"history", "tools", "next_thought", "tool_calls", "max_iters"}),
        frozenset({"history", "termination_reason"}),
    ),
    "CodeAct": ReservedNames(
        frozenset({"trajectory", "generated_code", "finished", "max_iters", "reasoning"}), frozenset({"trajectory"})
    ),
    "ProgramOfThought": ReservedNames(_CODE, frozenset({"final_generated_code", "code_output"})),
    "RLM": ReservedNames(
        frozenset({"interpreter_factory", "llm_query", "llm_query_batched", "SUBMIT", "print"}),
        frozenset({"trajectory", "final_reasoning"}),
    ),
    "MultiChainComparison": ReservedNames(frozenset({"rationale"}), frozenset({"rationale"})),
}


def reserved_names(module_name: str = "") -> ReservedNames:
    """Return the reserved field names of a module; without a name, those of every module."""
    own = _BY_MODULE.get(module_name, ReservedNames())
    return ReservedNames(EVERYWHERE.inputs | own.inputs, EVERYWHERE.outputs | own.outputs)


def find_reserved(module_name: str, inputs: Iterable[str], outputs: Iterable[str]) -> tuple[str, str] | None:
    """Return the first field whose name is reserved, and why; None if no name is reserved."""
    reserved = reserved_names(module_name)
    for kind, names, forbidden in (("input", inputs, reserved.inputs), ("output", outputs, reserved.outputs)):
        for name in names:
            attempt = (
                kind == "input" and module_name == "MultiChainComparison" and name.startswith("reasoning_attempt_")
            )
            if name in forbidden or attempt:
                owner = "DSPy" if name in getattr(EVERYWHERE, f"{kind}s") else module_name
                return (
                    name,
                    f"{owner} means something else by it; an {kind} can't be any of: {', '.join(sorted(forbidden))}",
                )
    return None

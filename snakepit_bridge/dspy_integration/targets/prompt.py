"""Change the instructions, descriptions, attempts or tools of a signature, always starting from the original one.

Building a signature class takes 0.3 ms, and a fleet applies the same few values repeatedly; so changed signatures are
cached by signature and value. Changing a changed one repeatedly would end in a RecursionError.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any, cast

import dspy

_CACHE_SIZE = 1024
_ATTEMPT = "reasoning_attempt_"


@functools.lru_cache(maxsize=_CACHE_SIZE)
def replace_instructions(signature: Any, base: str, text: str) -> Any:
    """Return the signature with the user's own instructions replaced.

    Args:
        signature: a predictor's signature.
        base: the user's part of its instructions; a module may have added its own around it.
        text: the replacement; it goes before the module's instructions if those don't contain the user's.
    """
    written: str = signature.instructions
    if base and written.startswith(base):
        return signature.with_instructions(text + written.removeprefix(base))
    if base and f"\n{base}\n" in f"\n{written}\n":
        return signature.with_instructions(written.replace(base, text, 1))
    return signature.with_instructions(f"{text}\n\n{written}")


@functools.lru_cache(maxsize=_CACHE_SIZE)
def replace_description(signature: Any, field: str, text: str) -> Any:
    """Return the signature with another description of one field."""
    return signature.with_updated_fields(field, desc=text)


def count_attempts(signature: Any) -> int:
    """Return how many attempts the signature of a MultiChainComparison takes."""
    return sum(name.startswith(_ATTEMPT) for name in signature.input_fields)


@functools.lru_cache(maxsize=_CACHE_SIZE)
def with_attempts(signature: Any, count: int) -> Any:
    """Return the signature of a MultiChainComparison for ``wanted`` attempts."""
    present = count_attempts(signature)
    inputs = dict(signature.input_fields)
    for number in range(count + 1, present + 1):
        del inputs[f"{_ATTEMPT}{number}"]
    for number in range(present + 1, count + 1):
        field = copy.copy(inputs[f"{_ATTEMPT}1"])
        field.json_schema_extra = {**field.json_schema_extra, "prefix": f"Student Attempt #{number}:"}
        inputs[f"{_ATTEMPT}{number}"] = field
    # All at once: DSPy's `append` builds a class for each field, copying all fields before it.
    return _with_fields(signature, {**inputs, **signature.output_fields})


def without_attempts(signature: Any) -> Any:
    """Return the signature of a MultiChainComparison as its user wrote it."""
    added = {f"{_ATTEMPT}{number + 1}" for number in range(count_attempts(signature))} | {"rationale"}
    return _with_fields(signature, {name: info for name, info in signature.fields.items() if name not in added})


def _with_fields(signature: Any, fields: dict[str, Any]) -> Any:
    make = cast(Callable[..., Any], dspy.Signature)
    return make({name: (info.annotation, info) for name, info in fields.items()}, signature.instructions)


class InstructionsRewrittenError(Exception):
    """The instructions no longer contain the text that had to be replaced."""


@functools.lru_cache(maxsize=_CACHE_SIZE)
def carry_over(signature: Any, before: Any, after: Any) -> Any:
    """Return a predictor's signature after its module is built with other tools.

    Args:
        signature: the predictor's signature, perhaps with instructions and descriptions that an optimizer wrote.
        before: the signature that the module builds with the old tools.
        after: the one that it builds with the new ones.

    Raises:
        InstructionsRewrittenError: the instructions no longer describe the old tools as the module wrote them.
    """
    changed = after.with_instructions(_replace_lines(signature.instructions, before.instructions, after.instructions))
    for name, field in signature.fields.items():
        if name in before.fields and field.json_schema_extra != before.fields[name].json_schema_extra:
            extra = field.json_schema_extra
            changed = changed.with_updated_fields(name, prefix=extra["prefix"], desc=extra["desc"])
    return changed


def _replace_lines(written: str, before: str, after: str) -> str:
    """Apply the difference between two texts to a third one that was derived from the first."""
    if written == before:
        return after
    old, new = before.splitlines(), after.splitlines()
    head = next((at for at, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
    tail = next(
        (at for at, (a, b) in enumerate(zip(old[:head:-1], new[:head:-1], strict=False)) if a != b),
        max(min(len(old), len(new)) - head - 1, 0),
    )
    if head + tail == len(old):
        head = max(head - 1, 0)  # lines were only added: the one before them says where
    removed = "\n".join(old[head : len(old) - tail])
    added = "\n".join(new[head : len(new) - tail])
    if not removed or removed not in written:
        raise InstructionsRewrittenError(removed)
    return written.replace(removed, added, 1)

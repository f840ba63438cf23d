"""Regular expressions that users write, run by an engine whose time grows with the text and never explodes.

Python's own engine goes back and forth: ``^(a+)+$`` takes minutes for thirty letters, and nothing can interrupt it. The
one here is that of pydantic, written in Rust. It has no look-around and no backreferences, which is why it never does.
"""

from __future__ import annotations

import re
from functools import lru_cache

from pydantic_core import SchemaError, SchemaValidator, ValidationError, core_schema

LONGEST = 1_000
"""The longest pattern, in characters."""

LONGEST_TEXT = 100_000
"""The longest text that a pattern is looked for in, in characters: the time is the product of both."""

_ADVICE = (
    ("look-around", "look-around is not supported; write the pattern without (?=, (?!, (?<= and (?<!, or use choices"),
    ("backreferences", "backreferences are not supported; write out what is to stand there twice, or use choices"),
    ("size limit", "it is too large once its repetitions are written out; repeat less"),
)


class UnfitPatternError(ValueError):
    """A pattern that can't be run here; its text says why and what to do."""


def check_pattern(pattern: str) -> None:
    """Return if a pattern can be run.

    Raises:
        UnfitPatternError: it can't.
    """
    _compiled(pattern)


def found_in(pattern: str, text: str) -> bool:
    """Tell whether a pattern is found anywhere in a text.

    Raises:
        UnfitPatternError: the pattern can't be run, or the text is too long for one.
    """
    compiled = _compiled(pattern)
    if len(text) > LONGEST_TEXT:
        raise UnfitPatternError(
            f"a text of {len(text)} characters is held against no pattern, of which the longest has {LONGEST_TEXT}; "
            "bound it by max_length instead"
        )
    try:
        compiled.validate_python(text)
    except ValidationError:
        return False
    return True


@lru_cache(maxsize=1_000)
def _compiled(pattern: str) -> SchemaValidator:
    if len(pattern) > LONGEST:
        raise UnfitPatternError(f"it has {len(pattern)} characters, and at most {LONGEST} are taken")
    try:
        return SchemaValidator(core_schema.str_schema(pattern=_spelled(pattern), regex_engine="rust-regex"))
    except SchemaError as exc:
        raise UnfitPatternError(_problem(str(exc))) from None


def _spelled(pattern: str) -> str:
    """Return the pattern with Python's ``\\Z``, the very end of a text, as the engine spells it."""
    return re.sub(r"\\(.)", lambda escaped: r"\z" if escaped[1] == "Z" else escaped[0], pattern, flags=re.DOTALL)


def _problem(text: str) -> str:
    for sign, advice in _ADVICE:
        if sign in text:
            return advice
    # The engine draws the pattern with a mark below; its last line names the fault.
    return text.strip().splitlines()[-1].strip().removeprefix("error: ").removeprefix("SchemaError: ")

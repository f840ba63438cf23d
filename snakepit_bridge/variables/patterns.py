"""Users' regular expressions, run by an engine with linear time.

Python's engine backtracks: ``^(a+)+$`` takes minutes for thirty letters, and nothing can interrupt it. The Rust engine
of pydantic doesn't, at the price of having no look-around and no backreferences.
"""

from __future__ import annotations

import re
from functools import lru_cache

from pydantic_core import SchemaError, SchemaValidator, ValidationError, core_schema

MAX_PATTERN_CHARACTERS = 1_000
"""Maximum length of a pattern, in characters."""

MAX_TEXT_CHARACTERS = 100_000
"""Maximum length of a text to search, in characters; the time is the product of both lengths."""

_ADVICE = (
    ("look-around", "look-around is not supported; write the pattern without (?=, (?!, (?<= and (?<!, or use choices"),
    ("backreferences", "backreferences are not supported; write out what is to stand there twice, or use choices"),
    ("size limit", "it is too large once its repetitions are written out; repeat less"),
)


class UnfitPatternError(ValueError):
    """A pattern that can't be run; the message says why and what to do."""


def check_pattern(pattern: str) -> None:
    """Check that a pattern can be run.

    Raises:
        UnfitPatternError: the pattern is invalid, too long, or uses unsupported syntax.
    """
    _compile(pattern)


def search_pattern(pattern: str, text: str) -> bool:
    """Check whether a pattern matches anywhere in a text.

    Raises:
        UnfitPatternError: the pattern can't be run, or the text is too long for one.
    """
    compiled = _compile(pattern)
    if len(text) > MAX_TEXT_CHARACTERS:
        raise UnfitPatternError(
            f"a text of {len(text)} characters is too long for a pattern, the maximum is {MAX_TEXT_CHARACTERS}; "
            "bound it by max_length instead"
        )
    try:
        compiled.validate_python(text)
    except ValidationError:
        return False
    return True


@lru_cache(maxsize=1_000)
def _compile(pattern: str) -> SchemaValidator:
    if len(pattern) > MAX_PATTERN_CHARACTERS:
        raise UnfitPatternError(f"it has {len(pattern)} characters, and at most {MAX_PATTERN_CHARACTERS} are taken")
    try:
        return SchemaValidator(core_schema.str_schema(pattern=_translate_anchors(pattern), regex_engine="rust-regex"))
    except SchemaError as exc:
        raise UnfitPatternError(_explain(str(exc))) from None


def _translate_anchors(pattern: str) -> str:
    r"""Return the pattern with Python's ``\Z`` (end of text) replaced by the engine's ``\z``."""
    return re.sub(r"\\(.)", lambda match: r"\z" if match[1] == "Z" else match[0], pattern, flags=re.DOTALL)


def _explain(text: str) -> str:
    for sign, advice in _ADVICE:
        if sign in text:
            return advice
    # The engine prints the pattern with a marker below; the last line names the error.
    return text.strip().splitlines()[-1].strip().removeprefix("error: ").removeprefix("SchemaError: ")

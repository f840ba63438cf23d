"""Read settings from the environment, and say which variable is wrong where one is."""

from __future__ import annotations

from typing import TypeVar

from pydantic import ValidationError as PydanticError
from pydantic_settings import BaseSettings

from snakepit_bridge.exceptions import ConfigurationError
from snakepit_bridge.protocol.validation_text import to_plain_text
from snakepit_bridge.variables.codec import shorten_repr

S = TypeVar("S", bound=BaseSettings)


def read_settings(kind: type[S]) -> S:
    """Return the settings of a class, as the environment has them.

    Args:
        kind: the class, whose fields all have a default.

    Raises:
        ConfigurationError: a variable has a value that it can't have.
    """
    try:
        return kind.model_validate({})
    except PydanticError as exc:
        prefix = str(kind.model_config.get("env_prefix", ""))
        raise ConfigurationError(" ".join(_describe(exc, prefix))) from None


def _describe(exc: PydanticError, prefix: str) -> list[str]:
    """Return a sentence for each variable that is wrong. Secrets aren't checked, so that none is quoted."""
    found: dict[str, str] = {}
    for finding in exc.errors(include_url=False):
        name = f"{prefix}{str(finding['loc'][0]).upper()}" if finding["loc"] else "The environment"
        text = to_plain_text(finding["msg"]).rstrip(".")
        found.setdefault(name, f"{name} can't be {shorten_repr(finding['input'])}: {text}.")
    return list(found.values())

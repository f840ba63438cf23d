"""SubmitOptions: what a caller requests besides program and inputs, validated before anything is sent."""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any, cast

from snakepit_bridge.exceptions import BridgeError, InputError, SubmitOptionError
from snakepit_bridge.protocol.json_values import ValueBounds, find_problem
from snakepit_bridge.protocol.messages import (
    DEFAULT_PRIORITY,
    DEFAULT_SESSION,
    MOST_URGENT,
    PredictionRequest,
    Requirement,
    check_session,
)
from snakepit_bridge.protocol.plain_values import UnfitValueError, to_plain_value
from snakepit_bridge.protocol.targeting import Attributes, check_attributes, check_key
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.snapshots.freshness import FreshnessPolicy, OutagePolicy


@dataclass(frozen=True, slots=True)
class SubmitOptions:
    """Options of a submitted prediction; the attributes are the keywords of ``Fleet.submit``."""

    session: str
    at_least: Token | str | None
    exactly: Token | str | None
    max_staleness: float | None
    outage: str | OutagePolicy | None
    priority: int
    deadline: float | None
    stream: bool = False
    key: str | None = None
    attributes: Attributes | None = None
    trace: bool = False

    def build_request(self, program: str, namespace: str) -> PredictionRequest:
        """Return what the predictions of a program under these conditions have in common.

        Raises:
            SubmitOptionError: the program, a token, the priority, the deadline, the outage contract, the key or an
                attribute is malformed, or two of them exclude each other.
            SessionNameError: the session's name is invalid.
        """
        with _naming("program"):
            _check_program(program)
        with _naming("priority"):
            check_priority(self.priority)
        check_session(self.session)
        with _naming("deadline"):
            deadline = None if self.deadline is None else time.time() + _check_seconds(self.deadline)
        with _naming("max_staleness" if self.outage is None else "outage"):
            accepted = FreshnessPolicy.of(self.max_staleness, self.outage)
        with _naming("at_least" if self.exactly is None else "exactly"):
            requirement = Requirement.of(self.at_least, self.exactly)
        with _naming("key"):
            key = "" if self.key is None else check_key(self.key)
        with _naming("attributes"):
            attributes = None if self.attributes is None else check_attributes(self.attributes)
        return PredictionRequest(
            program,
            {},
            self.session,
            requirement,
            deadline,
            max_staleness=accepted.max_staleness_s,
            outage=None if self.outage is None else str(accepted.outage),
            stream=self.stream,
            namespace=namespace,
            key=key,
            attributes=attributes,
            trace=self.trace,
        )


@contextmanager
def _naming(option: str) -> Generator[None]:
    """Raise what is wrong with an option under its name."""
    try:
        yield
    except BridgeError:
        raise
    except (ValueError, TypeError) as exc:
        raise SubmitOptionError(option, str(exc)) from None


def check_options(program: str, namespace: str, **options: Any) -> None:
    """Refuse options that can't be before anything is sent.

    Raises:
        ValueError: one is malformed, or two exclude each other.
        TypeError: there is no such option.
    """
    defaults: dict[str, Any] = {
        "session": DEFAULT_SESSION,
        "at_least": None,
        "exactly": None,
        "max_staleness": None,
        "outage": None,
        "priority": DEFAULT_PRIORITY,
        "deadline": None,
    }
    SubmitOptions(**{**defaults, **options}).build_request(program, namespace)


def check_priority(priority: object) -> None:
    """Refuse what isn't a priority.

    Raises:
        ValueError: it is no whole number, or out of range.
    """
    if not isinstance(priority, Integral) or not 0 <= int(priority) <= MOST_URGENT:
        raise ValueError(f"A priority is 0 to {MOST_URGENT}, the most urgent; got {priority!r:.40}")


def _check_program(program: object) -> None:
    if not isinstance(program, str):
        raise ValueError(f"A reference to a program is text, like 'qa' or 'qa@prod'; got {type(program).__name__}")


def _check_seconds(seconds: object) -> float:
    if not isinstance(seconds, Real):
        raise ValueError(f"It is a number of seconds; got {type(seconds).__name__}")
    try:
        number = float(seconds)
    except OverflowError:
        number = math.inf
    if math.isnan(number):
        raise ValueError("It is a number of seconds; got nan")
    return number


def prepare_inputs(program: str, inputs: Any, bounds: ValueBounds) -> dict[str, Any]:
    """Return the inputs of a prediction as JSON values: a model as an object, an enum as its value, a set as a list.

    Raises:
        InputError: they are no mapping of names to such values, or one is too deep or too large; names it.
    """
    if not isinstance(inputs, Mapping):
        raise InputError(
            program, "inputs", f"they must be a mapping of input field to value, not {type(inputs).__name__}"
        )
    given = cast("Mapping[Any, Any]", inputs)
    values = {
        _check_name(program, name): _to_plain_value(program, name, value, bounds) for name, value in given.items()
    }
    if (problem := find_problem(values, replace(bounds, depth=bounds.depth + 1))) is not None:
        raise InputError(program, "inputs", problem)
    return values


def _check_name(program: str, name: Any) -> str:
    if not isinstance(name, str):
        raise InputError(program, "inputs", f"a field's name is text, not a {type(name).__name__}")
    return str(name)


def _to_plain_value(program: str, name: str, value: Any, bounds: ValueBounds) -> Any:
    if type(value) in (str, int):
        return value
    try:
        return to_plain_value(value, bounds)
    except UnfitValueError as exc:
        raise InputError(program, name, str(exc)) from None

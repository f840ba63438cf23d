"""Conditions: what a caller asks for besides program and inputs, checked before anything is sent."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from snakepit_bridge.exceptions import InputError
from snakepit_bridge.messages import MOST_URGENT, Request, Requirement
from snakepit_bridge.payloads import is_reference
from snakepit_bridge.replica.terms import Outage, Terms
from snakepit_bridge.revision import Token


@dataclass(frozen=True, slots=True)
class Conditions:
    """Under which a prediction runs; the attributes are the keywords of ``Fleet.submit``."""

    session: str
    at_least: Token | str | None
    exactly: Token | str | None
    max_staleness: float | None
    outage: str | Outage
    priority: int
    deadline: float | None
    stream: bool = False

    def request(self, program: str, namespace: str) -> Request:
        """Returns what the predictions of a program under these conditions have in common.

        Raises:
            ValueError: a token, the priority or the outage contract is malformed, or two of them exclude each other.
        """
        check_priority(self.priority)
        accepted = Terms.of(self.max_staleness, self.outage)
        return Request(
            program,
            {},
            self.session,
            Requirement.of(self.at_least, self.exactly),
            None if self.deadline is None else time.time() + self.deadline,
            max_staleness=accepted.max_staleness_s,
            outage=str(accepted.outage),
            stream=self.stream,
            namespace=namespace,
        )


def check_priority(priority: int) -> None:
    """Refuse what isn't a priority.

    Raises:
        ValueError: it is out of range.
    """
    if not 0 <= priority <= MOST_URGENT:
        raise ValueError(f"A priority is 0 to {MOST_URGENT}, the most urgent; got {priority}")


def named_inputs(program: str, inputs: Any) -> dict[str, Any]:
    """Returns the inputs of a prediction as they were given.

    Raises:
        InputError: they are no mapping, or one that only the client itself may make.
    """
    if not isinstance(inputs, Mapping):
        raise InputError(
            program, "inputs", f"they must be a mapping of input field to value, not {type(inputs).__name__}"
        )
    if is_reference(inputs):
        raise InputError(program, "inputs", "references to payloads are made by the client itself; give the inputs")
    return dict(cast(Mapping[str, Any], inputs))

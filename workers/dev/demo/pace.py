"""How fast the demo asks: it follows from the LM's first answer, since a small server takes many times as long."""

from __future__ import annotations

import time
from dataclasses import dataclass

from snakepit_bridge.client import Fleet
from snakepit_bridge.exceptions import BridgeError, ConfigurationError, LMAnswerError
from workers.dev.demo.script import Question

# So few that submitting goes on for as long as the publisher does.
MAX_IN_FLIGHT = 16
MIN_WAIT_S = 120.0
# A local server may have to load its model first.
CHECK_WAIT_S = 600.0
# What is in flight shall be answered within about so many seconds by a server that answers one request at a time.
_BURST_S = 20.0
# Reasoning, an answer that is asked for again in another form, and later tries take a multiple of a short answer.
_ALLOWANCE = 10


@dataclass(frozen=True, slots=True)
class AskingRate:
    """How the questions are asked.

    Attributes:
        in_flight: how many at a time.
        wait_s: seconds within which each must be answered.
    """

    in_flight: int = MAX_IN_FLIGHT
    wait_s: float = MIN_WAIT_S

    @classmethod
    def choose(cls, first_answer_s: float, in_flight: int | None = None, wait_s: float | None = None) -> AskingRate:
        """Return the pace that suits an LM, or what was asked for.

        Args:
            first_answer_s: seconds that its first answer took.
            in_flight, wait_s: None for what follows from the first answer.
        """
        chosen = in_flight or min(MAX_IN_FLIGHT, max(2, round(_BURST_S / max(first_answer_s, 0.001))))
        return cls(chosen, wait_s or max(MIN_WAIT_S, _ALLOWANCE * chosen * first_answer_s))


def check_lm(fleet: Fleet, session: str, question: Question, lm: str, wait_s: float = CHECK_WAIT_S) -> float:
    """Ask one question through the whole fleet and return the seconds that its answer took.

    An answer that can't be read as the program's outputs is an answer too: the LM is there.

    Raises:
        ConfigurationError: there was no answer; says why.
    """
    start = time.monotonic()
    try:
        fleet.submit(question.program, question.inputs, session=session, deadline=wait_s).get(wait_s + 30)
    except LMAnswerError:
        return time.monotonic() - start
    except BridgeError as exc:
        raise ConfigurationError(
            f"The LM {lm} did not answer the first question: {type(exc).__name__}: {exc} "
            "Check the model's name, its key and its endpoint, and run the demo again."
        ) from exc
    return time.monotonic() - start

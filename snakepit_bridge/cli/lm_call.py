"""``doctor --call``: a prediction with each LM profile, through queue, worker and provider as an application's."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from snakepit_bridge.exceptions import BridgeError, LMAnswerError
from snakepit_bridge.protocol.checks import Check

if TYPE_CHECKING:
    from snakepit_bridge.client import Fleet

_SPEC = {"module": "Predict", "signature": "question -> answer"}
_QUESTION = "Answer with one word: ready."
_ANSWER_S = 60.0
# Past its deadline a prediction ends by itself, as soon as its worker has seen that.
_GRACE_S = 15.0


def check_calls(fleet: Fleet, profiles: Iterable[str]) -> Iterator[Check]:
    """Yield for each LM profile whether a prediction with it is answered; each costs a few tokens.

    The predictions are of registered programs, ``doctor-PROFILE``, which stay.
    """
    for profile in profiles:
        what, start = f"LM call {profile}", time.monotonic()
        try:
            name = f"doctor-{profile}"
            fleet.register(name, _SPEC, lm=profile)
            prediction = fleet.submit(name, {"question": _QUESTION}, deadline=_ANSWER_S).get(_ANSWER_S + _GRACE_S)
        except LMAnswerError as exc:
            yield Check(what, "warn", f"it answers, but not in the output format: {exc}", "try a stronger model")
        except BridgeError as exc:
            yield Check(what, "fail", f"{type(exc).__name__}: {exc}", "fix the profile, or its provider's account")
        else:
            provenance, took_s = prediction.provenance, time.monotonic() - start
            yield Check(what, "ok", f"{provenance.model} answered in {took_s:.1f} s, on {provenance.worker}")

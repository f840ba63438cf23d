"""Tokens: identify a state of a session in the API, in messages, in Redis and on the command line."""

from __future__ import annotations

import re
import secrets
import time
from typing import NamedTuple, Self

_STEP_BITS = 20

_TOKEN = re.compile(r"(\d{1,19})\.(\d{1,19})")


class Token(NamedTuple):
    """A revision of a session, within an epoch of its store; tokens of one session compare in publish order.

    A revision alone isn't enough: a server that lost the tail of its log would give the same number to another state.
    It opens a new, larger epoch then, so the lexicographic order of tokens never goes back. Two servers never open the
    same epoch (see ``new_epoch``), so a token names one state even if an old primary goes on publishing for a while.
    """

    epoch: int
    revision: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``"epoch.revision"``.

        Raises:
            ValueError: the text isn't a token.
        """
        match = _TOKEN.fullmatch(text)
        if match is None:
            raise ValueError(f"A token reads epoch.revision, like 1764000000000000.7; got {text!r}")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.epoch}.{self.revision}"


def new_epoch(older: int = 0) -> int:
    """Return an epoch that is larger than an older one and unique.

    It is the current time in microseconds or, if the clock is behind, a random step beyond the older one;
    ``snapshots/lua/session.lua`` does the same.
    """
    now_us = time.time_ns() // 1_000
    return now_us if now_us > older else older + 1 + secrets.randbits(_STEP_BITS)

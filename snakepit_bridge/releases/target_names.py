"""The names of what a rollout stages: a session, or a label of a program."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, Self

from snakepit_bridge.exceptions import ProgramNotFoundError
from snakepit_bridge.protocol.messages import check_session

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}@[A-Za-z0-9_.-]{1,100}")
_KINDS = ("session", "program")


@dataclass(frozen=True, slots=True)
class TargetName:
    """What a rollout stages.

    Attributes:
        kind: ``session`` or ``program``.
        name: of the session or the program.
        label: the program's; empty for a session.
    """

    kind: Literal["session", "program"]
    name: str
    label: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``demo`` (a session), ``qa@prod`` (a label), or the form of ``str``, which is never ambiguous.

        Raises:
            ProgramNotFoundError: it begins with ``program:``, and no label follows.
            SessionNameError: it can't be a session's name.
        """
        kind, colon, rest = text.partition(":")
        if not colon or kind not in _KINDS:
            kind, rest = ("program" if _LABEL.fullmatch(text) else "session"), text
        if kind == "session":
            return cls("session", check_session(rest))
        if not _LABEL.fullmatch(rest):
            raise ProgramNotFoundError(rest[:120], (), "a label of a program reads NAME@LABEL")
        name, _, label = rest.partition("@")
        return cls("program", name, label)

    def __str__(self) -> str:
        return f"session:{self.name}" if self.kind == "session" else f"program:{self.name}@{self.label}"

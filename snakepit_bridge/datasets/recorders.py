"""Recorders: which finished predictions of a program are kept, what of them, how many and for how long.

A recorder is a string variable of the session ``dspex.recorders``, ``dspex.recorder.PROGRAM``, whose value is its JSON.
So it has a history with author and reason, and whoever may publish sets it, Elixir as well.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self, cast

from snakepit_bridge.exceptions import RecorderError
from snakepit_bridge.rollouts.assignment import is_candidate, parse_share
from snakepit_bridge.snapshots.snapshot import Snapshot
from snakepit_bridge.variables.codec import encode_canonical, parse, shorten_repr

RECORDERS_SESSION = "dspex.recorders"
"""The session whose variables are the recorders."""

REPLACEMENT = "(removed)"
"""What a replaced value is recorded as."""

MAX_RECORDS, MAX_EXPIRES_S = 100_000, 90 * 86_400
"""The most predictions that are kept of a program, and the longest time in seconds."""

_PREFIX = "dspex.recorder."
_PATH = re.compile(r"(inputs|outputs)\.\S.{0,99}")


@dataclass(frozen=True, slots=True)
class Recorder:
    """What is kept of a program's finished predictions.

    Attributes:
        program: its name; predictions of all its versions are kept.
        share: of the predictions that are kept, above 0 and up to 1.
        keep: the fields that are kept, as ``inputs.FIELD`` and ``outputs.FIELD``; all if empty.
        drop: fields that aren't kept.
        replace: fields of which only the name is kept.
        max_records: how many predictions are kept, the newest ones.
        expires_s: seconds for which they are kept.
        errors: whether predictions that failed are kept too.
    """

    program: str
    share: float = 1.0
    keep: Sequence[str] = ()
    drop: Sequence[str] = ()
    replace: Sequence[str] = ()
    max_records: int = 10_000
    expires_s: int = 7 * 86_400
    errors: bool = True

    def check(self) -> Self:
        """Return the recorder if it can be one.

        Raises:
            RecorderError: a part of it can't be.
        """
        try:
            share = parse_share(self.share)
        except ValueError as exc:
            raise RecorderError(self.program, str(exc)) from None
        if not share:
            raise RecorderError(self.program, "the share is above 0; remove the recorder to stop it")
        for path in (*self.keep, *self.drop, *self.replace):
            if not _PATH.fullmatch(path):
                raise RecorderError(
                    self.program, f"a field is 'inputs.NAME' or 'outputs.NAME'; got {shorten_repr(path)}"
                )
        self._check_range("max_records", self.max_records, MAX_RECORDS)
        self._check_range("expires_s", self.expires_s, MAX_EXPIRES_S)
        return self

    def _check_range(self, name: str, number: int, most: int) -> None:
        if not 1 <= number <= most:
            raise RecorderError(self.program, f"{name} is 1 to {most}; got {shorten_repr(number)}")

    @property
    def variable(self) -> str:
        """The name of its variable."""
        return f"{_PREFIX}{self.program}"

    def covers(self, task_id: str) -> bool:
        """Check whether a prediction is in its sample: always the same answer for the same prediction."""
        return is_candidate(f"recorder {self.program}", task_id, parse_share(self.share))

    def redact(self, side: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return what is kept of a prediction's values.

        Args:
            side: ``inputs`` or ``outputs``, which they are.
            values: field to value.
        """
        kept: dict[str, Any] = {}
        for name, value in values.items():
            path = f"{side}.{name}"
            if path not in self.drop and (not self.keep or path in self.keep):
                kept[name] = REPLACEMENT if path in self.replace else value
        return kept

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        lists = {name: list(getattr(self, name)) for name in ("keep", "drop", "replace")}
        return {**{each.name: getattr(self, each.name) for each in fields(self)}, **lists}

    def encode(self) -> str:
        """Return the value of its variable."""
        parts = self.as_dict()
        del parts["program"]
        return encode_canonical(parts).decode()

    @classmethod
    def decode(cls, variable: str, value: object) -> Self:
        """Decode a recorder from its variable.

        Raises:
            RecorderError: it is no recorder.
        """
        program = variable.removeprefix(_PREFIX)
        return cls(program, **_parse_parts(program, value)).check()


_KINDS: Mapping[str, tuple[type, ...]] = {
    "share": (int, float),
    "keep": (list,),
    "drop": (list,),
    "replace": (list,),
    "max_records": (int,),
    "expires_s": (int,),
    "errors": (bool,),
}


def _parse_parts(program: str, value: object) -> dict[str, Any]:
    """Return the parts of a recorder's JSON, each of its type."""
    try:
        found = parse(value) if isinstance(value, str) else None
    except ValueError as exc:
        raise RecorderError(program, f"its variable isn't JSON ({exc})") from None
    if not isinstance(found, dict):
        raise RecorderError(program, "its variable is a JSON object as text")
    parts = cast("dict[str, Any]", found)
    if unknown := parts.keys() - _KINDS.keys():
        raise RecorderError(program, f"it has {', '.join(sorted(unknown))}; a recorder has {', '.join(_KINDS)}")
    for name, part in parts.items():
        is_kind = isinstance(part, _KINDS[name]) and isinstance(part, bool) == (name == "errors")
        if not is_kind or (
            isinstance(part, list) and not all(isinstance(path, str) for path in cast("list[Any]", part))
        ):
            raise RecorderError(program, f"{name} can't be {shorten_repr(part)}")
    return parts


def read_recorders(snapshot: Snapshot) -> tuple[list[Recorder], list[RecorderError]]:
    """Return the recorders of the session's snapshot, and why others of its variables are none."""
    recorders, errors = list[Recorder](), list[RecorderError]()
    for name, variable in sorted(snapshot.variables.items()):
        if name.startswith(_PREFIX):
            try:
                recorders.append(Recorder.decode(name, variable.value))
            except RecorderError as exc:
                errors.append(exc)
    return recorders, errors

"""Judges: programs that score a sampled share of another program's predictions.

A judge is a string variable of the session ``dspex.judges``, ``dspex.judge.PROGRAM.NAME``, whose value is its JSON. So
it has a history with author and reason, and whoever may publish sets it, Elixir as well. Its program runs under that
session too, so that judging isn't staged with what it judges.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self, cast

from snakepit_bridge.exceptions import JudgeError
from snakepit_bridge.releases.scores import NAME_PATTERN
from snakepit_bridge.rollouts.assignment import is_candidate, parse_share
from snakepit_bridge.snapshots.snapshot import Snapshot
from snakepit_bridge.variables.codec import encode_canonical, parse, shorten_repr

JUDGES_SESSION = "dspex.judges"
"""The session whose variables are the judges, and under which their programs run."""

JUDGE_SCORER = "judge"
"""The scorer of judges' scores."""

MAX_CONCURRENCY = 10_000

_PREFIX = "dspex.judge."
_PATH = re.compile(r"(inputs|outputs)\.([A-Za-z_]\w{0,99})")
_NAME = re.compile(NAME_PATTERN)


@dataclass(frozen=True, slots=True)
class Judge:
    """A program that scores predictions of another one.

    Attributes:
        judged: name of the program whose predictions it scores, of all versions.
        name: of its scores.
        program: reference of the judging program.
        inputs: its input field to ``inputs.FIELD`` or ``outputs.FIELD`` of the judged prediction.
        output: its output field that is the score.
        comment: its output field that is the score's comment; empty for none.
        share: of the predictions that it scores, from 0 to 1.
        usd_per_hour: what its predictions may cost in an hour by the clock.
        concurrency: how many of its predictions may wait or run at a time.
    """

    judged: str
    name: str
    program: str
    inputs: Mapping[str, str] = field(default_factory=dict[str, str])
    output: str = "score"
    comment: str = ""
    share: float = 0.1
    usd_per_hour: float = 1.0
    concurrency: int = 8

    def check(self) -> Self:
        """Return the judge if it can be one.

        Raises:
            JudgeError: a part of it can't be.
        """
        if not _NAME.fullmatch(self.name):
            raise self._error(f"the name is a letter and up to 63 letters, digits, - and _; got {_show(self.name)}")
        if not self.inputs or not all(map(_PATH.fullmatch, self.inputs.values())):
            raise self._error(f"inputs map each field to 'inputs.FIELD' or 'outputs.FIELD'; got {_show(self.inputs)}")
        try:
            share = parse_share(self.share)
        except ValueError as exc:
            raise self._error(str(exc).rstrip(".")) from None
        if not share:
            raise self._error("the share is above 0; remove the judge to stop it")
        if not (math.isfinite(self.usd_per_hour) and self.usd_per_hour > 0):
            raise self._error(f"usd_per_hour is a number above 0; got {_show(self.usd_per_hour)}")
        if not 1 <= self.concurrency <= MAX_CONCURRENCY:
            raise self._error(f"concurrency is 1 to {MAX_CONCURRENCY}; got {_show(self.concurrency)}")
        return self

    @property
    def variable(self) -> str:
        """The name of its variable."""
        return f"{_PREFIX}{self.judged}.{self.name}"

    def covers(self, task_id: str) -> bool:
        """Check whether a prediction is in its sample: always the same answer for the same prediction."""
        return is_candidate(f"judge {self.judged} {self.name}", task_id, parse_share(self.share))

    def select(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return its inputs for a judged prediction.

        Args:
            inputs, outputs: the judged prediction's.

        Raises:
            JudgeError: the prediction lacks a field.
        """
        fields_of = {"inputs": inputs, "outputs": outputs}
        selected: dict[str, Any] = {}
        for name, path in self.inputs.items():
            side, _, key = path.partition(".")
            if key not in fields_of[side]:
                raise self._error(f"the prediction has no {path}; it has {_show(sorted(fields_of[side]))}")
            selected[name] = fields_of[side][key]
        return selected

    def encode(self) -> str:
        """Return the value of its variable."""
        return encode_canonical({name: getattr(self, name) for name in _STORED}).decode()

    @classmethod
    def decode(cls, variable: str, value: object) -> Self:
        """Decode a judge from its variable.

        Raises:
            JudgeError: it is no judge.
        """
        judged, _, name = variable.removeprefix(_PREFIX).rpartition(".")
        if not judged:
            raise JudgeError(variable, "its variable is named dspex.judge.PROGRAM.NAME")
        return cls(judged, name, **_parse_parts(f"{judged}.{name}", value)).check()

    def _error(self, problem: str) -> JudgeError:
        return JudgeError(f"{self.judged}.{self.name}", problem)


_KINDS: Mapping[str, tuple[type, ...]] = {
    "program": (str,),
    "inputs": (dict,),
    "output": (str,),
    "comment": (str,),
    "share": (int, float),
    "usd_per_hour": (int, float),
    "concurrency": (int,),
}
_STORED = tuple(each.name for each in fields(Judge) if each.name in _KINDS)


def _parse_parts(judge: str, value: object) -> dict[str, Any]:
    """Return the parts of a judge's JSON, each of its type."""
    try:
        found = parse(value) if isinstance(value, str) else None
    except ValueError as exc:
        raise JudgeError(judge, f"its variable isn't JSON ({exc})") from None
    if not isinstance(found, dict):
        raise JudgeError(judge, "its variable is a JSON object as text")
    parts = cast("dict[str, Any]", found)
    if unknown := parts.keys() - _KINDS.keys():
        raise JudgeError(judge, f"it has {', '.join(sorted(unknown))}; a judge has {', '.join(_KINDS)}")
    if "program" not in parts:
        raise JudgeError(judge, "it names no program")
    for name, part in parts.items():
        if not isinstance(part, _KINDS[name]) or isinstance(part, bool):
            raise JudgeError(judge, f"{name} can't be {_show(part)}")
    if not all(isinstance(path, str) for path in parts.get("inputs", {}).values()):
        raise JudgeError(judge, "inputs map each field to text such as 'outputs.answer'")
    return parts


def _show(value: object) -> str:
    return shorten_repr(dict(cast("Mapping[Any, Any]", value)) if isinstance(value, Mapping) else value)


def read_judges(snapshot: Snapshot) -> tuple[list[Judge], list[JudgeError]]:
    """Return the judges of the session's snapshot, and why others of its variables are none."""
    judges, errors = list[Judge](), list[JudgeError]()
    for name, variable in sorted(snapshot.variables.items()):
        if name.startswith(_PREFIX):
            try:
                judges.append(Judge.decode(name, variable.value))
            except JudgeError as exc:
                errors.append(exc)
    return judges, errors

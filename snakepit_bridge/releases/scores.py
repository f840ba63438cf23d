"""Scores: what applications, people and judges say of predictions that have ended, and how they count for rollouts.

A prediction has one score for each name and scorer; the last one counts. Its scores are one hash in Redis, which lives
as long as the prediction's result, and longer while it is recorded for datasets. The script that stores a score also
adds it to the counts of the arms that the prediction ran under, by difference, so that a score which is sent again or
replaced counts once.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, SupportsFloat

from snakepit_bridge.exceptions import PredictionNotScorableError, ScoreError
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.key_names import FleetKeys, join_key
from snakepit_bridge.redis.scripts import ScriptPackage
from snakepit_bridge.rollouts.assignment import MILLION
from snakepit_bridge.rollouts.records import ArmAssignment
from snakepit_bridge.variables.codec import encode_json, parse, shorten_repr

DEFAULT_SCORER = "application"
MAX_COMMENT_BYTES, MAX_TEXT = 4_096, 100
"""The longest comment in bytes of UTF-8, and the longest label and scorer in characters."""

MAX_SCORES = 1_000
"""The most scores of one prediction."""

NAME_PATTERN = r"[A-Za-z][A-Za-z0-9_-]{0,63}"
"""The pattern of scores' names, which is that of labels."""

COUNTS_TTL_S = 35 * 86_400
"""Seconds for which the counts of an arm's minute are kept."""

ScoreValue = float | bool | str
"""A number from 0 to 1, a boolean, which counts as 0 or 1, or a label."""

_SCRIPTS = ScriptPackage("snakepit_bridge.releases")
_NAME = re.compile(NAME_PATTERN)
# Applications choose names and labels. A minute's hash has the other counts of its arm too, hundreds of fields.
_MAX_FIELDS, _MAX_FIELDS_BEFORE_LABEL = 10_000, 4_000
_MINUTE_S = 60


@dataclass(frozen=True, slots=True)
class Score:
    """What somebody says of a prediction.

    Attributes:
        name: what is scored, such as ``helpful``.
        value: a number from 0 to 1, a boolean, or a label.
        comment: why.
        scorer: who says so: an application, a person, a judge.
        at: when it was stored, in Unix seconds of the server's clock.
    """

    name: str
    value: ScoreValue
    comment: str = ""
    scorer: str = DEFAULT_SCORER
    at: float = 0.0

    @classmethod
    def check(cls, name: object, value: object, comment: object = "", scorer: object = DEFAULT_SCORER) -> Self:
        """Return the score of these parts.

        Raises:
            ScoreError: one of them can't be.
        """
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            problem = f"it is a letter and up to 63 letters, digits, - and _; got {shorten_repr(name)}"
            raise ScoreError("name", problem)
        text = _check_text("comment", comment)
        if len(text.encode()) > MAX_COMMENT_BYTES:
            raise ScoreError("comment", f"it may have {MAX_COMMENT_BYTES} bytes, and has {len(text.encode())}")
        return cls(name, _check_value(value), text, _check_line("scorer", scorer))

    @property
    def kind(self) -> str:
        """``number``, ``boolean`` or ``label``."""
        return "boolean" if isinstance(self.value, bool) else "label" if isinstance(self.value, str) else "number"

    def encode(self) -> dict[str, Any]:
        """Return the JSON form."""
        about = {"kind": self.kind, "comment": self.comment, "scorer": self.scorer, "at": self.at}
        return {"name": self.name, "value": self.value, **about}

    @classmethod
    def decode(cls, message: Mapping[str, Any]) -> Self:
        """Decode the JSON form."""
        return cls(*(message[name] for name in ("name", "value", "comment", "scorer", "at")))


class Scores:
    """The scores of a fleet's predictions.

    Args:
        connection: to the Redis of the results.
        namespace: the fleet's.
    """

    def __init__(self, connection: RedisConnection, namespace: str) -> None:
        self._connection = connection
        self._keys = FleetKeys(namespace)

    async def put(
        self, task_id: str, result_key: str, arms: Sequence[ArmAssignment], score: Score, *, now_s: float
    ) -> None:
        """Store a score, in place of the one of the same name and scorer.

        Args:
            task_id: the prediction.
            result_key: where its result is stored.
            arms: those that it ran under, for which the score counts.
            score: the score.
            now_s: the server's time in Unix seconds; the score counts in its minute.

        Raises:
            PredictionNotScorableError: the prediction has no result.
            ScoreError: it has too many scores.
            StoreUnavailableError: Redis is away.
        """
        minute = int(now_s) // _MINUTE_S
        counts = [self._keys.arm_counts(arm.rollout, arm.stage, arm.arm, minute) for arm in arms]
        args = (join_key(score.name, score.scorer), score.name, _form(score.value), encode_json(score.encode()))
        bounds = (MAX_SCORES, _MAX_FIELDS, _MAX_FIELDS_BEFORE_LABEL, COUNTS_TTL_S)
        keys = [result_key, self._keys.scores(task_id), self._keys.prediction_recorded(task_id), *counts]
        reply: bytes = await self._connection.execute_script(_SCRIPTS["score"], keys, (*args, *bounds))
        if reply == b"unknown":
            raise PredictionNotScorableError(task_id)
        if reply == b"full":
            raise ScoreError("name", f"prediction {task_id} has {MAX_SCORES} scores already, which is the most")

    async def read(self, task_id: str) -> list[Score]:
        """Return a prediction's scores, by name and scorer; none if it has none, or is unknown.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        values: list[bytes] = await self._connection.execute_read("HVALS", self._keys.scores(task_id))
        scores = [Score.decode(parse(stored.partition(b"\n")[2])) for stored in values]
        return sorted(scores, key=lambda score: (score.name, score.scorer))


def read_arms(provenance: Mapping[str, Any]) -> list[ArmAssignment]:
    """Return the arms of rollouts that a prediction ran under, from the JSON form of its provenance."""
    names = ("rollout", "arm", "stage", "target")
    return [ArmAssignment(*(arm[name] for name in names)) for arm in provenance.get("arms", ())]


def _form(value: ScoreValue) -> str:
    """Return how a value is counted: its millionths, or its label."""
    return f"l:{value}" if isinstance(value, str) else f"m:{round(value * MILLION)}"


def _check_value(value: object) -> ScoreValue:
    if isinstance(value, str):
        return _check_line("value", value)
    if isinstance(value, bool):
        return value
    if not isinstance(value, SupportsFloat):
        what = type(value).__name__
        raise ScoreError("value", f"it is a number from 0 to 1, a boolean or a label, not of type {what}")
    try:
        number = float(value)
    except (ArithmeticError, ValueError):
        number = math.inf
    if not 0 <= number <= 1:
        raise ScoreError("value", f"a number is from 0 to 1; got {shorten_repr(value)}")
    return number


def _check_line(field: str, text: object) -> str:
    """Return one line of text of 1 to 100 characters."""
    line = _check_text(field, text)
    if not (line.strip() and len(line) <= MAX_TEXT and line.isprintable()):
        problem = f"it is one line of 1 to {MAX_TEXT} printable characters; got {shorten_repr(line)}"
        raise ScoreError(field, problem)
    return line


def _check_text(field: str, text: object) -> str:
    if not isinstance(text, str):
        raise ScoreError(field, f"it is text, not of type {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ScoreError(field, "it has half of a surrogate pair, which UTF-8 can't hold") from None
    return text

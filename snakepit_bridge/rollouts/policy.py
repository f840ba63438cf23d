"""The policy of a rollout: its stages, its guards and how sure a rollback has to be, parsed from JSON.

    {"stages": [{"share": 0.01, "min_s": 300, "min_predictions": 200}, {"share": 0.5}],
     "guards": [{"metric": "error_rate", "max_increase": 0.005},
                {"metric": "latency", "quantile": 0.95, "max_ratio": 1.2}],
     "level": 0.05, "pause_after_s": 3600}

Every key has a default, so ``{}`` is a policy.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field, field_serializer, field_validator
from pydantic import ValidationError as PydanticError

from snakepit_bridge.exceptions import RolloutPolicyError
from snakepit_bridge.rollouts.assignment import MILLION, parse_share
from snakepit_bridge.rollouts.guard_rules import FROZEN, ErrorRateGuard, Guard
from snakepit_bridge.rollouts.policy_errors import translate_error

MAX_POLICY_BYTES = 64 * 1024
"""Bytes of a policy's text."""

MAX_STAGES = MAX_GUARDS = 20

_MAX_S = 30 * 86_400.0
_SHARE = "A share is above 0, at most 1, and has at most six decimals."


def _parse_stage_share(value: object) -> int:
    try:
        share = parse_share(value)
    except ValueError:
        raise ValueError(_SHARE) from None
    if not share:
        raise ValueError(_SHARE)
    return share


class Stage(BaseModel):
    """How many get the candidate, and what has to happen before more do.

    Attributes:
        share: the candidate's share, in millionths; as JSON a number up to 1.
        min_s: the least number of seconds that it lasts.
        min_predictions: the least number of the candidate's predictions that it measures.
    """

    model_config = FROZEN

    share: Annotated[int, BeforeValidator(_parse_stage_share)]
    min_s: float = Field(default=300.0, ge=0, le=_MAX_S)
    min_predictions: int = Field(default=200, ge=1, le=1_000_000_000)

    @field_serializer("share")
    def _encode_share(self, share: int) -> float:
        return share / MILLION

    @property
    def baseline_predictions(self) -> int:
        """The least number of the baseline's predictions: in proportion, but no more than the candidate's."""
        return min(self.min_predictions, -(-self.min_predictions * (MILLION - self.share) // self.share))


DEFAULT_STAGES = tuple(Stage.model_validate({"share": share}) for share in (0.01, 0.1, 0.5))
DEFAULT_GUARDS: tuple[Guard, ...] = (ErrorRateGuard(metric="error_rate", max_increase=0.002),)


class RolloutPolicy(BaseModel):
    """How a rollout goes on.

    Attributes:
        stages: their shares grow; after the last one everybody gets the candidate.
        guards: any of which rolls the candidate back.
        level: the probability that a harmless candidate is rolled back, over all stages and guards together.
        pause_after_s: seconds without any prediction after which the rollout is paused.
    """

    model_config = FROZEN

    stages: tuple[Stage, ...] = Field(default=DEFAULT_STAGES, min_length=1, max_length=MAX_STAGES, strict=False)
    guards: tuple[Guard, ...] = Field(default=DEFAULT_GUARDS, min_length=1, max_length=MAX_GUARDS, strict=False)
    level: float = Field(default=0.05, gt=0, le=0.5)
    pause_after_s: float = Field(default=3_600.0, ge=1, le=_MAX_S)

    @field_validator("stages")
    @classmethod
    def _check_growth(cls, stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
        for number, (stage, following) in enumerate(pairwise(stages), start=1):
            if following.share <= stage.share:
                raise RolloutPolicyError(
                    f"stages[{number}].share",
                    f"{following.share / MILLION:g} after {stage.share / MILLION:g}",
                    "The share of each stage must be larger than that of the stage before.",
                )
        return stages

    @field_validator("guards")
    @classmethod
    def _check_difference(cls, guards: tuple[Guard, ...]) -> tuple[Guard, ...]:
        first: dict[str, int] = {}
        for number, guard in enumerate(guards):
            if guard.subject in first:
                raise RolloutPolicyError(
                    f"guards[{number}]",
                    f"a second guard of {guard.subject}; the first is guards[{first[guard.subject]}]",
                    "Keep the stricter one.",
                )
            first[guard.subject] = number
        return guards

    @property
    def alpha(self) -> float:
        """The level of one guard in one stage."""
        return self.level / (len(self.stages) * len(self.guards))

    def encode(self) -> str:
        """Return the policy as JSON, with every key that has a value."""
        return json.dumps(self.model_dump(exclude_none=True), separators=(",", ":"), sort_keys=True)


def parse_policy(text: str | Mapping[str, Any]) -> RolloutPolicy:
    """Return the policy of a JSON text, or of a mapping that is such a text's value.

    Raises:
        RolloutPolicyError: it is something else; the error says where.
    """
    document = _load(text if isinstance(text, str) else _dump(text))
    try:
        return RolloutPolicy.model_validate(document)
    except PydanticError as exc:
        raise translate_error(exc, RolloutPolicy) from None


def _dump(policy: Mapping[str, Any]) -> str:
    try:
        return json.dumps(policy, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as exc:
        raise RolloutPolicyError("the whole", "values that JSON lacks", f"Give a JSON object: {exc}.") from None


def _load(text: str) -> Any:
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_POLICY_BYTES:
        raise RolloutPolicyError("the whole", f"a text of {size} bytes", f"Shorten it to {MAX_POLICY_BYTES}.")
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as exc:
        if isinstance(exc, RolloutPolicyError):
            raise
        problem = "it is nested too deeply" if isinstance(exc, RecursionError) else str(exc)
        raise RolloutPolicyError("the whole", "a text that isn't JSON", f"Mend it: {problem}.") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict[str, Any]()
    for key, value in pairs:
        if key in found:
            raise RolloutPolicyError(key, "the key twice in one object", "Give it once.")
        found[key] = value
    return found


def _refuse_constant(name: str) -> Any:
    raise RolloutPolicyError("the whole", name, "Numbers in JSON are finite; give one.")

"""Experiments: fixed weights between several arms, on a part of a target's requests, until somebody decides.

    {"name": "tone", "from_share": 0, "to_share": 0.5,
     "arms": [{"name": "formal", "weight": 0.5, "revision": "3"}, {"name": "casual", "weight": 0.5, "revision": "4"}],
     "segment": {"properties": {"country": {"enum": ["at", "de"]}}, "required": ["country"]}}

A target, such as a session or a program's label, is a layer: its name is the salt of a bucket, of which its experiments
take disjoint ranges, so that a request is in one of them at most. Within an experiment the arm is chosen by another
bucket, whose salt is the experiment's id, so that experiments of different layers don't depend on each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from functools import cached_property, lru_cache
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator
from pydantic import ValidationError as PydanticError

from snakepit_bridge.exceptions import ExperimentError
from snakepit_bridge.protocol.targeting import Attributes
from snakepit_bridge.protocol.validation_text import to_plain_text
from snakepit_bridge.rollouts.assignment import MILLION, bucket, choose_arm, is_within, parse_share
from snakepit_bridge.rollouts.records import ArmAssignment
from snakepit_bridge.variables.codec import encode_canonical, parse
from snakepit_bridge.variables.json_schemas import build_validator, check_schema, find_violation

MAX_ARMS = 20
"""Arms of one experiment."""

MAX_SEGMENT_BYTES = 4 * 1024
"""Bytes of a segment's JSON text."""

_NAME = r"^[A-Za-z][A-Za-z0-9_-]{0,63}$"
# A reference could lead in a circle, which no bound on the segment's size would end.
_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")

_Share = Annotated[int, BeforeValidator(parse_share)]


class ExperimentState(StrEnum):
    """Whether an experiment runs, and if not, how it ended."""

    RUNNING = "running"
    DECIDED = "decided"
    STOPPED = "stopped"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class ExperimentArm(_Part):
    """One of the alternatives.

    Attributes:
        name: of the arm, in counts and provenance.
        weight: its part of the experiment's requests, in millionths; as JSON a number up to 1.
        revision: what its requests get: a session's token or ``VERSION:DIGEST`` of a program.
    """

    name: str = Field(pattern=_NAME)
    weight: _Share = Field(gt=0)
    revision: str = Field(min_length=1, max_length=200)


class ExperimentPlan(_Part):
    """An experiment as a user describes it.

    Attributes:
        name: unique among the target's running experiments.
        from_share, to_share: its range of the target's layer, in millionths; as JSON numbers from 0 to 1.
        arms: the alternatives, whose weights are a whole.
        segment: a JSON schema for the attributes of the requests that take part; None for all of them.
    """

    name: str = Field(pattern=_NAME)
    from_share: _Share = 0
    to_share: _Share = MILLION
    arms: tuple[ExperimentArm, ...] = Field(min_length=2, max_length=MAX_ARMS, strict=False)
    segment: dict[str, Any] | None = None

    @field_validator("arms")
    @classmethod
    def _check_arms(cls, arms: tuple[ExperimentArm, ...]) -> tuple[ExperimentArm, ...]:
        names = [arm.name for arm in arms]
        if len(set(names)) < len(names):
            raise ValueError(f"each arm has a name of its own; these are {', '.join(names)}")
        total = sum(arm.weight for arm in arms)
        if total != MILLION:
            raise ValueError(f"the weights must sum to 1; these sum to {total / MILLION:g}")
        return arms

    @field_validator("segment")
    @classmethod
    def _check_segment(cls, segment: dict[str, Any] | None) -> dict[str, Any] | None:
        if segment is not None:
            size = len(encode_canonical(segment))
            if size > MAX_SEGMENT_BYTES:
                raise ValueError(f"it has {size} bytes, the maximum is {MAX_SEGMENT_BYTES}")
            _reject_references(segment)
            check_schema(segment)
        return segment

    @model_validator(mode="after")
    def _check_range(self) -> Self:
        if self.from_share >= self.to_share:
            bounds = f"{self.from_share / MILLION:g} to {self.to_share / MILLION:g}"
            raise ValueError(f"its range of the layer must begin before it ends; this one is {bounds}")
        return self

    @classmethod
    def parse(cls, definition: str | Mapping[str, Any]) -> Self:
        """Parse a definition, as JSON text or as its value.

        Raises:
            ExperimentError: it is something else; the error says where.
        """
        try:
            document = parse(definition if isinstance(definition, str) else encode_canonical(dict(definition)))
        except (TypeError, ValueError) as exc:
            raise ExperimentError("", "the whole", f"it isn't JSON: {exc}") from None
        try:
            return cls.model_validate(document)
        except PydanticError as exc:
            raise _translate(exc, document) from None

    def encode(self) -> dict[str, Any]:
        """Return it as JSON values, with shares as numbers from 0 to 1."""
        fields = self.model_dump(mode="json")
        for name in ("from_share", "to_share"):
            fields[name] /= MILLION
        for arm in fields["arms"]:
            arm["weight"] /= MILLION
        return fields


class Experiment(ExperimentPlan):
    """An experiment as it is stored.

    Attributes:
        id: unique; also the salt of its arms.
        state: whether it runs.
        winner: the arm that was decided for; empty for none.
    """

    id: str = Field(min_length=1, max_length=64)
    state: ExperimentState = Field(default=ExperimentState.RUNNING, strict=False)
    winner: str = ""

    def arm(self, name: str) -> ExperimentArm:
        """Return an arm.

        Raises:
            ExperimentError: the experiment has no such arm.
        """
        for arm in self.arms:
            if arm.name == name:
                return arm
        names = ", ".join(arm.name for arm in self.arms)
        raise ExperimentError(self.name, "the arm", f"'{name}' is none of its arms", f"Name one of them: {names}.")

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        shares = f"{self.from_share / MILLION:g} to {self.to_share / MILLION:g}"
        arms = {arm.name: arm.weight / MILLION for arm in self.arms}
        winner = [("winner", self.winner)] if self.winner else []
        return [
            ("name", self.name),
            ("id", self.id),
            ("state", self.state.value),
            ("layer", shares),
            ("arms", arms),
            *winner,
        ]

    def choose(self, key: str) -> ExperimentArm:
        """Return the arm of a targeting key that takes part."""
        return self.arms[choose_arm(self.id, key, self._weights)]

    def includes(self, attributes: Attributes) -> bool:
        """Check whether a request with these attributes is in the segment.

        What the segment can't be evaluated for, such as a text that is too long for a pattern, isn't in it.
        """
        return self._validator is None or find_violation(self._validator, dict(attributes)) is None

    @cached_property
    def _weights(self) -> tuple[int, ...]:
        return tuple(arm.weight for arm in self.arms)

    @cached_property
    def _validator(self) -> Any:
        return None if self.segment is None else build_validator(self.segment)


def encode_experiments(experiments: Sequence[Experiment]) -> str:
    """Return the text under which a target's running experiments are stored; empty for none."""
    if not experiments:
        return ""
    return encode_canonical([experiment.encode() for experiment in experiments]).decode()


@lru_cache(maxsize=64)
def parse_experiments(text: str) -> tuple[Experiment, ...]:
    """Parse the text of :func:`encode_experiments`; cached, since each request of the target has it parsed.

    Raises:
        ValueError: it is something else.
    """
    return tuple(Experiment.model_validate(fields) for fields in parse(text)) if text else ()


def assign_experiment(
    experiments: Sequence[Experiment], key: str, attributes: Attributes, target: str
) -> ArmAssignment | None:
    """Return the arm of a request: the same one for the same key and attributes, as long as the experiment runs.

    Args:
        experiments: the target's running ones.
        key: the request's targeting key.
        attributes: the request's, for segments.
        target: the layer.

    Returns:
        The experiment's id, the arm's name and stage 0; None if the request is in no experiment.

    Raises:
        ValueError: the key is too long.
    """
    number = bucket(target, key)
    for experiment in experiments:
        if is_within(number, experiment.from_share, experiment.to_share) and experiment.includes(attributes):
            return ArmAssignment(experiment.id, experiment.choose(key).name, 0, target, experiment.name)
    return None


def find_arm(experiments: Sequence[Experiment], assignment: ArmAssignment) -> ExperimentArm:
    """Return the arm of an assignment by :func:`assign_experiment`."""
    return next(each for each in experiments if each.id == assignment.rollout).arm(assignment.arm)


def _reject_references(schema: Any) -> None:
    if isinstance(schema, list):
        for item in schema:
            _reject_references(item)
    elif isinstance(schema, dict):
        for key, value in schema.items():
            if key in _REFERENCES:
                raise ValueError(f"{key} isn't supported in a segment; write the schema out")
            _reject_references(value)


def _translate(exc: PydanticError, document: Any) -> ExperimentError:
    """Return the error for pydantic's first finding."""
    finding = exc.errors(include_url=False)[0]
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in finding["loc"])
    message = to_plain_text(finding["msg"])
    problem = "it should be a JSON object" if finding["type"] == "model_type" else message[:1].lower() + message[1:]
    name = document.get("name") if isinstance(document, dict) else None
    return ExperimentError(name[:64] if isinstance(name, str) else "", path.removeprefix(".") or "the whole", problem)

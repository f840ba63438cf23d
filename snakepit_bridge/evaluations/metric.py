"""MetricSpec: a function, a class or a judging program by reference, which workers run after each prediction."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from snakepit_bridge.exceptions import MetricError
from snakepit_bridge.variables.codec import encode_canonical, shorten_repr

PROGRAM_PREFIX = "program:"
"""What the reference of a judging program begins with."""

DSPY_METRICS = "dspy.evaluate"
"""The package of DSPy's own metrics, which may always be named, and whose names may stand alone."""

_NAME = re.compile(r"[A-Za-z_]\w{0,99}", re.ASCII)
_PATH = re.compile(r"(inputs|labels|outputs)\.([A-Za-z_]\w{0,99})", re.ASCII)
_SHOWN = 12


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """What scores predictions, by reference.

    Attributes:
        reference: ``package.module:function`` or ``package.module:Class`` in an allowed package, the name of one of
            DSPy's own metrics, or ``program:NAME`` of a registered program, as predictions refer to it.
        name: what gates and tables call it; the last part of the reference if empty.
        arguments: of a function its further keyword arguments, of a class those of its constructor.
        inputs: of a judging program its input field to ``inputs.FIELD``, ``labels.FIELD`` or ``outputs.FIELD`` of what
            it judges.
        output: of a judging program its output field that is the score.
        feedback: of a judging program its output field that says why; empty for none.
        version: what tells its versions apart; empty for the digest of its source or of its program.
    """

    reference: str
    name: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict[str, Any])
    inputs: Mapping[str, str] = field(default_factory=dict[str, str])
    output: str = "score"
    feedback: str = ""
    version: str = ""

    @classmethod
    def parse(cls, metric: str | MetricSpec) -> MetricSpec:
        """Return a metric that was given as its reference, with its name, if it can be one.

        Raises:
            MetricError: a part of it can't be.
        """
        given = MetricSpec(metric) if isinstance(metric, str) else metric
        reference = given.reference
        if ":" not in reference and _NAME.fullmatch(reference):
            reference = f"{DSPY_METRICS}:{reference}"
        named = replace(given, reference=reference, name=given.name or _derive_name(reference))
        named._check()
        return named

    @property
    def program(self) -> str | None:
        """The reference of its judging program; None if it is no program."""
        is_program = self.reference.startswith(PROGRAM_PREFIX)
        return self.reference.removeprefix(PROGRAM_PREFIX) if is_program else None

    def select(
        self, inputs: Mapping[str, Any], labels: Mapping[str, Any], outputs: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the inputs of its judging program for a prediction.

        Args:
            inputs, labels: of the example.
            outputs: of the prediction.

        Raises:
            MetricError: a field is missing.
        """
        sides = {"inputs": inputs, "labels": labels, "outputs": outputs}
        selected: dict[str, Any] = {}
        for name, path in self.inputs.items():
            side, _, key = path.partition(".")
            if key not in sides[side]:
                raise MetricError(self.name, f"there is no {path}, only {shorten_repr(sorted(sides[side]))}")
            selected[name] = sides[side][key]
        return selected

    def _check(self) -> None:
        if not _NAME.fullmatch(self.name):
            problem = "a metric's name is a letter or _ and up to 99 letters, digits and _; give it such a name"
            raise MetricError(self.name, problem)
        if ":" not in self.reference:
            raise MetricError(self.name, f"{self.reference[:80]!r} is neither package.module:name nor program:NAME")
        if self.program is not None and (not self.inputs or not all(map(_PATH.fullmatch, self.inputs.values()))):
            found = shorten_repr(dict(self.inputs))
            problem = f"inputs map each field to 'inputs.FIELD', 'labels.FIELD' or 'outputs.FIELD'; got {found}"
            raise MetricError(self.name, problem)
        if self.program is None and self.inputs:
            raise MetricError(self.name, "only a judging program, program:NAME, has inputs")
        try:
            encode_canonical(dict(self.arguments))
        except (TypeError, ValueError) as exc:
            raise MetricError(self.name, f"its arguments must be JSON values: {exc}") from None


def _derive_name(reference: str) -> str:
    if reference.startswith(PROGRAM_PREFIX):
        name = re.split("[@:#]", reference.removeprefix(PROGRAM_PREFIX))[0]
        return re.sub(r"\W", "_", name)
    return re.split("[:.]", reference)[-1]


@dataclass(frozen=True, slots=True)
class PinnedMetric:
    """A metric at one version, as a message carries it to the workers.

    Attributes:
        metric: the metric; the reference of a judging program names a version.
        content: digest of the source that was found for it, or of the judging program.
        session: of a judging program the session that it runs under, and ``token`` its revision; empty where that
            session was never published.
    """

    metric: MetricSpec
    content: str
    session: str = ""
    token: str = ""
    values_digest: str = ""

    @property
    def digest(self) -> str:
        """What identifies the metric at this version: equal digests give equal scores to equal predictions."""
        about = self.metric
        parts = [
            about.reference if about.program is None else PROGRAM_PREFIX,
            dict(about.arguments),
            dict(about.inputs),
            about.output,
            about.feedback,
            about.version or self.content,
            "" if about.version else self.values_digest,
        ]
        return hashlib.sha256(encode_canonical(parts)).hexdigest()

    def encode(self) -> dict[str, Any]:
        """Return the JSON form."""
        about = self.metric
        parts = {name: getattr(about, name) for name in ("reference", "name", "output", "feedback", "version")}
        mappings = {"arguments": dict(about.arguments), "inputs": dict(about.inputs)}
        pin = {"content": self.content, "session": self.session, "token": self.token, "values": self.values_digest}
        return {**parts, **mappings, **pin}

    @classmethod
    def decode(cls, message: object) -> Self:
        """Decode the JSON form.

        Raises:
            MetricError: it isn't one.
        """
        if not isinstance(message, Mapping):
            raise MetricError("?", f"the request's metric must be an object, not {type(message).__name__}")
        texts = {name: message.get(name, "") for name in _TEXTS}
        mappings = {name: message.get(name, {}) for name in ("arguments", "inputs")}
        if wrong := [name for name, text in texts.items() if not isinstance(text, str)]:
            raise MetricError("?", f"the request's metric has {wrong[0]} that isn't text")
        if not all(isinstance(each, dict) for each in mappings.values()):
            raise MetricError("?", "the arguments and inputs of the request's metric are objects")
        pin = [texts.pop(name) for name in ("content", "session", "token", "values")]
        return cls(MetricSpec.parse(MetricSpec(**texts, **mappings)), *pin)


_TEXTS = ("reference", "name", "output", "feedback", "version", "content", "session", "token", "values")


def shorten_digest(digest: str) -> str:
    """Return the first characters of a digest, as tables show it."""
    return digest[:_SHOWN]

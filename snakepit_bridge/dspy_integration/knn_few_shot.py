"""KNNFewShot as a module: DSPy's own compiles to a function of the process that compiled it.

Both choose the examples of a train set that are nearest to an input, bootstrap demos from them and call the program
with these, in each call. Here the vectors of the train set are kept, so that a call embeds its input alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self, cast

import dspy
from dspy.utils.lazy_import import require

from snakepit_bridge.dspy_integration.compat import KNN, find_knn_few_shot
from snakepit_bridge.dspy_integration.context_overrides import OVERRIDES
from snakepit_bridge.dspy_integration.module_tree import predictors
from snakepit_bridge.dspy_integration.trace_identity import preserve_predictor_identity
from snakepit_bridge.lm.compat import CLIENT_KEYS
from snakepit_bridge.lm.fleet_lm import FleetLM

np = require("numpy")

Embed = Callable[[list[str]], Any]
"""Returns a vector for each text."""


class Vectorizer:
    """Embeds texts by a function or by a model, as vectors that can be compared with those of a train set.

    Args:
        embed: the function, or what asks the model; None where a worker is to connect it.
        model: an LM profile, or a model that one allows; empty for a function.
        dimensions: of each vector; None for any.
    """

    def __init__(self, embed: Embed | None, *, model: str = "", dimensions: int | None = None) -> None:
        self.embed = embed
        self.model = model
        self.dimensions = dimensions

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vectorizer) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    @classmethod
    def of(cls, given: Any, dimensions: int | None = None) -> Self:
        """Return what DSPy was given as a vectorizer in a form that a spec can name.

        Args:
            given: a ``dspy.Embedder`` of a function or of a model, a function, or one of this class.
            dimensions: of each vector; None for any.

        Raises:
            ValueError: a spec can't name it; says why.
        """
        if isinstance(given, Vectorizer):
            return cls(given.embed, model=given.model, dimensions=dimensions)
        if not isinstance(given, dspy.Embedder):
            return cls(given, dimensions=dimensions)
        own = sorted(name for name in given.default_kwargs if name not in CLIENT_KEYS or callable(given.model))
        if own:
            raise ValueError(f"its {', '.join(own)} can't travel; give a function that needs none")
        if callable(given.model):
            return cls(cast(Embed, given.model), dimensions=dimensions)
        return cls(given, model=given.model, dimensions=dimensions)

    def connect(self, embed: Embed) -> Self:
        """Return the vectorizer with what asks its model."""
        return type(self)(embed, model=self.model, dimensions=self.dimensions)

    def __call__(self, texts: list[str]) -> Any:
        """Return the vectors as an array, a row for each text.

        Raises:
            ValueError: their number or their length doesn't fit.
        """
        if self.embed is None:
            raise ValueError(f"the embedder {self.model} is an LM profile of the fleet, and is called there")
        vectors = np.asarray(self.embed(texts), dtype=np.float32)
        expected = (len(texts), self.dimensions or vectors.shape[-1])
        if vectors.shape != expected:
            raise ValueError(
                f"the embedder gave an array of {vectors.shape} for {len(texts)} texts, and the train set's vectors "
                f"need {expected}"
            )
        return vectors

    @property
    def _identity(self) -> tuple[Any, ...]:
        return self.model or self.embed, self.dimensions


class NearestExamples(KNN):
    """``dspy.KNN`` over vectors that were computed before.

    Args:
        k: how many examples a call returns.
        trainset: the examples.
        vectors: of the examples, in their order.
        vectorizer: embeds inputs.
    """

    def __init__(self, k: int, trainset: list[dspy.Example], vectors: Any, vectorizer: Vectorizer) -> None:
        self.k = k
        self.trainset = trainset
        self.trainset_vectors = vectors
        self.embedding = vectorizer

    def __call__(self, **inputs: Any) -> list[dspy.Example]:
        """Return copies of the nearest examples, the nearest first.

        The inputs are embedded in the order that the examples have them in, whatever the caller's.
        """
        names = self.trainset[0].inputs().keys()
        ordered = {name: inputs[name] for name in names if name in inputs} | inputs
        return copy.deepcopy(super().__call__(**ordered))


class KNNFewShot(dspy.Module):
    """What DSPy's optimizer of this name compiles a program to, as a module that a spec can describe.

    Args:
        student: the program.
        k: how many examples demos are bootstrapped from in each call.
        trainset: the examples.
        vectors: of the examples, in their order: an array with a row for each.
        vectorizer: embeds inputs.
        teacher: bootstraps the demos; the student if None.
        metric: accepts or refuses what the teacher predicts; None accepts all.
        teacher_lm: the LM profile that the teacher runs on; the program's own if empty.
        metric_threshold, max_bootstrapped_demos, max_labeled_demos, max_rounds, max_errors: of ``BootstrapFewShot``.

    Raises:
        ValueError: the examples are fewer than ``k``, or their vectors don't fit them.
    """

    shared_attributes = ("knn",)

    def __init__(
        self,
        student: Any,
        *,
        k: int,
        trainset: Sequence[dspy.Example],
        vectors: Any,
        vectorizer: Vectorizer,
        teacher: Any = None,
        metric: Callable[..., Any] | None = None,
        teacher_lm: str = "",
        metric_threshold: float | None = None,
        max_bootstrapped_demos: int = 4,
        max_labeled_demos: int = 16,
        max_rounds: int = 1,
        max_errors: int | None = None,
    ) -> None:
        super().__init__()
        check_neighbours(k, trainset)
        check_vectors(vectors, len(trainset))
        self.student = student
        self.teacher = teacher
        self.knn = NearestExamples(k, list(trainset), vectors, Vectorizer.of(vectorizer, vectors.shape[1]))
        self.metric = metric
        self.teacher_lm = teacher_lm
        self.few_shot = {
            "metric_threshold": metric_threshold,
            "max_bootstrapped_demos": max_bootstrapped_demos,
            "max_labeled_demos": max_labeled_demos,
            "max_rounds": max_rounds,
            "max_errors": max_errors,
        }
        self._teacher_settings: dict[str, Any] = {"lm": FleetLM(teacher_lm)} if teacher_lm else {}

    @classmethod
    def adopt(cls, compiled: Any) -> Any:
        """Return the module that does what one does that DSPy's KNNFewShot compiled; others are returned as they are.

        Raises:
            ValueError: a part of it has no place in a spec; says which.
        """
        found = find_knn_few_shot(compiled)
        if found is None:
            return compiled
        optimizer, student, teacher = found
        knn, few_shot = optimizer.KNN, {**optimizer.few_shot_bootstrap_args}
        return cls(
            student,
            k=knn.k,
            trainset=knn.trainset,
            vectors=knn.trainset_vectors,
            vectorizer=knn.embedding,
            teacher=teacher,
            teacher_lm=find_teacher_profile(few_shot.pop("teacher_settings", None) or {}),
            **few_shot,
        )

    def connect(self, choose_lm: Callable[[str], Any], open_embedder: Callable[[str], Embed]) -> None:
        """Connect this copy, which isn't shared yet, with the LM profiles that it names.

        Args:
            choose_lm: returns the LM of a profile.
            open_embedder: returns what asks a profile for vectors.
        """
        vectorizer: Vectorizer = self.knn.embedding
        if vectorizer.model:
            self.knn.embedding = vectorizer.connect(open_embedder(vectorizer.model))
        if self.teacher_lm:
            self._teacher_settings = {"lm": choose_lm(self.teacher_lm)}

    def forward(self, **inputs: Any) -> Any:
        bootstrap = _Bootstrap(metric=self.metric, teacher_settings=self._teacher_settings, **cast(Any, self.few_shot))
        bootstrap.ambient_lm = vars(self).get(OVERRIDES, {}).get("lm")
        compiled = bootstrap.compile(self.student, teacher=self.teacher, trainset=self.knn(**inputs))
        with preserve_predictor_identity(self.student, compiled):
            return compiled(**inputs)


class _Bootstrap(dspy.BootstrapFewShot):
    """``dspy.BootstrapFewShot`` whose copies keep the LMs that variables have given to single predictors.

    Attributes:
        ambient_lm: the LM that a variable has given to the whole program. It is what DSPy has in its settings by then,
            where the optimizer changes it from round to round.
    """

    ambient_lm: Any = None

    def _prepare_student_and_teacher(self, student: Any, teacher: Any) -> None:
        super()._prepare_student_and_teacher(student, teacher)
        for original, copied in ((student, self.student), (teacher or student, self.teacher)):
            for (_, given), (_, taken_over) in zip(predictors(original), predictors(copied), strict=True):
                taken_over.lm = None if given.lm is self.ambient_lm else given.lm


def check_neighbours(k: int, trainset: Sequence[Any]) -> None:
    """Check that a train set has as many examples as are to be chosen of it.

    Raises:
        ValueError: it hasn't.
    """
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= len(trainset):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(
            f"k must be a whole number from 1 to {len(trainset)}, the examples of the train set; got {k!r}"
        )


def check_vectors(vectors: Any, count: int) -> None:
    """Check that there is a vector of finite numbers for each example.

    Raises:
        ValueError: there isn't.
    """
    shape = getattr(vectors, "shape", ())
    if len(shape) != 2 or shape[0] != count or not shape[1]:
        raise ValueError(f"there must be a vector for each of the {count} examples; got an array of {shape}")
    if not np.isfinite(vectors).all():
        raise ValueError("the vectors must be of finite numbers")


def find_teacher_profile(settings: Mapping[str, Any]) -> str:
    """Return the LM profile of the settings that a teacher runs under; empty for none.

    Raises:
        ValueError: they say something that a spec has no place for.
    """
    lm = settings.get("lm")
    others = sorted(settings.keys() - {"lm"})
    if others:
        raise ValueError(f"teacher_settings: {', '.join(others)} can't travel; only an LM can, by its profile")
    if lm is not None and not isinstance(lm, FleetLM):
        raise ValueError("teacher_settings: an LM can't travel; name its profile: FleetLM('PROFILE')")
    return "" if lm is None else lm.profile

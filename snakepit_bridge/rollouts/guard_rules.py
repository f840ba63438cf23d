"""The guards that a policy can have: each a metric, and what the candidate may do in it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

FROZEN = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

SCORE_NAME = r"[A-Za-z][A-Za-z0-9_-]{0,63}"
"""What the name of a score matches as a whole."""

METRICS = ("cost", "error_rate", "latency", "score")

_Part = Annotated[float, Field(ge=0, lt=1)]
_Ratio = Annotated[float, Field(ge=1, le=1_000)]
_Usd = Annotated[float, Field(gt=0, le=1_000_000)]


class _Rule(BaseModel, ABC):
    model_config = FROZEN

    @property
    def limit(self) -> tuple[str, float]:
        """The key of what is allowed, and its value."""
        return next((key, value) for key in self._limit_keys() if (value := getattr(self, key)) is not None)

    @property
    def subject(self) -> str:
        """What it limits; no two guards of a policy limit the same."""
        return f"{self._measure()} {self.limit[0]}"

    def __str__(self) -> str:
        key, value = self.limit
        return f"{self._measure()} {key} {value:g}"

    @abstractmethod
    def _measure(self) -> str: ...

    @abstractmethod
    def _limit_keys(self) -> tuple[str, ...]: ...

    def _require_one(self, *keys: str) -> None:
        given = [key for key in keys if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(f"Give exactly one of {', '.join(keys)}; there is {' and '.join(given) or 'none'}.")


class ErrorRateGuard(_Rule):
    """Bounds the share of predictions that fail.

    Attributes:
        max: the largest share.
        max_increase: by how much the share may be larger than the baseline's.
        max_ratio: how many times the baseline's share it may be.
    """

    metric: Literal["error_rate"]
    max: _Part | None = None
    max_increase: _Part | None = None
    max_ratio: _Ratio | None = None

    def _measure(self) -> str:
        return "error_rate"

    def _limit_keys(self) -> tuple[str, ...]:
        return ("max", "max_increase", "max_ratio")

    @model_validator(mode="after")
    def _check(self) -> Self:
        self._require_one(*self._limit_keys())
        return self


class LatencyGuard(_Rule):
    """Bounds a quantile of the latency of successful predictions, or the share of those that are slower than a limit.

    Attributes:
        quantile: which one, such as 0.95.
        max_ratio: how many times the baseline's quantile it may be.
        slower_than_s: the limit, in seconds.
        max_share: the largest share of predictions that are slower.
        max_increase: by how much that share may be larger than the baseline's.
    """

    metric: Literal["latency"]
    quantile: Annotated[float, Field(gt=0, lt=1)] | None = None
    max_ratio: _Ratio | None = None
    slower_than_s: Annotated[float, Field(gt=0, le=86_400)] | None = None
    max_share: _Part | None = None
    max_increase: _Part | None = None

    def _measure(self) -> str:
        return f"latency p{100 * self.quantile:g}" if self.quantile else f"latency above {self.slower_than_s:g} s"

    def _limit_keys(self) -> tuple[str, ...]:
        return ("max_ratio",) if self.quantile else ("max_share", "max_increase")

    @model_validator(mode="after")
    def _check(self) -> Self:
        self._require_one("quantile", "slower_than_s")
        self._require_one("max_ratio", "max_share", "max_increase")
        if self.quantile is not None and self.max_ratio is None:
            raise ValueError("A quantile is bounded by max_ratio; for a share of slow predictions give slower_than_s.")
        if self.slower_than_s is not None and self.max_ratio is not None:
            raise ValueError("With slower_than_s give max_share or max_increase; max_ratio is for a quantile.")
        return self


class CostGuard(_Rule):
    """Bounds the mean cost of successful predictions, each of which counts up to a cap.

    Attributes:
        cap_usd: the most that a prediction counts, in US dollars; about twice the usual cost shows harm soonest.
        max_usd: the largest mean.
        max_ratio: how many times the baseline's mean it may be.
    """

    metric: Literal["cost"]
    cap_usd: _Usd
    max_usd: _Usd | None = None
    max_ratio: _Ratio | None = None

    def _measure(self) -> str:
        return f"cost up to {self.cap_usd:g} USD"

    def _limit_keys(self) -> tuple[str, ...]:
        return ("max_usd", "max_ratio")

    @model_validator(mode="after")
    def _check(self) -> Self:
        self._require_one(*self._limit_keys())
        if self.max_usd is not None and self.max_usd >= self.cap_usd:
            raise ValueError("No mean of costs up to cap_usd is above max_usd; make cap_usd larger.")
        return self


class ScoreGuard(_Rule):
    """Bounds the mean of a score, of which more is better.

    Attributes:
        name: the score's.
        min: the smallest mean.
        max_decrease: by how much the mean may be smaller than the baseline's.
    """

    metric: Literal["score"]
    name: str = Field(pattern=f"^{SCORE_NAME}$")
    min: Annotated[float, Field(gt=0, le=1)] | None = None
    max_decrease: _Part | None = None

    def _measure(self) -> str:
        return f"score {self.name}"

    def _limit_keys(self) -> tuple[str, ...]:
        return ("min", "max_decrease")

    @model_validator(mode="after")
    def _check(self) -> Self:
        self._require_one(*self._limit_keys())
        return self


Guard = Annotated[ErrorRateGuard | LatencyGuard | CostGuard | ScoreGuard, Field(discriminator="metric")]

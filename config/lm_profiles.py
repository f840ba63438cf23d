"""The LM profiles' file: TOML that names models, endpoints and the environment variables which hold the keys.

    default = "smart"

    [profiles.smart]
    model = "openai/gpt-4o"
    models = ["openai/gpt-4o-mini"]        # further models that a variable may name
    api_key_env = "OPENAI_API_KEY"
    parameters = { temperature = 0.7, max_tokens = 1000 }
    limits = { timeout_s = 60, max_in_flight = 100, requests_per_min = 500, tokens_per_min = 200_000 }
    price = { input = 2.5, cached_input = 1.25, output = 10.0 }    # USD per million tokens
    model_prices = { "openai/gpt-4o-mini" = { input = 0.15, output = 0.6 } }
    fallbacks = ["cheap"]                  # profiles that answer in its stead while it can't
    retry = { for_s = 120, in_place_s = 1 }
    circuit = { failures = 10, open_s = 30 }
    middleware = ["acme.guards:Guard"]     # the user's own around each call, of an allowed package

A key itself never stands in the file.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator

# What the LM is given from elsewhere in the profile, or by the fleet itself. Above all, a key that stood among the
# parameters would be shown wherever the profile is.
_NO_PARAMETERS = frozenset({"model", "api_base", "api_key", "engine", "timeout", "cache", "num_retries"})


class LimitsTable(BaseModel):
    """Bounds of a profile's use: the first two by one worker process, the others by the whole fleet."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    timeout_s: float = Field(default=120.0, gt=0)
    max_in_flight: int | None = Field(default=None, ge=1)
    requests_per_min: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    tokens_per_min: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    concurrency: int | None = Field(default=None, ge=0)
    spend_per_hour: float | None = Field(default=None, ge=0, allow_inf_nan=False)


_OF_ONE_PROCESS = {"timeout_s", "max_in_flight"}


_USD = Annotated[Decimal, Field(ge=0, le=10_000, decimal_places=6, allow_inf_nan=False)]


class PriceTable(BaseModel):
    """What a model's tokens cost, in USD per million; what isn't given for cached input or reasoning is as the rest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: _USD
    output: _USD
    cached_input: _USD | None = None
    reasoning: _USD | None = None

    @field_validator("*", mode="before")
    @classmethod
    def _numbers_alone(cls, price: object) -> object:
        if isinstance(price, bool) or not isinstance(price, int | float):
            raise ValueError(f"a price is a number of USD per million tokens, not {price!r}")
        return price


class RetryTable(BaseModel):
    """How calls are tried again; what isn't given is as the library has it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    attempts: int | None = Field(default=None, ge=1)
    for_s: float | None = Field(default=None, gt=0, le=86_400)
    backoff_s: float | None = Field(default=None, ge=0, le=86_400)
    longest_s: float | None = Field(default=None, ge=0, le=86_400)
    in_place_s: float | None = Field(default=None, ge=0, le=86_400)
    on: tuple[Literal["rate_limit", "timeout", "server", "transport"], ...] | None = None


class CircuitTable(BaseModel):
    """When the profile is left alone; what isn't given is as the library has it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    failures: int | None = Field(default=None, ge=0)
    open_s: float | None = Field(default=None, ge=0, le=86_400)


# Fields of a table that the library's profile has under the same name.
_PASSED_ON = {"model", "api_base", "parameters", "models", "engine", "fallbacks", "middleware", "tier", "note"}


class BatchTable(BaseModel):
    """The batches of a profile of the batch tier."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    wait_s: float | None = Field(default=None, ge=0, le=86_400)
    poll_s: float | None = Field(default=None, ge=0, le=86_400)
    max_requests: int | None = Field(default=None, ge=1)
    max_bytes: int | None = Field(default=None, ge=1)
    tries: int | None = Field(default=None, ge=1)
    send_timeout_s: float | None = Field(default=None, gt=0, le=86_400)


class ProfileTable(BaseModel):
    """One ``[profiles.NAME]`` table."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(min_length=1)
    api_base: str | None = None
    api_key_env: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    parameters: dict[str, Any] = Field(default_factory=dict)
    models: tuple[str, ...] = ()
    engine: Literal["auto", "lm15", "litellm"] = "auto"
    limits: LimitsTable = Field(default_factory=lambda: LimitsTable.model_validate({}))
    price: PriceTable | None = None
    model_prices: dict[str, PriceTable] = Field(default_factory=dict)
    fallbacks: tuple[str, ...] = ()
    middleware: tuple[str, ...] = ()
    retry: RetryTable = Field(default_factory=lambda: RetryTable.model_validate({}))
    circuit: CircuitTable = Field(default_factory=lambda: CircuitTable.model_validate({}))
    tier: Literal["standard", "batch"] = "standard"
    batch: BatchTable = Field(default_factory=lambda: BatchTable.model_validate({}))
    note: str = ""

    @field_validator("parameters")
    @classmethod
    def _parameters_alone(cls, parameters: dict[str, Any]) -> dict[str, Any]:
        for name in parameters:
            if name in _NO_PARAMETERS:
                raise ValueError(f"'{name}' is no parameter; the profile's own keys and the fleet set it")
        return parameters

    @model_validator(mode="after")
    def _prices_of_models(self) -> Self:
        for model in self.model_prices:
            if model not in self.models:
                raise ValueError(f"model_prices names {model!r}, which isn't among the profile's models")
        return self

    def api_key(self, environment: Mapping[str, str]) -> SecretStr | None:
        """Return the key from the environment, or None where the profile names no variable.

        Raises:
            ValueError: the variable isn't set, or to nothing.
        """
        if self.api_key_env is None:
            return None
        if not environment.get(self.api_key_env):
            problem = "isn't set" + (": it is empty" if self.api_key_env in environment else "")
            raise ValueError(f"the environment variable {self.api_key_env}, which api_key_env names, {problem}")
        return SecretStr(environment[self.api_key_env])


class ProfilesFile(BaseModel):
    """The whole file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    default: str | None = None
    profiles: dict[str, ProfileTable] = Field(min_length=1)

    def values(self, environment: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
        """Return each profile's fields, with its key, as keyword arguments of the library's LM profile.

        ``retry``, ``circuit`` and prices are the fields of the library's policies and prices.

        Raises:
            ValueError: a key's environment variable isn't set; names the profile and the variable.
        """
        found = os.environ if environment is None else environment
        return [
            {
                "name": name,
                **table.model_dump(include=_PASSED_ON),
                "api_key": table.api_key(found),
                "key_name": table.api_key_env or "",
                "timeout_s": table.limits.timeout_s,
                "max_in_flight": table.limits.max_in_flight,
                "price": None if table.price is None else table.price.model_dump(),
                "model_prices": {model: price.model_dump() for model, price in table.model_prices.items()},
                "retry": table.retry.model_dump(exclude_none=True),
                "circuit": table.circuit.model_dump(exclude_none=True),
                "batch": table.batch.model_dump(exclude_none=True),
            }
            for name, table in self.profiles.items()
        ]

    def fleet_limits(self) -> dict[str, dict[str, Any]]:
        """Return the limits that each profile has for the whole fleet, as keyword arguments; None doesn't limit."""
        return {name: table.limits.model_dump(exclude=_OF_ONE_PROCESS) for name, table in self.profiles.items()}

    def prices(self) -> dict[tuple[str, str], dict[str, Any]]:
        """Return the prices by profile and model, as keyword arguments; models without a price are left out."""
        return {
            (name, model): price.model_dump()
            for name, table in self.profiles.items()
            for model, price in ((table.model, table.price), *table.model_prices.items())
            if price is not None
        }


def read_profiles(path: Path) -> ProfilesFile:
    """Read a profiles file.

    Raises:
        ValueError: it can't be read or a table is wrong; names the file, the table and the fault.
    """
    try:
        return ProfilesFile.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as exc:
        raise ValueError(f"The LM profiles file {path} can't be read: {exc.strerror}") from exc
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        raise ValueError(f"The LM profiles file {path} isn't TOML: {exc}") from exc
    except ValidationError as exc:
        first = exc.errors(include_url=False)[0]
        where, problem = ".".join(str(step) for step in first["loc"]), first["msg"].removeprefix("Value error, ")
        raise ValueError(f"The LM profiles file {path} is wrong at {where}: {problem}") from None

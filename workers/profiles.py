"""The LM profiles of a worker: those of its file, or one for the single model that its settings name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from config.lm_profiles import ProfilesFile, read_profiles
from config.settings import FleetSettings
from snakepit_bridge.costs.usage import Price
from snakepit_bridge.exceptions import ConfigurationError
from snakepit_bridge.lm.engine import LMMiddleware
from snakepit_bridge.lm.policies import BatchPolicy, CircuitPolicy, RetryPolicy
from snakepit_bridge.lm.profiles import LMProfile, LMProfiles


def load_profiles(settings: FleetSettings, *, around: Callable[[LMProfiles], LMMiddleware] | None = None) -> LMProfiles:
    """Return the declared LM profiles: those of the file, or one for the settings' single model.

    Args:
        settings: the worker's settings.
        around: makes what surrounds their calls.

    Raises:
        ConfigurationError: the file is invalid, or a key that it names isn't in the environment or can't be sent.
    """
    file = read_profiles_file(settings)
    if file is None:
        retry = _retry(settings, {})
        return LMProfiles([LMProfile("default", settings.lm, retry=retry)] if settings.lm else [], middleware=around)
    try:
        return LMProfiles([_profile(settings, **table) for table in file.values()], file.default, middleware=around)
    except ValueError as exc:
        raise ConfigurationError(f"{exc}. Correct the file or the environment.") from exc


def _profile(
    settings: FleetSettings,
    *,
    retry: Mapping[str, Any],
    circuit: Mapping[str, Any],
    batch: Mapping[str, Any],
    price: Mapping[str, Any] | None,
    model_prices: Mapping[str, Mapping[str, Any]],
    **options: Any,
) -> LMProfile:
    return LMProfile(
        **options,
        retry=_retry(settings, retry),
        circuit=CircuitPolicy(**circuit),
        batch=BatchPolicy(**batch),
        price=None if price is None else Price.of(**price),
        model_prices={model: Price.of(**prices) for model, prices in model_prices.items()},
    )


def _retry(settings: FleetSettings, overrides: Mapping[str, Any]) -> RetryPolicy:
    return RetryPolicy(settings.task_attempts, settings.retry_backoff_s, for_s=settings.retry_for_s).with_changes(
        overrides
    )


def read_profiles_file(settings: FleetSettings) -> ProfilesFile | None:
    """Return the profiles file that the settings name, if they name one.

    Raises:
        ConfigurationError: the file is invalid.
    """
    try:
        return read_profiles(settings.lm_profiles) if settings.lm_profiles else None
    except ValueError as exc:
        raise ConfigurationError(f"{exc}. Correct the file.") from exc

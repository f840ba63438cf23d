"""Checks of LM profiles: whether there is a provider and a key, and whether a custom endpoint responds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from config.settings import FleetSettings
from snakepit_bridge.exceptions import BridgeError, ConfigurationError
from snakepit_bridge.lm.profiles import LMProfile, LMProfiles
from snakepit_bridge.protocol.checks import Check
from snakepit_bridge.redaction import redact
from workers.environment import read_settings

# A worker consumes no messages while it reports, so endpoints get little time, and are checked concurrently.
_ENDPOINT_S = 2.0
_CONCURRENCY = 16
_UNREADABLE = "correct the file that DSPEX_LM_PROFILES names"


def check_profiles(settings: FleetSettings | None = None) -> Iterator[Check]:
    """Yield the checks of the LM profiles of some settings, by default those of this environment."""
    from workers.lifecycle import load_dspy
    from workers.profiles import load_profiles

    load_dspy()  # also keeps LiteLLM from fetching a list of models
    try:
        settings = settings or read_settings(FleetSettings)
    except ConfigurationError as exc:
        yield Check("settings", "fail", str(exc), "correct the environment")
        return
    try:
        profiles = load_profiles(settings)
    except (BridgeError, ValueError) as exc:
        yield Check("LM profiles", "fail", redact(str(exc)), _UNREADABLE)
        return
    yield from check_each(profiles)


def check_each(profiles: LMProfiles) -> Iterator[Check]:
    """Yield a check of each LM profile."""
    if not profiles:
        fix = "declare some in the file that DSPEX_LM_PROFILES names, or name one model in DSPEX_LM"
        yield Check("LM profiles", "warn", "none", fix)
    with ThreadPoolExecutor(_CONCURRENCY, thread_name_prefix="profile-check") as threads:
        yield from threads.map(check_profile, profiles)


def check_profile(profile: LMProfile) -> Check:
    """Check whether requests to a profile's LM can be made, as far as that costs nothing."""
    what = f"LM profile {profile.name}"
    key = "with a key" if profile.api_key else "its provider's own key"
    described = redact(f"{profile.model}, {key}{f'; {profile.note}' if profile.note else ''}")
    for model in (profile.model, *profile.models):
        if problem := _find_problem(profile, model):
            return Check(what, "fail", redact(f"{described}: {problem[0]}"), redact(problem[1]))
    try:
        LMProfiles([replace(profile, fallbacks=())]).check()
    except BridgeError as exc:
        return Check(what, "fail", redact(f"{described}: {exc}"), "correct the profile, as no worker starts with it")
    return _check_endpoint(profile, what, described)


def _find_problem(profile: LMProfile, model: str) -> tuple[str, str] | None:
    """Return why a request can't be sent and how to fix it, or None if it can."""
    from litellm.exceptions import BadRequestError
    from litellm.litellm_core_utils.get_llm_provider_logic import get_llm_provider

    try:
        get_llm_provider(model)
    except BadRequestError:
        fix = f"write provider/model, such as openai/{model}"
        return f"the model '{model}' names no provider that LiteLLM knows", fix
    missing = _missing_keys(profile, model)
    if profile.api_key or not missing:
        return None
    fix = f"set {' and '.join(missing)}, or name the key's variable in api_key_env"
    if profile.api_base:
        fix += "; for a server that asks for no key, any text will do"
    return f"there is no key: {' and '.join(missing)} isn't set, and the profile names no api_key_env", fix


def _missing_keys(profile: LMProfile, model: str) -> Sequence[str]:
    """Return the variables that the provider's client requires and that aren't set."""
    import litellm

    missing: list[str] = litellm.validate_environment(model=model).get("missing_keys") or []
    return [name for name in missing if not (profile.api_base and name.endswith("_API_BASE"))]


def _check_endpoint(profile: LMProfile, what: str, described: str) -> Check:
    """Check that a custom endpoint responds; a provider's isn't contacted, since that may cost."""
    import httpx

    if profile.api_base is None:
        return Check(what, "ok", described)
    shown = redact(profile.api_base)
    try:
        httpx.get(f"{profile.api_base.rstrip('/')}/models", timeout=_ENDPOINT_S)
    except (httpx.HTTPError, httpx.InvalidURL) as exc:
        fix = f"start the server at {shown}, or correct the profile's api_base"
        return Check(what, "fail", f"{described}: no answer ({type(exc).__name__})", fix)
    return Check(what, "ok", f"{described}, answers at {shown}")

"""LM profiles: which language models a variable may select. Keys and endpoints stay in the profile.

An operator declares profiles (name, model, endpoint, key, defaults). A variable bound to ``model`` or ``lm`` holds the
name of a profile, or a model that a profile allows. The key and the endpoint never leave the profile: no
variable and no result contains them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from pydantic import SecretStr

from snakepit_bridge.costs.usage import Price
from snakepit_bridge.exceptions import ConfigurationError, ValidationError, join_names, suggest_name
from snakepit_bridge.lm import models as lm_models
from snakepit_bridge.lm.http_fields import find_headers_problem, find_key_problem, find_url_problem
from snakepit_bridge.lm.policies import BatchPolicy, CircuitPolicy, EngineName, RetryPolicy, TierName
from snakepit_bridge.redaction import redact, register_headers, register_secret, register_url

if TYPE_CHECKING:
    import dspy

    from snakepit_bridge.lm.blocking import BlockingEngine
    from snakepit_bridge.lm.engine import LMEngine, LMMiddleware

_log = logging.getLogger(__name__)

BATCH_DIALECTS = frozenset({"openai-chat", "openai", "anthropic"})
"""The APIs that have batches, as ``LMEngine.dialect`` names them."""

# At least what one process may have in flight: a call that waits for a connection stalls its prediction.
MIN_CONNECTIONS = 4_096


@dataclass(frozen=True, slots=True)
class LMProfile:
    """One language model that the fleet may call.

    Attributes:
        name: what variables and programs call it.
        model: DSPy's ``provider/model`` string.
        api_base: endpoint, where it isn't the provider's own.
        api_key: its key; masked wherever the profile is shown.
        parameters: LM keywords that hold unless a variable or a program says otherwise.
        models: further models that a variable may name; they share the endpoint and the key.
        engine: DSPy's engine; ``auto`` takes the native one where it can.
        timeout_s: seconds that one LM request may take.
        max_in_flight: predictions that one worker process runs on this profile at a time; None is no bound.
        fallbacks: profiles to try in this order while this one fails.
        retry: how its calls are retried.
        circuit: when its circuit breaker opens.
        middleware: import paths of the user's middleware around its calls, the first outermost.
        price: what the tokens of ``model`` cost; None if that isn't known.
        model_prices: what those of further models cost, by model.
        tier: ``batch`` has its calls answered by the provider's batches.
        batch: how its requests are put into batches, if so.
        note: shown wherever the profile is, such as that it isn't a real model.
        key_name: the environment variable that the key came from, for errors.
    """

    name: str
    model: str
    api_base: str | None = None
    api_key: SecretStr | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict[str, Any])
    models: tuple[str, ...] = ()
    engine: EngineName = "auto"
    timeout_s: float = 120.0
    max_in_flight: int | None = None
    fallbacks: tuple[str, ...] = ()
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    circuit: CircuitPolicy = field(default_factory=CircuitPolicy)
    middleware: tuple[str, ...] = ()
    price: Price | None = None
    model_prices: Mapping[str, Price] = field(default_factory=dict[str, Price])
    tier: TierName = "standard"
    batch: BatchPolicy = field(default_factory=BatchPolicy)
    note: str = ""
    key_name: str = ""

    def __post_init__(self) -> None:
        key = None if self.api_key is None else self.api_key.get_secret_value()
        register_secret(key)
        register_url(self.api_base or "")
        for name in _HEADERS & self.parameters.keys():
            register_headers(_as_headers(self.parameters[name]))
        problem = self._find_problem(key)
        if problem is not None:
            raise ConfigurationError(f"LM profile '{self.name}' can't be used: {problem}. No request could be sent.")

    def _find_problem(self, key: str | None) -> str | None:
        """Return which setting no request could be built from; the message doesn't contain its value."""
        if key is not None and (wrong := find_key_problem(key)):
            return f"its key{f' in the environment variable {self.key_name}' if self.key_name else ''} {wrong}"
        if self.api_base is not None and (wrong := find_url_problem(self.api_base)):
            return f"its api_base {wrong}"
        for name in sorted(_HEADERS & self.parameters.keys()):
            if wrong := find_headers_problem(_as_headers(self.parameters[name]).items()):
                return f"in its parameters.{name} {wrong}"
        return None

    def price_of(self, model: str) -> Price | None:
        """Return what the tokens of one of its models cost; None if that isn't known."""
        return self.price if model == self.model else self.model_prices.get(model)

    def build(self, model: str | None = None, *, middleware: LMMiddleware | None = None) -> dspy.LM:
        """Return a DSPy LM for this profile; caching and retries are off, since the fleet does both itself.

        Args:
            model: one of ``models``; the profile's own if it isn't given.
            middleware: wraps each of its calls, see ``lm.engine``.
        """
        from snakepit_bridge.lm.blocking import BlockingEngine
        from snakepit_bridge.lm.compat import CLIENT_KEYS
        from snakepit_bridge.lm.endpoint import Endpoint
        from snakepit_bridge.lm.engine import LMEngine
        from snakepit_bridge.lm.extensions import ExtendedLM

        chosen = model or self.model
        parameters = dict(self.parameters)
        if chosen != self.model:
            # They are meant for the profile's own model; another allowed model gets those that it supports.
            for name in lm_models.find_unsupported(chosen, parameters):
                del parameters[name]
        limit = parameters.pop("max_tokens", None) if self._renames_token_limit(chosen) else None
        client = {name: parameters.pop(name) for name in self.parameters if name in CLIENT_KEYS}
        endpoint = Endpoint(
            self.name,
            chosen,
            self.api_base,
            self.api_key,
            self.engine,
            parameters.get("model_type", "chat"),
            self.timeout_s,
            max(self.max_in_flight or 0, MIN_CONNECTIONS),
            client,
        )
        engine = LMEngine(endpoint, middleware)
        lm = ExtendedLM(
            endpoint.model, cache=False, num_retries=0, engine=BlockingEngine(engine), async_engine=engine, **parameters
        )
        if limit is not None:
            lm.kwargs[lm_models.native_name(chosen, "max_tokens")] = limit
        return lm

    def _renames_token_limit(self, model: str) -> bool:
        """Return whether another model has its own name for the token limit, which DSPy checks by the model."""
        return model != self.model and lm_models.native_name(model, "max_tokens") != "max_tokens"


@dataclass(frozen=True, slots=True)
class ChosenLM:
    """The LM that a name resolved to, and the profile that it belongs to."""

    lm: dspy.LM
    profile: str


class LMProfiles:
    """The declared profiles and their LMs, one LM per model for the life of the process.

    Args:
        profiles: the declared profiles; names must differ.
        default: name of the profile for programs that name none; the first one if it isn't given.
        middleware: builds the middleware of every LM call (see ``lm.engine``) from the profiles.

    Raises:
        ConfigurationError: two profiles share a name, or the default or a fallback isn't one of them.
    """

    def __init__(
        self,
        profiles: Iterable[LMProfile] = (),
        default: str | None = None,
        *,
        middleware: Callable[[LMProfiles], LMMiddleware] | None = None,
    ) -> None:
        declared = list(profiles)
        self._profiles = {profile.name: profile for profile in declared}
        if len(self._profiles) != len(declared):
            raise ConfigurationError("Two LM profiles share a name; rename one.")
        self.default = default or next(iter(self._profiles), "")
        if self.default and self.default not in self._profiles:
            raise ConfigurationError(
                f"The default LM profile '{self.default}' isn't one of: {join_names(self._profiles)}."
            )
        for profile in declared:
            for name in profile.fallbacks:
                if name not in self._profiles or name == profile.name:
                    others = join_names(self._profiles.keys() - {profile.name})
                    raise ConfigurationError(
                        f"The fallback '{name}' of LM profile '{profile.name}' isn't one of: {others}."
                    )
        self._middleware = None if middleware is None else middleware(self)
        self._built: dict[str, ChosenLM] = {}

    def __iter__(self) -> Iterator[LMProfile]:
        return iter(self._profiles.values())

    def __contains__(self, name: object) -> bool:
        return name in self._profiles

    def __getitem__(self, name: str) -> LMProfile:
        return self._profiles[name]

    def __bool__(self) -> bool:
        return bool(self._profiles)

    @property
    def has_batch_tier(self) -> bool:
        """Whether the calls of a profile are answered by batches."""
        return any(profile.tier == "batch" for profile in self)

    @property
    def names(self) -> list[str]:
        """Everything that a variable may say: the profiles' names and the models they allow."""
        return sorted({*self._profiles, *(model for p in self._profiles.values() for model in (p.model, *p.models))})

    def choose(self, name: str | None = None, *, variable: str = "model") -> ChosenLM:
        """Return the LM for a profile's name or an allowed model, and the profile's name.

        Args:
            name: what to resolve; None is the default profile.
            variable: the variable that names it, for the error.

        Raises:
            ValidationError: no profile has that name or allows that model.
            ConfigurationError: no profile is declared at all.
        """
        wanted = name or self.default
        if not wanted:
            raise ConfigurationError("No LM profile is declared. Declare one in the file named by DSPEX_LM_PROFILES.")
        # A race builds one LM twice at worst, and the dict keeps one of them.
        if wanted not in self._built:
            self._built[wanted] = self._build(wanted, variable)
        return self._built[wanted]

    def check(self) -> None:
        """Build the LM of each profile and of each model that it allows, so that mistakes are reported at start-up.

        Raises:
            ConfigurationError: names the profile, and what DSPy or its model refuses.
        """
        for profile in self:
            unsupported = lm_models.find_unsupported(profile.model, profile.parameters)
            if unsupported:
                raise ConfigurationError(
                    f"LM profile '{profile.name}' can't be used: {profile.model} takes no {', '.join(unsupported)}. "
                    "Take it out of the profile's parameters."
                )
            for model in (profile.model, *profile.models):
                try:
                    engine = self.get_engine(profile.name if model == profile.model else model)
                    engine.check()
                    _check_tier(profile, engine, self)
                except Exception as exc:
                    raise ConfigurationError(f"LM profile '{profile.name}' can't be used: {exc}") from exc

    def get_engine(self, name: str) -> LMEngine:
        """Return the engine of a profile, which sends requests without the middleware.

        Raises:
            ValidationError: there is no such profile.
        """
        return cast("BlockingEngine", self.choose(name).lm.engine).async_engine

    def open_embedder(self, name: str) -> Callable[[list[str]], Any]:
        """Return what asks the endpoint of a profile, or of a model that one allows, for vectors, in a thread.

        Raises:
            ValidationError: no profile has that name or allows that model, or it can't embed; says why.
        """
        from snakepit_bridge.lm.embeddings import DIALECTS, embed_by

        profile = self._profiles[self.choose(name, variable="embedder").profile]
        engine = self.get_engine(name)
        problem = ""
        if profile.tier == "batch" or engine.dialect not in DIALECTS:
            problem = "its profile must be reached by the native client and OpenAI's API, and be of no tier"
        elif profile.fallbacks:
            problem = "its profile must have no fallbacks: another model's vectors can't be compared with its own"
        if problem:
            raise ValidationError("embedder", repr(name), problem)
        return embed_by(engine)

    async def warm(self) -> None:
        """Build every LM and its client for the running event loop, so that no prediction has to wait for one.

        Failures are logged; a call that selects such an LM raises the reason.
        """
        for name in self.names:
            try:
                choice = await asyncio.to_thread(self.choose, name)
                await cast("BlockingEngine", choice.lm.engine).async_engine.warm()
            except Exception as exc:  # noqa: BLE001 (one unusable profile must not stop the others)
                _log.warning("The LM '%s' can't be prepared: %s", name, redact(str(exc)))

    def _build(self, wanted: str, variable: str) -> ChosenLM:
        if wanted in self._profiles:
            return ChosenLM(self._profiles[wanted].build(middleware=self._middleware), wanted)
        for profile in self._profiles.values():
            if wanted in (profile.model, *profile.models):
                return ChosenLM(profile.build(wanted, middleware=self._middleware), profile.name)
        raise ValidationError(
            variable,
            repr(wanted),
            f"it must be an LM profile or an allowed model: {join_names(self.names)}"
            + suggest_name(wanted, self.names),
        )


def _check_tier(profile: LMProfile, engine: LMEngine, profiles: LMProfiles) -> None:
    """Check that a profile of the batch tier has a provider with batches, and is nobody's fallback.

    Raises:
        ConfigurationError: says what to change.
    """
    for name in profile.fallbacks:
        if profiles[name].tier == "batch":
            raise ConfigurationError(f"its fallback '{name}' is of the batch tier, which answers within a day")
    if profile.tier == "batch" and engine.dialect not in BATCH_DIALECTS:
        known = ", ".join(sorted(BATCH_DIALECTS))
        raise ConfigurationError(f"tier 'batch' needs an API with batches ({known}), reached by the native client")


_HEADERS = frozenset({"headers", "extra_headers", "default_headers"})


def _as_headers(value: Any) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {"": value}


def copy_with_model(ambient: dspy.LM, model: str, *, variable: str = "model") -> dspy.LM:
    """Return the caller's own LM with another model of the same provider, for modules used without profiles.

    The provider must stay: the copy carries the ambient LM's key, which must not go to another provider.

    Raises:
        ValidationError: the model names another provider.
    """
    provider, _, rest = ambient.model.partition("/")
    wanted, slash, _ = model.partition("/")
    if rest and slash and wanted != provider:
        raise ValidationError(
            variable, repr(model), f"without LM profiles only models of the current provider '{provider}' can be named"
        )
    other = ambient.copy(model=f"{provider}/{model}" if rest and not slash else model)
    # DSPy's copy keeps the keywords as the old model spells them, and ignores the token limit under the wrong name.
    spelling = lm_models.native_name(other.model, "max_tokens")
    known = {spelling if name in _TOKEN_LIMITS else name: value for name, value in other.kwargs.items()}
    dropped = lm_models.find_unsupported(other.model, known)
    other.kwargs = {name: value for name, value in known.items() if name not in dropped}
    return other


_TOKEN_LIMITS = ("max_tokens", "max_completion_tokens")

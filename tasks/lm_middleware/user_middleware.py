"""Run the user's own middleware around LM calls.

It stands inside cancellation and outside everything else, where gRPC and Temporal put a client's interceptors: it sees
each LM call of a program once, whatever retries and fallbacks it takes, and a request that it changes is the request
that the response cache and the rate limits see.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import cast

from dspy.lm15 import Response

from snakepit_bridge.exceptions import ConfigurationError
from snakepit_bridge.lm.profiles import LMProfiles
from snakepit_bridge.programs.imports import AllowedImports
from tasks.lm_middleware.middleware import CallNext, LMMiddleware, PredictionCall, compose
from tasks.response_cache.single_flight import AnswerCache


class UserMiddleware:
    """Runs the middleware of every call, and inside it that of the call's LM profile; each once, however often named.

    A fallback's own middleware runs around the fallback's calls, inside the rest.

    Args:
        common: the middleware of every LM call, the first outermost.
        by_profile: that of an LM profile's calls, by its name.
        cache: the response cache, which is told what a middleware makes of an answer.
    """

    def __init__(
        self,
        common: Sequence[LMMiddleware],
        by_profile: Mapping[str, Sequence[LMMiddleware]],
        cache: AnswerCache | None = None,
    ) -> None:
        self._common = _without_repeats(common)
        self._by_profile = {name: _without_repeats([*common, *own]) for name, own in by_profile.items()}
        self._cache = cache

    async def __call__(self, call: PredictionCall, call_next: CallNext) -> Response:
        """Return the response of the user's middleware.

        Raises:
            TypeError: a middleware returned something else.
        """
        middlewares = self._by_profile.get(call.profile, self._common)
        answers: list[Response] = []

        async def collect(call: PredictionCall) -> Response:
            answers.append(await call_next(call))
            return answers[-1]

        try:
            response = await _run(middlewares, call, collect)
        except BaseException:
            if self._cache is not None:
                self._cache.replace_answers(call.scope, answers, None)
            raise
        if self._cache is not None:
            self._cache.replace_answers(call.scope, answers, response)
        return response

    def wrap_fallback(self, profile: str, fallback: str, call_next: CallNext) -> CallNext:
        """Return ``call_next`` within the middleware of a fallback that the profile's own calls don't have.

        Args:
            profile: the LM profile of the call.
            fallback: the profile that is called in its place.
            call_next: the rest of the chain.
        """
        around = set(map(id, self._by_profile.get(profile, self._common)))
        own = [each for each in self._by_profile.get(fallback, ()) if id(each) not in around]
        return lambda call: _run(own, call, call_next)


async def _run(middlewares: Sequence[LMMiddleware], call: PredictionCall, call_next: CallNext) -> Response:
    response = await compose(middlewares, call_next)(call)
    if not isinstance(cast(object, response), Response):
        names = ", ".join(_describe(each) for each in middlewares)
        raise TypeError(f"LM middleware must return the response, not {type(response).__name__}: {names}")
    return response


def _without_repeats(middlewares: Sequence[LMMiddleware]) -> tuple[LMMiddleware, ...]:
    return tuple({id(each): each for each in middlewares}.values())


def load_user_middleware(
    paths: Iterable[str], profiles: LMProfiles, allowed: AllowedImports, cache: AnswerCache | None = None
) -> UserMiddleware | None:
    """Import and create the middleware of the settings and of the LM profiles; None if they name none.

    One that is named several times is created once, however its path is spelled.

    Args:
        paths: import paths of the middleware of every LM call.
        profiles: the LM profiles, with the import paths of each.
        allowed: the packages that it may come from.
        cache: the response cache of their calls.

    Raises:
        ConfigurationError: a path is malformed, not allowed, can't be imported, or isn't a middleware.
    """
    loaded: dict[int, LMMiddleware] = {}

    def load(path: str, where: str) -> LMMiddleware:
        found = _find(path, where, allowed)
        if id(found) not in loaded:
            loaded[id(found)] = _create(found, path, where)
        return loaded[id(found)]

    common = [load(path, "DSPEX_LM_MIDDLEWARE") for path in paths]
    by_profile = {
        profile.name: [load(path, f"LM profile '{profile.name}'") for path in profile.middleware]
        for profile in profiles
    }
    return UserMiddleware(common, by_profile, cache) if common or any(by_profile.values()) else None


def _find(path: str, where: str, allowed: AllowedImports) -> object:
    try:
        return allowed.find(path)
    except ValueError as exc:
        raise ConfigurationError(f"{where} names middleware that can't be used: {exc}.") from exc


def _create(found: object, path: str, where: str) -> LMMiddleware:
    if not isinstance(found, type):
        return _check(found, path, where)
    try:
        middleware = found()
    except Exception as exc:
        problem = f"{type(exc).__name__}: {exc}"
        raise ConfigurationError(f"{where}: the middleware '{path}' can't be created: {problem}.") from exc
    return _check(middleware, path, where)


def _check(middleware: object, path: str, where: str) -> LMMiddleware:
    """Return an object if it can be awaited with a call and the rest of the chain.

    Raises:
        ConfigurationError: it can't.
    """
    if not (_is_awaited(middleware) and _accepts_two(middleware)):
        raise ConfigurationError(
            f"{where}: '{path}' isn't LM middleware. Give it a method `async def __call__(self, call, call_next)`, "
            "or make it a function `async def (call, call_next)`."
        )
    return middleware  # pyright: ignore[reportReturnType]


def _is_awaited(middleware: object) -> bool:
    method = getattr(middleware, "__call__", None)  # noqa: B004 - the method itself, not whether there is one
    return inspect.iscoroutinefunction(middleware) or inspect.iscoroutinefunction(method)


def _accepts_two(middleware: object) -> bool:
    try:
        inspect.signature(middleware).bind(None, None)  # pyright: ignore[reportArgumentType]
    except TypeError:
        return False
    return True


def _describe(middleware: LMMiddleware) -> str:
    return getattr(middleware, "__qualname__", type(middleware).__qualname__)

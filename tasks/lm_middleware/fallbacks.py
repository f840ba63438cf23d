"""Try the fallback profiles of an LM profile that is unavailable."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from dspy.lm15 import LM15Error, Response

from snakepit_bridge.lm.engine import LMEngine
from snakepit_bridge.lm.profiles import LMProfiles
from tasks.lm_middleware.middleware import CallNext, PredictionCall
from tasks.lm_middleware.retries import may_repeat
from tasks.lm_middleware.user_middleware import UserMiddleware


class Fallbacks:
    """Calls the fallbacks in their order after a retryable failure of the call's own profile.

    Args:
        profiles: the LM profiles.
        user: the user's own middleware; a fallback's runs around its calls.
    """

    def __init__(self, profiles: LMProfiles, user: UserMiddleware | None = None) -> None:
        self._profiles = profiles
        self._user = user

    async def __call__(self, call: PredictionCall, call_next: CallNext) -> Response:
        """Return the first response.

        Raises:
            LM15Error: the failure of the call's own profile, if every fallback failed as well.
        """
        first: LM15Error | None = None
        for engine in self._engines(call):
            try:
                return await self._around(call, engine, call_next)(replace(call, engine=engine))
            except LM15Error as exc:
                if first is None and not may_repeat(call, exc):
                    raise
                first = first or exc
                if call.has_streamed:
                    break
        assert first is not None
        raise first

    def _around(self, call: PredictionCall, engine: LMEngine, call_next: CallNext) -> CallNext:
        if self._user is None or engine is call.engine:
            return call_next
        return self._user.wrap_fallback(call.profile, engine.endpoint.profile, call_next)

    def _engines(self, call: PredictionCall) -> Iterator[LMEngine]:
        yield call.engine
        for name in self._profiles[call.profile].fallbacks:
            yield self._profiles.get_engine(name)

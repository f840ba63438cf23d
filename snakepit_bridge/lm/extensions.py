"""A profile's LM, which also takes LM keywords that DSPy's canonical request has no place for.

DSPy gives an engine of one's own a canonical request, and refuses what doesn't fit into one, such as ``min_p`` or
``thinking``; with its own engines it would have changed over to litellm. Here such keywords travel beside the request
and are put among its extensions, which go to the provider as they are.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

import dspy
from dspy.clients.backend_selection import CLIENT_KEYS
from dspy.lm15 import Request, UnsupportedFeatureError, request_from_openai_chat

from snakepit_bridge.lm import models as lm_models
from snakepit_bridge.lm.parts import MESSAGES, stood_for

# What DSPy takes out of a call's keywords before it makes a request of them.
_OF_DSPY = frozenset({"n", "rollout_id", "num_generations", "prompt_cache", "cache", "request"}) | CLIENT_KEYS


@dataclass(frozen=True, slots=True)
class _Beside:
    """What travels beside a request: what it has no place for, and the sample that is asked for."""

    keywords: Mapping[str, Any]
    rollout_id: int | None
    messages: list[Any] | None = None


_beside: ContextVar[_Beside | None] = ContextVar("dspex_lm_keywords", default=None)


class ExtendedLM(dspy.LM):
    """A ``dspy.LM`` on an engine of ours."""

    def __call__(self, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
        """Returns the LM's outputs."""
        messages, beside = self._taken(messages, kwargs)
        if beside is None:
            return super().__call__(prompt, messages=messages, **kwargs)
        token = _beside.set(beside)
        try:
            return super().__call__(prompt, messages=messages, **kwargs, **dict.fromkeys(beside.keywords))
        finally:
            _beside.reset(token)

    async def acall(self, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
        """Returns the LM's outputs."""
        messages, beside = self._taken(messages, kwargs)
        if beside is None:
            return await super().acall(prompt, messages=messages, **kwargs)
        token = _beside.set(beside)
        try:
            return await super().acall(prompt, messages=messages, **kwargs, **dict.fromkeys(beside.keywords))
        finally:
            _beside.reset(token)

    def _taken(self, messages: Any, kwargs: dict[str, Any]) -> tuple[Any, _Beside | None]:
        """Takes out what no request has a place for; DSPy leaves out keywords that are None."""
        rollout = kwargs.get("rollout_id", self.kwargs.get("rollout_id"))
        extra: dict[str, Any] = {}
        if not isinstance(kwargs.get("request"), Request):
            for name in list(kwargs):
                spelling = lm_models.spelt(self.model, name)
                if spelling != name:
                    kwargs[spelling] = kwargs.pop(name)
            extra = {name: value for name, value in self.kwargs.items() if not _has_a_place(name)}
            extra |= {name: kwargs.pop(name) for name in [name for name in kwargs if not _has_a_place(name)]}
        said = {name: value for name, value in extra.items() if value is not None}
        standing = stood_for(messages) if self.model_type == "chat" else None
        whole = None if standing is None else messages
        beside = _Beside(said, rollout, whole) if said or whole or rollout is not None else None
        return messages if standing is None else standing, beside


def with_extensions(request: Request) -> Request:
    """Returns a request with the keywords, and the messages, that its call brought beside it."""
    beside = _beside.get()
    if beside is None or not (beside.keywords or beside.messages):
        return request
    extensions = {**(request.config.extensions or {}), **beside.keywords}
    if beside.messages:
        extensions[MESSAGES] = beside.messages
    return replace(request, config=replace(request.config, extensions=extensions))


def rollout_id() -> int | None:
    """Returns the sample that the current call asks for, None where it doesn't say."""
    beside = _beside.get()
    return None if beside is None else beside.rollout_id


@functools.lru_cache(maxsize=1024)
def _has_a_place(keyword: str) -> bool:
    """Whether DSPy's canonical request has a place for an LM keyword."""
    if keyword in _OF_DSPY:
        return True
    try:
        request_from_openai_chat({"model": "openai/any", "messages": [{"role": "user", "content": ""}], keyword: None})
    except UnsupportedFeatureError:
        return False
    return True

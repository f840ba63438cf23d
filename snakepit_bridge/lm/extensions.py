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
from dspy.lm15 import Request, UnsupportedFeatureError, request_from_openai_chat

from snakepit_bridge.lm import models as lm_models
from snakepit_bridge.lm.compat import CLIENT_KEYS
from snakepit_bridge.lm.parts import MESSAGES, replace_opaque_parts

# What DSPy takes out of a call's keywords before it makes a request of them.
_DSPY_KEYWORDS = frozenset({"n", "rollout_id", "num_generations", "prompt_cache", "cache", "request"}) | CLIENT_KEYS


@dataclass(frozen=True, slots=True)
class _Extensions:
    """What travels beside a request: what it has no place for, and the sample that is asked for."""

    keywords: Mapping[str, Any]
    rollout_id: int | None
    messages: list[Any] | None = None


_extensions: ContextVar[_Extensions | None] = ContextVar("dspex_lm_keywords", default=None)


class ExtendedLM(dspy.LM):
    """A ``dspy.LM`` on an engine of ours."""

    def __call__(self, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
        """Return the LM's outputs."""
        messages, beside = self._take_extensions(messages, kwargs)
        if beside is None:
            return super().__call__(prompt, messages=messages, **kwargs)
        token = _extensions.set(beside)
        try:
            return super().__call__(prompt, messages=messages, **kwargs, **dict.fromkeys(beside.keywords))
        finally:
            _extensions.reset(token)

    async def acall(self, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
        """Return the LM's outputs."""
        messages, beside = self._take_extensions(messages, kwargs)
        if beside is None:
            return await super().acall(prompt, messages=messages, **kwargs)
        token = _extensions.set(beside)
        try:
            return await super().acall(prompt, messages=messages, **kwargs, **dict.fromkeys(beside.keywords))
        finally:
            _extensions.reset(token)

    def _take_extensions(self, messages: Any, kwargs: dict[str, Any]) -> tuple[Any, _Extensions | None]:
        """Take out what no request has a place for; DSPy leaves out keywords that are None."""
        rollout = kwargs.get("rollout_id", self.kwargs.get("rollout_id"))
        extra: dict[str, Any] = {}
        if not isinstance(kwargs.get("request"), Request):
            for name in list(kwargs):
                spelling = lm_models.native_name(self.model, name)
                if spelling != name:
                    kwargs[spelling] = kwargs.pop(name)
            extra = {name: value for name, value in self.kwargs.items() if not _is_canonical(name)}
            extra |= {name: kwargs.pop(name) for name in [name for name in kwargs if not _is_canonical(name)]}
        said = {name: value for name, value in extra.items() if value is not None}
        standing = replace_opaque_parts(messages) if self.model_type == "chat" else None
        whole = None if standing is None else messages
        beside = _Extensions(said, rollout, whole) if said or whole or rollout is not None else None
        return messages if standing is None else standing, beside


def add_extensions(request: Request) -> Request:
    """Return a request with the keywords, and the messages, that its call brought beside it."""
    beside = _extensions.get()
    if beside is None or not (beside.keywords or beside.messages):
        return request
    extensions = {**(request.config.extensions or {}), **beside.keywords}
    if beside.messages:
        extensions[MESSAGES] = beside.messages
    return replace(request, config=replace(request.config, extensions=extensions))


def get_rollout_id() -> int | None:
    """Return the sample that the current call asks for, None where it doesn't say."""
    beside = _extensions.get()
    return None if beside is None else beside.rollout_id


@functools.lru_cache(maxsize=1024)
def _is_canonical(keyword: str) -> bool:
    """Return whether DSPy's canonical request has a place for an LM keyword."""
    if keyword in _DSPY_KEYWORDS:
        return True
    try:
        request_from_openai_chat({"model": "openai/any", "messages": [{"role": "user", "content": ""}], keyword: None})
    except UnsupportedFeatureError:
        return False
    except (TypeError, ValueError):
        return True  # it is known, and None isn't a value of it
    return True

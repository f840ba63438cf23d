"""A profile's LM, which also takes LM keywords that DSPy's canonical request has no field for.

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

# Keywords that DSPy removes from a call before it builds the request.
_DSPY_KEYWORDS = frozenset({"n", "rollout_id", "num_generations", "prompt_cache", "cache", "request"}) | CLIENT_KEYS


@dataclass(frozen=True, slots=True)
class _Extensions:
    """What a call carries beside its request: keywords without a field, the rollout id, the original messages."""

    keywords: Mapping[str, Any]
    rollout_id: int | None
    messages: list[Any] | None = None


_extensions: ContextVar[_Extensions | None] = ContextVar("dspex_lm_keywords", default=None)


class ExtendedLM(dspy.LM):
    """A ``dspy.LM`` on an :class:`~.engine.LMEngine`."""

    def __call__(self, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
        """Return the LM's outputs."""
        messages, extras = self._take_extensions(messages, kwargs)
        if extras is None:
            return super().__call__(prompt, messages=messages, **kwargs)
        token = _extensions.set(extras)
        try:
            return super().__call__(prompt, messages=messages, **kwargs, **dict.fromkeys(extras.keywords))
        finally:
            _extensions.reset(token)

    async def acall(self, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
        """Return the LM's outputs."""
        messages, extras = self._take_extensions(messages, kwargs)
        if extras is None:
            return await super().acall(prompt, messages=messages, **kwargs)
        token = _extensions.set(extras)
        try:
            return await super().acall(prompt, messages=messages, **kwargs, **dict.fromkeys(extras.keywords))
        finally:
            _extensions.reset(token)

    def _take_extensions(self, messages: Any, kwargs: dict[str, Any]) -> tuple[Any, _Extensions | None]:
        """Take out what the request has no field for; DSPy ignores keywords that are None."""
        rollout = kwargs.get("rollout_id", self.kwargs.get("rollout_id"))
        extra: dict[str, Any] = {}
        if not isinstance(kwargs.get("request"), Request):
            for name in list(kwargs):
                spelling = lm_models.native_name(self.model, name)
                if spelling != name:
                    kwargs[spelling] = kwargs.pop(name)
            extra = {name: value for name, value in self.kwargs.items() if not _is_canonical(name)}
            extra |= {name: kwargs.pop(name) for name in [name for name in kwargs if not _is_canonical(name)]}
        keywords = {name: value for name, value in extra.items() if value is not None}
        replaced = replace_opaque_parts(messages) if self.model_type == "chat" else None
        original = None if replaced is None else messages
        extras = _Extensions(keywords, rollout, original) if keywords or original or rollout is not None else None
        return messages if replaced is None else replaced, extras


def add_extensions(request: Request) -> Request:
    """Return a request with the current call's keywords and messages among its extensions."""
    extras = _extensions.get()
    if extras is None or not (extras.keywords or extras.messages):
        return request
    extensions = {**(request.config.extensions or {}), **extras.keywords}
    if extras.messages:
        extensions[MESSAGES] = extras.messages
    return replace(request, config=replace(request.config, extensions=extensions))


def get_rollout_id() -> int | None:
    """Return the rollout id of the current call, None if it has none."""
    extras = _extensions.get()
    return None if extras is None else extras.rollout_id


@functools.lru_cache(maxsize=1024)
def _is_canonical(keyword: str) -> bool:
    """Check whether DSPy's canonical request has a field for an LM keyword."""
    if keyword in _DSPY_KEYWORDS:
        return True
    try:
        request_from_openai_chat({"model": "openai/any", "messages": [{"role": "user", "content": ""}], keyword: None})
    except UnsupportedFeatureError:
        return False
    except (TypeError, ValueError):
        return True  # it is known, and None isn't a value of it
    return True

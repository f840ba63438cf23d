"""A profile's LM, which also takes LM keywords that DSPy's canonical request has no field for.

DSPy gives an engine of one's own a canonical request, and refuses what doesn't fit into one, such as ``min_p`` or
``thinking``; with its own engines it would have changed over to litellm. Here such keywords travel beside the request
and are put among its extensions, which go to the provider as they are.

It has no field for some message parts either: audio, named files, documents, custom types. DSPy's own engines send such
messages through litellm unchanged. Here the request holds short placeholder texts for these parts, so that it can be
rate-limited, retried and cached like any request, and the original messages travel in its extensions until it is sent.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, cast

import dspy
from dspy.lm15 import Request, UnsupportedFeatureError, request_from_openai_chat

from snakepit_bridge.lm import models as lm_models
from snakepit_bridge.lm.compat import CLIENT_KEYS, call_on_loop

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
            return await self._call(prompt, messages, kwargs)
        token = _extensions.set(extras)
        try:
            return await self._call(prompt, messages, {**kwargs, **dict.fromkeys(extras.keywords)})
        finally:
            _extensions.reset(token)

    async def _call(self, prompt: Any, messages: Any, kwargs: dict[str, Any]) -> Any:
        """Call the LM; on a worker without DSPy's trips to a thread, which cost as much as the rest of its work."""
        if self._needs_no_thread(prompt, kwargs):
            was_called, outputs = await call_on_loop(self, prompt, messages, kwargs)
            if was_called:
                return outputs
        return await super().acall(prompt, messages=messages, **kwargs)

    def _needs_no_thread(self, prompt: Any, kwargs: Mapping[str, Any]) -> bool:
        """Check whether DSPy would only estimate a price in a thread, and nobody sees that."""
        settings: Any = dspy.settings
        return (
            getattr(self._async_engine_spec, "has_middleware", False)
            and settings.disable_history
            and settings.send_stream is None
            and not (settings.callbacks or self.callbacks)
            and not isinstance(prompt, Request)
            and "request" not in kwargs
        )

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


MESSAGES = "dspex_messages"
"""The extension that holds the original messages. It is never sent under this name."""

# The parts that the canonical request, and each of DSPy's clients, can represent.
_CANONICAL = frozenset({"text", "image_url"})


def replace_opaque_parts(messages: Any) -> Any | None:
    """Return messages with placeholders for the parts that have no canonical form; None if there are no such parts."""
    if not isinstance(messages, list) or not any(_has_opaque_parts(message) for message in cast("list[Any]", messages)):
        return None
    return [
        _replace_in_message(message) if _has_opaque_parts(message) else message
        for message in cast("list[Any]", messages)
    ]


def split_original_messages(request: Request) -> tuple[Request, list[Any] | None]:
    """Return a request without the original messages in its extensions, and those messages, or None."""
    extensions: Mapping[str, Any] = request.config.extensions or {}
    if MESSAGES not in extensions:
        return request, None
    left = {name: value for name, value in extensions.items() if name != MESSAGES}
    return replace(request, config=replace(request.config, extensions=left or None)), list(
        cast("list[Any]", extensions[MESSAGES])
    )


def _has_opaque_parts(message: Any) -> bool:
    content = cast("Mapping[str, Any]", message).get("content") if isinstance(message, dict) else None
    return isinstance(content, list) and any(map(_is_opaque, cast("Sequence[Any]", content)))


def _is_opaque(part: Any) -> bool:
    return isinstance(part, dict) and cast("dict[str, Any]", part).get("type") not in _CANONICAL


def _replace_in_message(message: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **message,
        "content": [_make_placeholder(message) if _is_opaque(message) else message for message in message["content"]],
    }


def _make_placeholder(part: Mapping[str, Any]) -> dict[str, str]:
    digest = hashlib.sha256(json.dumps(part, sort_keys=True, default=str).encode()).hexdigest()
    return {"type": "text", "text": f"[{part.get('type')} {digest}]"}

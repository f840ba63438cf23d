"""Writes an answer's values in the form that the asking adapter parses: the inverse of DSPy's own ``parse``."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, cast
from xml.sax.saxutils import escape

from snakepit_bridge.testing.lm.prompts import Style


def render(style: Style, values: Mapping[str, Any]) -> str:
    """Return the completion that carries these output values, in an adapter's form; ``plain`` joins them as text."""
    return _FORMS[style](values)


def as_text(value: Any) -> str:
    """Return one value the way a ChatAdapter field holds it: text bare, the rest as JSON, booleans as in Python."""
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, bool) else json.dumps(value, ensure_ascii=False, default=_plain)


def _plain(value: Any) -> Any:
    dump: Callable[..., Any] | None = getattr(value, "model_dump", None)
    return dump(mode="json") if dump else str(getattr(value, "value", value))


def _chat(values: Mapping[str, Any]) -> str:
    blocks = [f"[[ ## {name} ## ]]\n{as_text(value)}" for name, value in values.items()]
    return "\n\n".join([*blocks, "[[ ## completed ## ]]"])


def _json(values: Mapping[str, Any]) -> str:
    return json.dumps(dict(values), ensure_ascii=False, default=_plain)


def _xml(values: Mapping[str, Any]) -> str:
    return "\n".join(_element(name, value) for name, value in values.items())


def _element(tag: str, value: Any) -> str:
    if isinstance(value, Mapping):
        fields = cast(Mapping[str, Any], value)
        return f"<{tag}>{''.join(_element(name, part) for name, part in fields.items())}</{tag}>"
    if isinstance(value, list):
        return f"<{tag}>{''.join(_element('item', item) for item in cast('list[Any]', value))}</{tag}>"
    return f"<{tag}>{escape(as_text(value))}</{tag}>"


def _bare(values: Mapping[str, Any]) -> str:
    return "\n".join(as_text(value) for value in values.values())


_FORMS: Mapping[Style, Callable[[Mapping[str, Any]], str]] = {
    "chat": _chat,
    "json": _json,
    "xml": _xml,
    "plain": _bare,
}

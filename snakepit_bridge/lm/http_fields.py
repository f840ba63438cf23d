"""Checks of API keys, header values and URLs before they are sent. The messages never contain the value itself."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

_BREAKS = "\r\n"
_NAME = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")


def find_key_problem(key: str) -> str | None:
    """Return what is wrong with an API key, None if nothing is. The message doesn't contain the key."""
    if not key:
        return "is empty"
    if not key.strip():
        return "is blank"
    return _find_edge_problem(key) or find_value_problem(key) or _find_inner_problem(key)


def find_value_problem(value: str) -> str | None:
    """Return what is wrong with the value of a header, None if nothing is. The message doesn't contain the value."""
    if any(character in _BREAKS for character in value):
        return "holds a line break" if value.strip() == value else _find_edge_problem(value)
    if any((ord(character) < 32 and character != "\t") or ord(character) == 127 for character in value):
        return "holds a control character"
    if any(ord(character) > 255 for character in value):
        return "holds a character that no HTTP header can carry (outside Latin-1)"
    return None


def find_header_problem(name: str, value: object) -> str | None:
    """Return what is wrong with a header, None if nothing is."""
    if not name or not set(name) <= _NAME:
        return f"the name {name!r} isn't one of a header"
    if not isinstance(value, str):
        return f"{name} must be a text, not {type(value).__name__}"
    problem = find_value_problem(value)
    return None if problem is None else f"{name} {problem}"


def find_headers_problem(headers: Iterable[tuple[str, object]]) -> str | None:
    """Return what is wrong with the first invalid header, None if all are valid."""
    return next((problem for name, value in headers if (problem := find_header_problem(name, value))), None)


def find_url_problem(url: str) -> str | None:
    """Return what is wrong with the URL of an endpoint, None if nothing is. The message doesn't contain credentials."""
    if any(ord(character) <= 32 or ord(character) == 127 for character in url):
        return "holds a blank, a line break or a control character"
    if any(ord(character) > 255 for character in url):
        return "holds a character that must be percent-encoded"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "isn't a URL"
    if parts.scheme not in ("http", "https"):
        return "must begin with http:// or https://"
    if not parts.hostname or port == 0:
        return "names no host"
    return None


def _find_edge_problem(key: str) -> str | None:
    if key[-1] in _BREAKS:
        return "ends in a line break, as a file that is read whole does"
    if key[0] in _BREAKS:
        return "begins with a line break"
    if key[0].isspace() or key[-1].isspace():
        return "begins or ends with a blank"
    return None


def _find_inner_problem(key: str) -> str | None:
    if any(character.isspace() for character in key):
        return "holds a blank"
    if not key.isascii():
        return "holds a character that no key has (outside ASCII)"
    if key[0] in "'\"" and key[-1] == key[0]:
        return "stands in quotation marks, which are sent as a part of it"
    return None

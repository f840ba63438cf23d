"""Redaction: keeps secrets out of errors, logs, stored results and command lines.

Libraries quote what they were given: an HTTP client its headers, a broker its URL, a provider the key that it rejects.
So code that reads a secret registers it here, and every text that leaves a process goes through ``redact``: this
project's errors when they are created, log records in processes that call ``redact_logs``, and results when they are
stored. Secrets that weren't registered are recognised by their form, if they have one.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import re
import sys
import threading
import traceback
from collections.abc import Iterable, Mapping
from functools import cache
from types import TracebackType
from typing import Any, cast
from urllib.parse import parse_qsl, quote, unquote

MASK = "***"

# Shorter secrets may be ordinary words; those between the two lengths are masked as whole words only.
_MIN_CHARACTERS = 4
_MIN_SUBSTRING_CHARACTERS = 8
# Placeholders that people write where a key or password is required but unused.
_PLACEHOLDERS = frozenset(
    {"empty", "none", "null", "dummy", "test", "fake", "local", "localhost", "ollama", "guest", "default", "secret"}
    | {"password", "changeme", "api-key", "api_key", "apikey", "no-key", "not-needed", "notneeded", "no-key-required"}
    | {"sk-no-key-required", "token", "redis", "admin", "user", "true", "false", "bearer"}
)
_SECRET_VARIABLES = re.compile(
    r"(?:^|_)(?:KEY|KEYS|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS)$", re.IGNORECASE
)
_SECRET_OPTIONS = re.compile(r"(?:key|token|secret|password|passwd|signature)$", re.IGNORECASE)

# The forms of unregistered secrets; the first group of each is kept.
_FORMS = (
    re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^\s/'\"<>]*(?=@)", re.IGNORECASE),
    re.compile(r"(\b(?:Bearer|Basic)\s+)(?=\S*[\d_=-])[^\s'\",;\\]{8,}"),
    re.compile(r"(\bpassword=)[^&#\s'\"]+", re.IGNORECASE),
    re.compile(
        r"((?:api[-_ ]?key|authorization|x-goog-api-key|access[-_]?token|client[-_]?secret)['\"]?\s*[:=]\s*b?['\"]?)"
        r"(?!\*\*\*)(?=[^\s'\"]*\d)[^\s'\",;&\\]{8,}",
        re.IGNORECASE,
    ),
    re.compile(r"(\b(?:sk|pk|rk|gsk|xai|hf|ghp|github_pat)[-_])[A-Za-z0-9_-]{16,}"),
)
# Searched before the forms are: most texts contain none of these.
_HINT = re.compile(r"://|Bearer|Basic|password=|key|author|token|secret|\b(?:sk|pk|rk|xai|hf|ghp)[-_]", re.IGNORECASE)

_lock = threading.Lock()
_spellings: frozenset[str] = frozenset()
_known: re.Pattern[str] | None = None
_log_patterns: tuple[re.Pattern[str], ...] = ()


# ---------------------------------------------------------------- registering secrets


def register_secret(value: str | None) -> None:
    """Mask a secret from now on, in every encoding in which a library may quote it.

    Placeholders (``EMPTY``, ``none``) and secrets of fewer than four characters aren't masked: they would match
    unrelated text.
    """
    if value is None or value.strip().casefold() in _PLACEHOLDERS:
        return
    _register(spelling for spelling in _spell(value) if len(spelling) >= _MIN_CHARACTERS)


def register_url(url: str) -> None:
    """Mask a URL's credentials: its password, and query options that are named like a secret."""
    _, _, rest = url.partition("://")
    user, _, password = rest.rpartition("@")[0].partition(":")
    if password:
        register_secret(password)
        register_secret(unquote(password))
        register_secret(base64.b64encode(f"{unquote(user)}:{unquote(password)}".encode()).decode())
    for name, value in parse_qsl(rest.partition("?")[2]):
        if _SECRET_OPTIONS.search(name):
            register_secret(value)


def register_headers(headers: Mapping[str, Any]) -> None:
    """Mask the values of HTTP headers, and the token after an authentication scheme."""
    for value in headers.values():
        register_secret(str(value))
        scheme, blank, token = str(value).strip().partition(" ")
        if blank and scheme.isalpha():
            register_secret(token)


def register_environment(environment: Mapping[str, str] | None = None) -> None:
    """Mask the environment's variables that are named like secrets, and the credentials of URLs such as proxies."""
    for name, value in (os.environ if environment is None else environment).items():
        if "://" in value:
            register_url(value)
        elif (
            _SECRET_VARIABLES.search(name)
            and len(value) >= _MIN_SUBSTRING_CHARACTERS
            and not value.startswith(("/", "."))
        ):
            register_secret(value)


def _register(spellings: Iterable[str]) -> None:
    global _spellings, _known
    with _lock:
        known = _spellings.union(spellings)
        if known != _spellings:
            # The longest first: one may be part of another.
            _known = re.compile("|".join(map(_to_pattern, sorted(known, key=len, reverse=True))))
            _spellings = known


def _to_pattern(spelling: str) -> str:
    escaped = re.escape(spelling)
    return escaped if len(spelling) >= _MIN_SUBSTRING_CHARACTERS else rf"(?<![A-Za-z0-9]){escaped}(?![A-Za-z0-9])"


def _spell(value: str) -> set[str]:
    """Return a text's encodings: as it is, stripped, line by line, and as in JSON, a Python literal or a URL."""
    texts = {value, value.strip(), *(line.strip() for line in value.splitlines())}
    quoted = {form(text) for text in texts for form in (_as_json, _as_literal, _as_bytes, _as_url)}
    return texts | quoted


def _as_json(text: str) -> str:
    return json.dumps(text)[1:-1]


def _as_literal(text: str) -> str:
    return repr(text)[1:-1]


def _as_bytes(text: str) -> str:
    return repr(text.encode(errors="replace"))[2:-1]


def _as_url(text: str) -> str:
    return quote(text, safe="", errors="replace")


# ---------------------------------------------------------------- redacting text


def redact(text: str) -> str:
    """Return a text with every known secret, and whatever looks like one, replaced by ``***``."""
    if _known is not None:
        text = _known.sub(MASK, text)
    if _HINT.search(text):
        for form in _FORMS:
            text = form.sub(rf"\g<1>{MASK}", text)
    return text


def redact_all(value: Any) -> Any:
    """Return a JSON value with each of its strings redacted."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {key: redact_all(each) for key, each in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, list | tuple):
        return type(value)(map(redact_all, cast("list[Any]", value)))
    return value


# ---------------------------------------------------------------- a process's output


class RedactedRecord(logging.LogRecord):
    """A log record whose message and traceback are redacted before any handler or formatter sees them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        try:
            message = super().getMessage()
        except Exception:  # noqa: BLE001 - a message that can't be formatted is reported by its handler
            return
        shown = redact_for_logs(message)
        if shown != message:
            self.msg, self.args = shown, None
        if self.exc_info and self.exc_info[0] is not None:
            self.exc_text = redact_for_logs("".join(traceback.format_exception(*self.exc_info))).rstrip("\n")
        if self.stack_info:
            self.stack_info = redact_for_logs(self.stack_info)


def redact_for_logs(text: str) -> str:
    """Return a text with secrets masked, and what the patterns for logs match."""
    text = redact(text)
    for pattern in _log_patterns:
        text = pattern.sub(MASK, text)
    return text


def redact_patterns_in_logs(patterns: Iterable[str]) -> None:
    """Mask in everything that this process logs what these regular expressions match, in place of earlier ones.

    Raises:
        re.error: one isn't a regular expression.
    """
    global _log_patterns
    _log_patterns = tuple(map(re.compile, patterns))


@cache
def redact_logs() -> None:
    """Redact everything that this process logs, and the tracebacks of uncaught exceptions, from now on.

    For the fleet's own processes; the library doesn't touch an application's logging.
    """
    register_environment()
    logging.setLogRecordFactory(RedactedRecord)
    sys.excepthook = _write_exception
    threading.excepthook = _write_thread_exception


def _write_exception(kind: type[BaseException], exc: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, exc, trace)
        return
    sys.stderr.write(redact_for_logs("".join(traceback.format_exception(kind, exc, trace))))


def _write_thread_exception(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is None or issubclass(args.exc_type, SystemExit):
        return
    name = args.thread.name if args.thread else "unknown"
    text = "".join(traceback.format_exception(args.exc_type, args.exc_value, args.exc_traceback))
    sys.stderr.write(redact_for_logs(f"Exception in thread {name}:\n{text}"))

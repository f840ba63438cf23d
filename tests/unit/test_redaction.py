"""A secret is masked in every spelling in which a library may quote it, and nothing else is."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from urllib.parse import quote

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from snakepit_bridge import redaction
from snakepit_bridge.exceptions import BridgeError, LMRefusedError, StoreUnavailableError
from snakepit_bridge.redaction import (
    RedactedRecord,
    redact,
    redact_all,
    register_environment,
    register_headers,
    register_secret,
    register_url,
)
from tests.harness.waiting import PATIENCE_S


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is forgotten with it."""
    monkeypatch.setattr(redaction, "_spellings", frozenset[str]())
    monkeypatch.setattr(redaction, "_known", None)


ODD = "k3y+/=\n\"quoted'\té ü~ canary"


@settings(deadline=None)  # a loaded machine may take any time for one example
@given(st.text(min_size=8).filter(lambda text: len(text.strip()) >= 8), st.text(), st.text())
def test_a_registered_secret_is_never_in_a_redacted_text(secret: str, before: str, after: str) -> None:
    assume(secret.strip().casefold() not in redaction._PLACEHOLDERS)  # which are no secrets
    register_secret(secret)
    for spelling in (
        secret,
        secret.strip(),
        json.dumps(secret)[1:-1],
        repr(secret)[1:-1],
        quote(secret.strip(), safe="", errors="replace"),
    ):
        if len(spelling) >= 8:
            assert spelling not in redact(f"{before} {spelling} {after}").replace("***", "")


def test_each_line_of_a_secret_and_its_spellings_are_masked() -> None:
    register_secret(ODD)
    for spelling in (ODD, repr(ODD), json.dumps(ODD), repr(f"Bearer {ODD}".encode()), *ODD.splitlines()):
        assert "canary" not in redact(f"header value: {spelling}!"), spelling


@pytest.mark.parametrize(
    ("url", "secret"),
    [
        ("redis://:canary-pass@host:6379/0", "canary-pass"),
        ("amqp://worker:canary%2Fslash@host//", "canary/slash"),
        ("http://user:canary-proxy@proxy:3128", "dXNlcjpjYW5hcnktcHJveHk="),
        ("redis://host/0?password=canary-option", "canary-option"),
        ("https://host/v1?api_key=canary-query", "canary-query"),
    ],
)
def test_credentials_of_a_url_are_masked_wherever_they_stand(url: str, secret: str) -> None:
    register_url(url)
    assert secret not in redact(f"could not authenticate with {secret} today")
    assert "canary" not in redact(f"connecting to {url}")


def test_header_values_are_masked_with_and_without_their_scheme() -> None:
    register_headers({"Authorization": "Token canary-header-token", "X-Team": "canary-team-value"})
    assert redact("sent canary-header-token for canary-team-value") == "sent *** for ***"


def test_the_environment_says_what_else_is_secret() -> None:
    register_environment(
        {"OPENAI_API_KEY": "canary-env-key", "HTTPS_PROXY": "http://me:canary-env-pass@p:1", "HOME": "/me"}
    )
    assert redact("canary-env-key canary-env-pass /me") == "*** *** /me"


@pytest.mark.parametrize(
    "text",
    [
        "Bearer sk-nobody-registered-1",
        "header 'Authorization': b'Basic dXNlcjp1bmtub3duMQ=='",
        "redis://:unregistered1@host refused",
        '{"api_key": "unregistered12345"}',
        "the key sk-proj-0123456789abcdefghij was refused",
    ],
)
def test_what_has_the_form_of_a_secret_is_masked_without_being_registered(text: str) -> None:
    masked = redact(text)
    assert "***" in masked
    assert not any(word in masked for word in ("registered1", "nobody", "dXNl", "0123456789"))


@pytest.mark.parametrize(
    "text",
    [
        "the bearer of bad news knows the key question: authorization is needed",
        "see https://example.com/a/@user and mail me@example.com",
        "Basic questions, Bearer tokens",
        "api_key_env names a variable that isn't set",
    ],
)
def test_ordinary_texts_stay_as_they_are(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize("key", ["EMPTY", "none", "x", "", None, "ollama"])
def test_what_stands_for_no_key_is_not_searched_for(key: str | None) -> None:
    register_secret(key)
    text = "EMPTY none x ollama"
    assert redact(text) == text


def test_a_short_secret_is_masked_as_a_whole_word_alone() -> None:
    register_secret("zork")
    assert redact("zork, zorkmid and azork") == "***, zorkmid and azork"


def test_errors_are_redacted_as_they_are_made() -> None:
    register_secret("canary-of-errors")
    plain = BridgeError("it said canary-of-errors")
    refused = LMRefusedError("openai/x", "auth", "no: canary-of-errors", 401)
    unavailable = StoreUnavailableError("redis://***@host", "canary-of-errors was wrong")
    for error in (plain, refused, unavailable):
        assert "canary" not in f"{error} {error!r} {error.args}"
    assert refused.message == "no: ***"


def test_stored_results_are_redacted_however_deep_the_text_is() -> None:
    register_secret("canary-of-results")
    stored = {"exc_message": ["a canary-of-results", ("b canary-of-results", 7)], "exc_type": None}
    assert redact_all(stored) == {"exc_message": ["a ***", ("b ***", 7)], "exc_type": None}


def test_a_log_record_is_redacted_with_its_arguments_and_its_traceback() -> None:
    register_secret("canary-of-logs")
    try:
        raise ValueError("canary-of-logs")
    except ValueError:
        record = RedactedRecord("n", logging.ERROR, "f", 1, "%s and %r", ("canary-of-logs", "x"), sys.exc_info())
    assert record.getMessage() == "*** and 'x'"
    assert "canary" not in logging.Formatter("%(message)s %(args)s").format(record)
    assert "ValueError: ***" in str(record.exc_text)


def test_an_ordinary_record_keeps_its_arguments() -> None:
    record = RedactedRecord("n", logging.INFO, "f", 1, "%s is %d", ("x", 7), None)
    assert (record.msg, record.args) == ("%s is %d", ("x", 7))


_PROCESS = """
import logging, threading
from snakepit_bridge.redaction import redact_logs, register_secret
register_secret("canary-of-processes"); redact_logs()
logging.basicConfig()
logging.getLogger("celery").error("no canary-of-processes", exc_info=ValueError("canary-of-processes"))
def fail(): raise RuntimeError("canary-of-processes")
thread = threading.Thread(target=fail); thread.start(); thread.join()
fail()
"""


def test_what_ends_a_process_or_a_thread_is_redacted() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PROCESS], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 1
    assert done.stderr.count("***") >= 4
    assert "RuntimeError: ***" in done.stderr
    # The source lines of the traceback quote the program text above, which names it.
    assert "canary" not in "".join(line for line in done.stderr.splitlines() if not line.startswith("    "))


def test_secrets_are_registered_from_many_threads_at_once() -> None:
    threads = [threading.Thread(target=register_secret, args=(f"canary-thread-{n}",)) for n in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(redact(f"canary-thread-{n}") == "***" for n in range(50))

"""Each form of a line has the fields of the running prediction, and shows none that it should mask."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Generator
from typing import Any

import pytest

from config.settings import FleetSettings
from snakepit_bridge import redaction
from workers.logs.formatters import ConsoleFormatter, FieldSource, JsonFormatter, build_formatter
from workers.logs.setup import SERVICE_FORMAT

CONTEXT = {"task_id": "t-1", "session": "user-1", "token": "1.7", "program": "qa", "trace_id": "ab", "span_id": "cd"}
FORM = "%(levelname)s %(message)s"


@pytest.fixture(autouse=True)
def no_patterns() -> Generator[None]:
    yield
    redaction.redact_patterns_in_logs(())


def record(message: str = "text", name: str = "acme", exc_info: Any = None, **extra: Any) -> logging.LogRecord:
    logged = redaction.RedactedRecord(name, logging.INFO, "file.py", 1, message, (), exc_info)
    logged.__dict__.update(extra)
    return logged


def source(**context: str) -> FieldSource:
    return FieldSource(lambda: context)


def in_json(logged: logging.LogRecord, **context: str) -> dict[str, Any]:
    return json.loads(JsonFormatter(source(**context)).format(logged))


def test_a_line_of_json_has_each_field_that_is_known() -> None:
    line = in_json(record(), **CONTEXT)
    assert {name: line[name] for name in CONTEXT} == CONTEXT
    assert (line["level"], line["logger"], line["message"]) == ("INFO", "acme", "text")
    assert line["time"].endswith("+00:00")
    assert not in_json(record(), **{**CONTEXT, "token": ""}).keys() & {"token"}
    assert not in_json(record()).keys() & CONTEXT.keys()


def test_a_line_of_text_has_them_behind_its_message_and_before_its_traceback() -> None:
    formatter = ConsoleFormatter(source(**CONTEXT), FORM)
    shown = " [task_id=t-1 session=user-1 token=1.7 program=qa trace_id=ab span_id=cd]"
    assert formatter.format(record()) == f"INFO text{shown}"
    assert ConsoleFormatter(source(), FORM).format(record()) == "INFO text"
    try:
        raise LookupError("lost")
    except LookupError:
        lines = formatter.format(record(exc_info=sys.exc_info())).splitlines()
    assert (lines[0], lines[-1]) == (f"INFO text{shown}", "LookupError: lost")


def test_a_name_that_a_client_chose_breaks_no_line() -> None:
    hostile = 'a b\nERROR forged "x"'
    text = ConsoleFormatter(source(session=hostile), FORM).format(record())
    assert text == r'INFO text [session="a b\nERROR forged \"x\""]'
    assert "\n" not in JsonFormatter(source(session=hostile)).format(record(message="one\ntwo"))


def test_a_traceback_is_a_field_of_json() -> None:
    try:
        raise LookupError("lost")
    except LookupError:
        line = in_json(record(exc_info=sys.exc_info()))
    assert line["exception"].endswith("LookupError: lost")


def test_only_the_fleets_own_loggers_set_fields_by_themselves() -> None:
    extra: dict[str, Any] = {"task_id": "t-2", "outcome": "ok", "cost_usd": None, "inputs": "private"}
    line = in_json(record(name="tasks.prediction_log", **extra), **CONTEXT)
    assert (line["task_id"], line["outcome"], line["session"]) == ("t-2", "ok", "user-1")
    assert not {"cost_usd", "inputs"} & line.keys()
    assert in_json(record(name="acme", **extra), **CONTEXT)["task_id"] == "t-1"
    assert "outcome" not in in_json(record(name="acme", **extra))


def test_celerys_lines_about_a_message_name_its_task() -> None:
    received = record(name="celery.worker.strategy", data={"id": "t-3", "args": "private"})
    assert in_json(received)["task_id"] == "t-3"
    assert "private" not in JsonFormatter(source()).format(received)


@pytest.mark.parametrize("form", ["console", "json"])
def test_what_the_setting_names_is_masked(form: str) -> None:
    settings = FleetSettings.model_validate({"log": form, "log_redact": r"program \b\d{13,16}\b user\s\w+"})
    context = {**CONTEXT, "session": "4111111111111111"}
    formatter = build_formatter(settings.log, settings.log_redactions, lambda: context, SERVICE_FORMAT)
    try:
        raise LookupError("card 4111111111111111")
    except LookupError:
        text = formatter.format(record("user bob paid with 4111111111111111 not 411", exc_info=sys.exc_info()))
    assert "4111111111111111" not in text
    assert "*** paid with *** not 411" in text
    assert "LookupError: card ***" in text
    for name, value in {"session": "***", "program": "***", "token": "1.7"}.items():
        assert (f'"{name}": "{value}"' if form == "json" else f"{name}={value}") in text


def test_a_key_is_masked_without_a_setting() -> None:
    redaction.register_secret("correct-horse-battery")
    assert in_json(record("key correct-horse-battery"), session="correct-horse-battery")["session"] == "***"
    assert "correct-horse" not in JsonFormatter(source()).format(record("key correct-horse-battery"))

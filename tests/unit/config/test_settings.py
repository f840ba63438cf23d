"""The settings: what each one is called, what it is without being said, what it refuses, and what it never shows."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from config.settings import FleetSettings

DEFAULTS: dict[str, Any] = {
    "redis": "redis://localhost:6379/0",
    "broker": "redis://localhost:6379/0",
    "broker_url": None,
    "encryption_keys": None,
    "encryption_keys_file": None,
    "encryption_accepts_plain": False,
    "signing_keys": None,
    "signing_keys_file": None,
    "namespace": "dspex",
    "queue": "predictions",
    "lm_profiles": None,
    "lm": None,
    "allowed_packages": (),
    "imports": (),
    "lm_middleware": (),
    "payload_bytes": 262_144,
    "batch_in_flight": 2_000,
    "value_depth": 100,
    "value_bytes": 67_108_864,
    "result_expires_s": 86_400,
    "audit_entries": 100_000,
    "requirement_wait_s": 5.0,
    "outage": "fail",
    "bridge": None,
    "watch_lease_s": 1.0,
    "max_sessions": 10_000,
    "redis_timeout_s": 5.0,
    "task_attempts": None,
    "retry_for_s": None,
    "retry_backoff_s": 1.0,
    "lease_s": 5.0,
    "max_deliveries": 5,
    "hold_limit_s": 3_600.0,
    "sandbox_cpu_s": 60,
    "sandbox_wall_s": 600,
    "sandbox_memory_mb": 512,
    "stall_limit_s": 20.0,
    "build_limit_s": 60.0,
    "stop_grace_s": 50.0,
    "supervisor_grace_s": None,
    "own_lms": False,
    "capture_lm_calls": False,
    "log_content": False,
    "log": "console",
    "log_redact": None,
    "log_predictions_per_s": 10.0,
    "metric_labels": (),
    "trace_url": None,
    "health_address": None,
    "cost_days": 35,
}

# Field, what the environment says, what is read from that.
SAID: list[tuple[str, str, Any]] = [
    ("redis", "redis://:pw@r:1/2", "redis://:pw@r:1/2"),
    ("broker", "amqp://b", "amqp://b"),
    ("encryption_keys", "a:aaaa", SecretStr("a:aaaa")),
    ("encryption_keys_file", "/etc/keys", Path("/etc/keys")),
    ("encryption_accepts_plain", "true", True),
    ("signing_keys", "a:aaaa", SecretStr("a:aaaa")),
    ("signing_keys_file", "/etc/keys", Path("/etc/keys")),
    ("namespace", "team-a_1.x", "team-a_1.x"),
    ("queue", "q", "q"),
    ("lm_profiles", "/etc/lm.toml", Path("/etc/lm.toml")),
    ("lm", "openai/gpt-4o", "openai/gpt-4o"),
    ("allowed_packages", "shop, shop_tools ,,", ("shop", "shop_tools")),
    ("imports", "shop.targets, shop.tools", ("shop.targets", "shop.tools")),
    ("lm_middleware", "shop.lm:Mask,shop.lm:count", ("shop.lm:Mask", "shop.lm:count")),
    ("payload_bytes", "1000", 1000),
    ("batch_in_flight", "16", 16),
    ("value_depth", "20", 20),
    ("value_bytes", "1000", 1_000),
    ("result_expires_s", "1", 1),
    ("audit_entries", "1000", 1_000),
    ("requirement_wait_s", "0", 0.0),
    ("outage", "serve_stale(2.5)", "serve_stale(2.5)"),
    ("bridge", "elixir:50051", "elixir:50051"),
    ("watch_lease_s", "0.25", 0.25),
    ("max_sessions", "1", 1),
    ("redis_timeout_s", "0.5", 0.5),
    ("task_attempts", "1", 1),
    ("retry_for_s", "0.5", 0.5),
    ("retry_backoff_s", "0.1", 0.1),
    ("lease_s", "2.5", 2.5),
    ("max_deliveries", "1", 1),
    ("hold_limit_s", "60", 60.0),
    ("sandbox_cpu_s", "5", 5),
    ("sandbox_wall_s", "30", 30),
    ("sandbox_memory_mb", "64", 64),
    ("stall_limit_s", "5", 5.0),
    ("build_limit_s", "5", 5.0),
    ("stop_grace_s", "5", 5.0),
    ("supervisor_grace_s", "60", 60.0),
    ("own_lms", "true", True),
    ("capture_lm_calls", "true", True),
    ("log_content", "true", True),
    ("log", "json", "json"),
    ("log_redact", r"session \b\d{13,16}\b", r"session \b\d{13,16}\b"),
    ("log_predictions_per_s", "0.5", 0.5),
    ("metric_labels", "dspex.session", ("dspex.session",)),
    ("trace_url", "https://traces.example/{trace_id}", "https://traces.example/{trace_id}"),
    ("health_address", "0.0.0.0:8063", "0.0.0.0:8063"),
    ("cost_days", "0", 0),
]

REFUSED: list[tuple[str, str]] = [
    ("namespace", "a:b"),
    ("namespace", "{s}"),
    ("namespace", "x" * 51),
    ("payload_bytes", "0"),
    ("cost_days", "36"),
    ("cost_days", "-1"),
    ("batch_in_flight", "0"),
    ("value_depth", "0"),
    ("value_depth", "1000"),
    ("value_bytes", "0"),
    ("result_expires_s", "0"),
    ("audit_entries", "999"),
    ("result_expires_s", "a day"),
    ("requirement_wait_s", "-1"),
    ("outage", "shrug"),
    ("outage", "serve_stale"),
    ("outage", "serve_stale(-1)"),
    ("watch_lease_s", "0"),
    ("max_sessions", "0"),
    ("redis_timeout_s", "0"),
    ("redis_timeout_s", "soon"),
    ("task_attempts", "0"),
    ("retry_for_s", "0"),
    ("retry_backoff_s", "0"),
    ("lease_s", "0.5"),
    ("max_deliveries", "0"),
    ("hold_limit_s", "0"),
    ("sandbox_cpu_s", "0"),
    ("sandbox_wall_s", "0"),
    ("sandbox_memory_mb", "63"),
    ("sandbox_memory_mb", "4097"),
    ("stall_limit_s", "0"),
    ("build_limit_s", "0"),
    ("stop_grace_s", "0"),
    ("own_lms", "sometimes"),
    ("log_content", "loudly"),
    ("capture_lm_calls", "loudly"),
    ("trace_url", "https://traces.example/"),
    ("trace_url", "javascript:alert({trace_id})"),
    ("log", "xml"),
    ("log_redact", "session (unclosed"),
    ("log_redact", "a*"),
    ("log_predictions_per_s", "-1"),
]


def variable(field: str) -> str:
    return {"redis": "DSPEX_REDIS_URL", "broker": "DSPEX_BROKER_URL"}.get(field, f"DSPEX_{field.upper()}")


def read() -> FleetSettings:
    return FleetSettings.model_validate({})


@pytest.fixture(autouse=True)
def silent_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith("DSPEX_")]:
        monkeypatch.delenv(name)


def test_every_field_stands_in_these_tests() -> None:
    assert set(FleetSettings.model_fields) == {*DEFAULTS, "redis_url"} - {"redis", "broker"}
    assert {field for field, *_ in SAID} == set(DEFAULTS) - {"broker_url"}


@pytest.mark.parametrize("field", DEFAULTS)
def test_a_field_has_its_default(field: str) -> None:
    assert getattr(read(), field) == DEFAULTS[field]


@pytest.mark.parametrize(("field", "text", "value"), SAID)
def test_a_field_is_read_from_its_environment_variable(
    field: str, text: str, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable(field), text)
    assert getattr(read(), field) == value
    assert type(getattr(read(), field)) is type(value)


@pytest.mark.parametrize(("field", "text"), REFUSED)
def test_a_value_that_cannot_be_is_refused_by_name(field: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable(field), text)
    with pytest.raises(ValidationError) as raised:
        read()
    (error,) = raised.value.errors()
    # In the message stands the field, and with it the variable.
    assert error["loc"] in {(field,), (variable(field),)}
    assert field in str(raised.value)


def test_the_broker_is_redis_unless_another_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSPEX_REDIS_URL", "redis://r/1")
    assert (read().broker, read().redis) == ("redis://r/1", "redis://r/1")
    monkeypatch.setenv("DSPEX_BROKER_URL", "")
    assert read().broker == "redis://r/1"
    monkeypatch.setenv("DSPEX_BROKER_URL", "amqp://b")
    assert (read().broker, read().redis) == ("amqp://b", "redis://r/1")


@pytest.mark.parametrize("field", DEFAULTS)
def test_a_variable_that_is_set_to_nothing_is_as_good_as_unset(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable(field), "")
    assert getattr(read(), field) == DEFAULTS[field]


def test_no_password_is_ever_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSPEX_REDIS_URL", "redis://:hunter2@r/1")
    monkeypatch.setenv("DSPEX_BROKER_URL", "amqp://me:hunter2@b")
    settings = read()
    for shown in (repr(settings), str(settings), repr(settings.model_dump()), settings.model_dump_json()):
        assert "hunter2" not in shown
    assert "hunter2" in settings.redis
    assert "hunter2" in settings.broker


def test_a_refusal_shows_no_password_of_another_field(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSPEX_REDIS_URL", "redis://:hunter2@r/1")
    monkeypatch.setenv("DSPEX_TASK_ATTEMPTS", "none")
    with pytest.raises(ValidationError) as raised:
        read()
    assert "hunter2" not in str(raised.value)


def test_settings_are_frozen() -> None:
    settings: Any = read()
    with pytest.raises(ValidationError, match="frozen"):
        settings.queue = "other"


def test_what_is_not_a_setting_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSPEX_DEMO_KEY", "a key that a profile names")
    monkeypatch.setenv("QUEUE", "not ours")
    assert read().queue == "predictions"

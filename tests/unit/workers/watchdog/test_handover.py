"""What a watchdog makes of what it was handed is what its worker has."""

from __future__ import annotations

from typing import Any

import pytest

from config.settings import FleetSettings
from workers.app import FleetApp, app
from workers.watchdog.ends import load_app
from workers.watchdog.handover import AppAccess, Descriptors, Handover
from workers.watchdog.servers import connect
from workers.watchdog.start import hand_over


def handed_over(app: FleetApp) -> Handover:
    return Handover.decode(hand_over(app, app.settings, "worker@host", Descriptors(3, 4, 5, None)).encode())


@pytest.mark.parametrize(
    ("url", "holds"),
    [
        ("redis://:secret-1@redis.example/2", True),
        ("rediss://user:secret-1@redis.example/2?ssl_cert_reqs=none&ssl_check_hostname=false", True),
        ("unix:///run/redis.sock?db=1", True),
        ("redis+sentinel://:secret-1@a.example,b.example/primary/1", True),
        ("amqp://user:secret-1@rabbit.example//", False),
    ],
)
def test_it_connects_to_the_broker_as_the_worker_does(url: str, holds: bool) -> None:
    name = "redis_url" if holds else "broker_url"
    worker = FleetApp(FleetSettings.model_validate({name: url}))
    handover = handed_over(worker)
    assert "secret-1" not in repr(handover)
    access = handover.broker_access
    theirs: Any = worker.connection_for_write()
    ours: Any = connect(access)
    assert access.holds is holds
    for aspect in ("ssl", "transport_cls", "transport_options", "connect_timeout"):
        assert getattr(ours, aspect) == getattr(theirs, aspect)
    assert ours.as_uri(include_password=True) == theirs.as_uri(include_password=True)


def test_it_has_the_settings_with_their_secrets() -> None:
    settings = FleetSettings.model_validate(
        {"redis_url": "redis://:secret-1@redis.example/2", "encryption_keys": "k1:c2VjcmV0", "namespace": "other"}
    )
    access = handed_over(FleetApp(settings)).app
    assert "c2VjcmV0" not in repr(access)
    assert FleetSettings.model_validate(access.settings) == settings


def test_the_app_is_found_by_the_name_of_its_module() -> None:
    access = handed_over(app).app
    assert load_app(access, with_tasks=True) is app
    assert load_app(access, with_tasks=False) is not app


def test_an_app_that_cannot_be_loaded_is_replaced(caplog: pytest.LogCaptureFixture) -> None:
    found = load_app(AppAccess("no.such.module:app", {"namespace": "other"}), with_tasks=True)
    assert found.settings.namespace == "other"
    assert "no.such.module:app can't be loaded" in caplog.text

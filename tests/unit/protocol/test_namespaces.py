"""Namespaces: both sides of a fleet derive the same queue and the same exchanges from its name."""

from __future__ import annotations

import pytest

from config.celery import celery_config
from config.settings import FleetSettings
from snakepit_bridge.client import Fleet
from snakepit_bridge.protocol.namespaces import DEFAULT_NAMESPACE, check_namespace, default_queue, exchanges

NAMES = ["dspex", "staging", "team-a_1.x", "dspex2"]


@pytest.mark.parametrize("namespace", NAMES)
def test_client_and_worker_derive_equal_names_from_a_namespace(namespace: str) -> None:
    settings = FleetSettings.model_validate({"namespace": namespace})
    conf = celery_config(settings)
    assert settings.queue == default_queue(namespace) == Fleet(namespace=namespace).queue == conf["task_default_queue"]
    assert {name: conf[name] for name in exchanges(namespace)} == exchanges(namespace)
    client = Fleet(namespace=namespace).app.conf
    assert (client.control_exchange, client.event_exchange) == (
        conf.get("control_exchange", "celery"),
        conf.get("event_exchange", "celeryev"),
    )


def test_no_two_namespaces_share_a_queue_or_an_exchange() -> None:
    queues = {default_queue(namespace) for namespace in NAMES}
    controls = {exchanges(namespace).get("control_exchange", "celery") for namespace in NAMES}
    assert (len(queues), len(controls)) == (len(NAMES), len(NAMES))


def test_the_default_namespace_keeps_celerys_names() -> None:
    assert default_queue(DEFAULT_NAMESPACE) == "predictions"
    assert exchanges(DEFAULT_NAMESPACE) == {}


def test_an_explicit_queue_takes_precedence() -> None:
    assert Fleet(namespace="staging", queue="q").queue == "q"
    assert FleetSettings.model_validate({"namespace": "staging", "queue": "q"}).queue == "q"


@pytest.mark.parametrize("namespace", ["", "a:b", "a b", "ä", "x" * 51, "{a}", "a*"])
def test_an_invalid_namespace_is_rejected(namespace: str) -> None:
    with pytest.raises(ValueError, match="A namespace is 1 to 50 letters"):
        check_namespace(namespace)
    with pytest.raises(ValueError, match="A namespace is 1 to 50 letters"):
        Fleet(namespace=namespace)

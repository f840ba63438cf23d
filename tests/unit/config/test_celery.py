"""Celery's configuration: what its values guarantee, as Celery and kombu themselves understand them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery
from celery.app.defaults import NAMESPACES, flatten
from kombu.exceptions import ContentDisallowed, EncodeError
from kombu.serialization import dumps, loads, prepare_accept_content

from config.celery import PRIORITY_STEPS, celery_config
from config.settings import FleetSettings
from snakepit_bridge.client.rabbitmq import CONFIRMED, RABBITMQ, make_queue
from snakepit_bridge.protocol.messages import DEFAULT_PRIORITY
from workers.broker import Channel


def configured(**settings: Any) -> Celery:
    app = Celery("fleet", set_as_current=False)
    app.conf.update(celery_config(FleetSettings.model_validate(settings)))
    return app


def test_every_key_is_one_that_celery_knows() -> None:
    known = {name for name, _ in flatten(NAMESPACES)}
    # The one is read by the Redis backend, and missing in Celery's own list.
    assert set(celery_config(FleetSettings.model_validate({}))) - known == {"redis_backend_health_check_interval"}
    app = configured(redis_url="redis://r/1")
    assert app.backend.connparams["health_check_interval"] == app.conf.redis_backend_health_check_interval


def test_the_settings_reach_celery() -> None:
    conf = configured(
        redis_url="redis://r/1",
        broker_url="redis://b",
        queue="q",
        result_expires_s=7,
        namespace="team",
        lease_s=2,
        max_deliveries=3,
        hold_limit_s=70,
    ).conf
    assert (conf.broker_url, conf.result_backend) == ("redis://b", "redis://r/1")
    assert (conf.task_default_queue, conf.result_expires) == ("q", 7)
    options = conf.broker_transport_options
    assert (options["delivery_key"], options["lease"]) == ("team:delivery", 2)
    assert (options["max_deliveries"], options["hold_limit"]) == (3, 70)


@pytest.mark.parametrize("scheme", RABBITMQ)
def test_rabbitmq_confirms_messages_and_knows_priorities(scheme: str) -> None:
    """A worker declares a queue as clients do, and takes a message for sent once the broker has it."""
    app = configured(redis_url="redis://r/1", broker_url=f"{scheme}b")
    assert app.conf.broker_transport_options == CONFIRMED
    app.amqp.queues.select(["q"])
    ours: Any = make_queue("q")
    theirs = app.amqp.queues["q"]
    assert (theirs.queue_arguments, theirs.exchange, theirs.routing_key) == (
        {"x-max-priority": ours.max_priority},
        ours.exchange,
        ours.routing_key,
    )


def test_what_no_url_names_goes_through_redis() -> None:
    conf = configured(redis_url="redis://r/1").conf
    assert conf.broker_url == conf.result_backend == "redis://r/1"


class Hostile:
    """Unpickled, it would raise."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return pytest.fail, ("a message was unpickled",)


@pytest.mark.parametrize("accepts", ["accept_content", "result_accept_content"])
def test_a_message_that_is_not_json_is_never_decoded(accepts: str) -> None:
    accepted = prepare_accept_content(configured().conf[accepts])
    content_type, encoding, pickled = dumps(Hostile(), serializer="pickle")
    with pytest.raises(ContentDisallowed):
        loads(pickled, content_type, encoding, accept=accepted)
    with pytest.raises(ContentDisallowed):
        loads("a: 1", "application/x-yaml", "utf-8", accept=accepted)
    content_type, encoding, text = dumps({"a": 1}, serializer="json")
    assert loads(text, content_type, encoding, accept=accepted) == {"a": 1}


def test_what_is_sent_is_json_too() -> None:
    conf = configured().conf
    for serializer in (conf.task_serializer, conf.result_serializer):
        assert dumps({"a": 1}, serializer=serializer)[:2] == ("application/json", "utf-8")
        with pytest.raises(EncodeError):
            dumps(object(), serializer=serializer)


def test_the_task_of_a_worker_that_dies_is_run_by_another() -> None:
    app = configured()

    def run() -> None: ...

    any_task: Any = app.task(name="any", shared=False)(run)
    assert any_task.acks_late
    assert any_task.reject_on_worker_lost
    # A task that fails in good order is done with: it has its result.
    assert any_task.acks_on_failure_or_timeout
    # A worker holds back none but what it is about to run.
    assert app.conf.worker_prefetch_multiplier == 1


def test_a_started_task_writes_no_result() -> None:
    app = configured()

    def run() -> None: ...

    any_task: Any = app.task(name="any", shared=False)(run)
    assert not any_task.track_started
    assert not any_task.ignore_result


def test_a_worker_waits_for_its_broker_for_ever_and_keeps_its_tasks_meanwhile() -> None:
    conf = configured().conf
    assert conf.broker_connection_retry
    assert conf.broker_connection_retry_on_startup
    assert conf.broker_connection_max_retries is None
    assert not conf.worker_cancel_long_running_tasks_on_connection_loss


def test_each_transport_option_is_one_that_the_channel_reads() -> None:
    assert set(configured().conf.broker_transport_options) <= set(Channel.from_transport_options)


def test_priorities_fall_into_steps_and_a_message_without_one_is_neither_first_nor_last() -> None:
    options = configured().conf.broker_transport_options
    assert options["priority_steps"] == list(PRIORITY_STEPS) == sorted({0, *PRIORITY_STEPS})
    assert configured().conf.task_default_priority == DEFAULT_PRIORITY


def test_a_half_dead_connection_is_noticed() -> None:
    conf = configured().conf
    options = conf.broker_transport_options
    assert options["socket_keepalive"]
    assert conf.redis_socket_keepalive
    assert 0 < options["health_check_interval"] <= 30
    assert 0 < conf.redis_backend_health_check_interval <= 30


def test_two_apps_share_no_options() -> None:
    first, second = (celery_config(FleetSettings.model_validate({})) for _ in range(2))
    first["broker_transport_options"]["priority_steps"].append(12)
    assert second["broker_transport_options"]["priority_steps"] == list(PRIORITY_STEPS)

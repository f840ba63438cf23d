"""Celery's configuration: what its values guarantee, as Celery and kombu themselves understand them."""

from __future__ import annotations

from kombu.connection import Connection
from kombu.entity import Queue
from kombu.message import Message

from tests.harness.waiting import PATIENCE_S
from tests.unit.config.test_celery import configured


def test_the_queues_of_a_worker_are_served_in_their_order_and_not_in_turn(redis_url: str) -> None:
    options = configured().conf.broker_transport_options
    queues = [Queue(name, exchange="", routing_key=name) for name in ("predictions", "predictions-batch")]
    served: list[str] = []

    def serve(body: str, message: Message) -> None:
        served.append(body)
        message.ack()

    with Connection(redis_url, transport_options=options) as connection, connection.Producer() as producer:
        for queue in reversed(queues):
            for _ in range(3):
                producer.publish(queue.name, routing_key=queue.name, declare=[queue])
        with connection.Consumer(queues, callbacks=[serve]) as consumer:
            consumer.qos(prefetch_count=1)
            while len(served) < 6:
                connection.drain_events(timeout=PATIENCE_S)
    assert served == ["predictions"] * 3 + ["predictions-batch"] * 3

"""The app: it is made from the environment alone, connects to nothing, and names the fleet's transport for Redis."""

from __future__ import annotations

import pytest

from tests.harness.waiting import PATIENCE_S
from tests.unit.workers.test_app import app_with
from workers.broker import Transport
from workers.dev.redis_server import EmbeddedRedis


@pytest.mark.parametrize(("scheme", "database"), [("unix", "db"), ("redis+socket", "virtual_host")])
def test_over_a_unix_socket_messages_and_results_arrive(scheme: str, database: str) -> None:
    with EmbeddedRedis.start(unix=True) as server:
        app = app_with(redis_url=f"{server.url.replace('unix', scheme)}?{database}=3")
        with app.connection() as connection, connection.SimpleQueue("predictions") as queue:
            assert isinstance(connection.transport, Transport)
            queue.put({"a": 1}, serializer="json")
            assert server.cli("INFO", "keyspace")["db3"]["keys"] > 0
            message = queue.get(timeout=PATIENCE_S)
            assert message.payload == {"a": 1}
            message.ack()
        app.backend.set("key", "value")
        assert app.backend.get("key") == b"value"

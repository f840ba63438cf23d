"""The connection: a broker that is back is found within seconds, however long it was away."""

from __future__ import annotations

from typing import Any

import pytest

from workers.app import app
from workers.broker.connection import Connection


def test_the_apps_connections_are_ours() -> None:
    assert type(app.connection_for_read()) is Connection
    assert type(app.connection_for_write().clone()) is Connection


def test_between_two_tries_it_waits_a_few_seconds_at_most() -> None:
    pauses: list[float] = []

    class Enough(Exception):
        pass

    def tell(_: Exception, pause: float) -> None:
        pauses.append(pause)
        if len(pauses) == 12:
            raise Enough

    connection: Any = Connection("redis://127.0.0.1:1/0", transport="workers.broker:Transport")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kombu.utils.functional.sleep", lambda _: None)
        with pytest.raises(Enough):
            # As Celery's consumer calls it.
            connection.ensure_connection(tell, None, callback=lambda: None)
    assert pauses[:3] == [0.5, 1.0, 1.5]
    assert max(pauses) == 3.0


def test_who_asks_for_other_pauses_gets_them() -> None:
    connection: Any = Connection("redis://127.0.0.1:1/0", transport="workers.broker:Transport")
    with pytest.raises(connection.connection_errors):
        connection.ensure_connection(max_retries=1, interval_start=0, interval_max=0, reraise_as_library_errors=False)

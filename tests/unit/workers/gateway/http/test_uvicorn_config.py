"""The sockets that the gateway listens on."""

from __future__ import annotations

import socket

import pytest

from snakepit_bridge.exceptions import ConfigurationError
from workers.gateway.http.uvicorn_config import listen


def test_answers_do_not_wait_for_the_clients_acknowledgement() -> None:
    with listen("127.0.0.1", 0) as listening, socket.create_connection(listening.getsockname()):
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_an_address_that_is_in_use_is_named() -> None:
    with listen("127.0.0.1", 0) as listening:
        port = listening.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"can't listen on 127.0.0.1:{port}: Address already in use"):
            listen("127.0.0.1", port)

"""What a user's type checker sees of the installed wheel: mypy and pyright find exactly what is marked."""

from __future__ import annotations

from typing import assert_type

from celery import Celery  # Celery has no types of its own

from dspex_fleet import FleetApp, FleetSettings, install
from snakepit_bridge.client import Fleet
from snakepit_bridge.client.handle import Handle
from snakepit_bridge.protocol.token import Token

app: FleetApp = install(Celery("shop"), FleetSettings(), pool="threads")
queue: str = app.settings.queue

fleet = Fleet("redis://localhost:6379/0")
token = fleet.session("checkout").blocking.set_variables({"temperature": 0.2})
assert_type(token, Token)
handle = fleet.submit("price", {"question": "?"}, session="checkout", at_least=token)
assert_type(handle, Handle)
revision: str = token.revision  # wrong: it is a number
fleet.submit("price", {"question": "?"}, deadline_s="soon")  # wrong: no such argument
install(Celery("shop"), "threads")  # wrong: a pool isn't the settings

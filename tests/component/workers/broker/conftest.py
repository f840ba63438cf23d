"""The transport's scripts run on Redis as well as on Valkey."""

from __future__ import annotations

from tests.harness.servers import on_each_server

pytest_generate_tests = on_each_server

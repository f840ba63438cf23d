"""The app: it is made from the environment alone, connects to nothing, and names the fleet's transport for Redis."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from config.settings import FleetSettings
from snakepit_bridge.exceptions import ConfigurationError
from snakepit_bridge.protocol.messages import PREDICT
from tests.harness.preloaded import run_preloaded
from workers.app import FleetApp
from workers.broker import Transport

ROOT = Path(__file__).parents[3]

LOOK = """
import json, socket, sys

class Refused(OSError):
    pass

def refuse(*args, **kwargs):
    raise Refused(f"importing the app connected to {args}")

socket.socket.connect = socket.socket.connect_ex = refuse

from workers.app import app
app.finalize()
print(json.dumps({
    "broker": app.conf.broker_url,
    "backend": app.conf.result_backend,
    "queue": app.conf.task_default_queue,
    "namespace": app.settings.namespace,
    "runtime": app.slot.built,
}))
"""


def environment(**env: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("DSPEX_")} | env


def app_with(**settings: Any) -> FleetApp:
    return FleetApp(FleetSettings.model_validate(settings))


def test_importing_the_app_connects_to_nothing_and_builds_no_runtime() -> None:
    env = environment(
        DSPEX_REDIS_URL="redis://:pw@127.0.0.1:1/3",
        DSPEX_QUEUE="q",
        DSPEX_NAMESPACE="team",
        # Not even the profiles are read: a client of the app has no need of them.
        DSPEX_LM_PROFILES="/nowhere/lm.toml",
    )
    # Not forked: none of what it imports may connect either.
    ran = subprocess.run([sys.executable, "-c", LOOK], cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == {
        "broker": "redis://:pw@127.0.0.1:1/3",
        "backend": "redis://:pw@127.0.0.1:1/3",
        "queue": "q",
        "namespace": "team",
        "runtime": False,
    }


def test_a_wrong_environment_ends_the_import_and_names_the_variable() -> None:
    env = environment(DSPEX_TASK_ATTEMPTS="none", DSPEX_REDIS_URL="redis://:hunter2@h")
    ran = run_preloaded([sys.executable, "-c", LOOK], cwd=ROOT, env=env)
    assert ran.returncode != 0
    assert "DSPEX_TASK_ATTEMPTS can't be 'none'" in ran.stderr
    assert "hunter2" not in ran.stderr + ran.stdout


@pytest.mark.parametrize(
    "url",
    [
        *("redis://127.0.0.1:1/0", "rediss://127.0.0.1:1/0", "valkey://127.0.0.1:1/0", "valkeys://127.0.0.1:1/0"),
        *("redis+socket:///nowhere", "unix:///nowhere"),
    ],
)
def test_over_redis_messages_go_through_the_fleets_transport(url: str) -> None:
    with app_with(redis_url=url).connection() as connection:
        assert isinstance(connection.transport, Transport)


def test_another_broker_keeps_its_own_transport() -> None:
    with app_with(broker_url="memory://").connection() as connection:
        assert not isinstance(connection.transport, Transport)
        assert connection.transport.driver_type == "memory"


def test_the_app_knows_the_fleets_task() -> None:
    app = app_with()
    app.loader.import_default_modules()
    assert PREDICT in app.tasks


def test_the_runtime_is_built_on_first_use_and_kept() -> None:
    app = app_with(redis_url="redis://127.0.0.1:1/0", lm="openai/demo", task_attempts=7)
    assert app.runtime is app.runtime
    assert app.runtime.profiles["default"].retry.attempts == 7


def test_apps_of_one_process_have_runtimes_of_their_own() -> None:
    assert app_with(task_attempts=1).runtime is not app_with(task_attempts=1).runtime


@pytest.mark.parametrize(
    ("settings", "reduced"),
    [({}, False), ({"redis_url": "unix:///tmp/r.sock"}, False), ({"broker_url": "amqp://b"}, True)],
)
def test_work_is_taken_up_at_once_after_a_lost_connection_where_the_transport_counts_what_runs(
    settings: dict[str, str], reduced: bool
) -> None:
    assert app_with(**settings).conf.worker_enable_prefetch_count_reduction is reduced


@pytest.mark.parametrize(
    ("given", "refused"),
    [
        ({"redis_url": "http://u:hunter2@h"}, "Can't read the Redis URL"),
        ({"redis_url": "redis://h", "broker_url": "http://u:hunter2@h"}, "Can't read the broker's URL"),
    ],
)
def test_servers_that_nothing_can_talk_to_are_refused_without_their_password(
    given: dict[str, str], refused: str
) -> None:
    with pytest.raises(ConfigurationError, match=refused) as raised:
        app_with(**given)
    assert "hunter2" not in str(raised.value)

"""The public names, and that an application which only enqueues loads neither DSPy nor gRPC."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

NAMES = {
    "snakepit_bridge": {"BridgeError", "SessionContext", "SessionError", "ValidationError", "VariableNotFoundError"},
    "snakepit_bridge.client": {"Fleet", "Handle"},
    "snakepit_bridge.variables": {"Constraints", "Tensor", "Variable", "VariableType"},
    "snakepit_bridge.dspy_integration": {
        "VariableAwareMixin",
        "VariableAwarePredict",
        "VariableAwareChainOfThought",
        "VariableAwareReAct",
        "VariableAwareProgramOfThought",
        "ModuleVariableResolver",
        "create_variable_aware_module",
    },
    "snakepit_bridge.session_context": {"SessionContext"},
    "snakepit_bridge.snapshots": {"SnapshotStore", "RedisStore", "MemoryStore", "open_store", "Head", "Change"},
    "snakepit_bridge.testing": {"RecordingLM", "Recorded", "scripted", "assert_sent", "Fault"},
}


@pytest.mark.parametrize("module", NAMES)
def test_a_public_module_has_its_names(module: str) -> None:
    loaded = importlib.import_module(module)
    for name in NAMES[module]:
        assert getattr(loaded, name)
    exported = set(getattr(loaded, "__all__", NAMES[module]))
    assert exported >= NAMES[module]
    assert [name for name in exported if not hasattr(loaded, name)] == []


@pytest.mark.parametrize("module", ["snakepit_bridge", "snakepit_bridge.client"])
def test_nothing_else_is_exported(module: str) -> None:
    assert set(importlib.import_module(module).__all__) == NAMES[module]


def test_a_name_that_there_is_not_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="snakepit_bridge.*nothing_of_that_name"):
        _ = importlib.import_module("snakepit_bridge").nothing_of_that_name


def test_the_fleets_front_door_takes_what_its_users_were_told() -> None:
    from snakepit_bridge.client import Fleet, Handle

    submit = inspect.signature(Fleet.submit).parameters
    assert list(submit)[:3] == ["self", "program", "inputs"]
    for name in ("session", "at_least", "exactly", "priority", "deadline", "idempotency_key"):
        assert submit[name].kind is inspect.Parameter.KEYWORD_ONLY
    assert submit["session"].default == "default"
    assert {"submit", "handle", "map", "signature", "program", "register", "session"} <= set(dir(Fleet))
    assert {"ready", "get", "cancel", "status", "__await__"} <= set(dir(Handle))


def loaded_by(code: str) -> set[str]:
    """Return the top-level packages that a fresh process has loaded after running the code."""
    report = "import json, sys; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "COV"))}
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_enqueuing_loads_neither_dspy_nor_grpc_nor_the_workers() -> None:
    code = """
from snakepit_bridge.client import Fleet, Handle
from snakepit_bridge.exceptions import StoreUnavailableError

fleet = Fleet("redis://127.0.0.1:1/0", timeout_s=0.3)
fleet.signature("qa", {"question": "why?"})
try:
    fleet.submit("qa", {"question": "why?"})
    raise SystemExit("nobody listens there")
except StoreUnavailableError:
    pass
"""
    loaded = loaded_by(code)
    assert "celery" in loaded
    assert loaded & {"dspy", "grpc", "litellm", "openai", "numpy", "workers", "tasks", "config"} == set()


def test_the_library_loads_without_dspy_until_it_is_needed() -> None:
    code = "import snakepit_bridge.variables, snakepit_bridge.protocol.messages, snakepit_bridge.snapshots"
    assert loaded_by(code) & {"dspy", "grpc", "celery", "workers", "tasks", "config"} == set()

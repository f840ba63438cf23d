"""The sandbox's command line, and its launcher: which limits and which environment a program is started with."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from snakepit_bridge.dspy_integration import sandbox
from snakepit_bridge.dspy_integration.compat import find_sandbox_runner
from snakepit_bridge.dspy_integration.sandbox import Sandbox, SandboxLimits
from tests.harness.waiting import PATIENCE_S

FOLDER = Path(sandbox.__file__).parent
LOOK = """
import json, os, resource
print(json.dumps({"cpu": resource.getrlimit(resource.RLIMIT_CPU), "environment": sorted(os.environ)}))
"""


def launched(*command: str, cpu_s: int = 7, wall_s: int = 60) -> list[str]:
    return [sys.executable, "-I", "-S", str(FOLDER / "launcher.py"), str(cpu_s), str(wall_s), *command]


def test_everything_that_the_runner_imports_comes_from_npm_or_from_here() -> None:
    imported = set(re.findall(r'^import .* from "(.+)";', Path(find_sandbox_runner()).read_text(), re.MULTILINE))
    mapped = json.loads((FOLDER / "import_map.json").read_text())["imports"]
    assert {name for name in imported if not name.startswith("npm:pyodide@")} == mapped.keys()
    assert all((FOLDER / target).is_file() for target in mapped.values())


def test_the_runner_may_read_itself_and_its_cache_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DENO_DIR", str(tmp_path))
    command = Sandbox(SandboxLimits(cpu_s=5, wall_s=50, memory_mb=64)).command()
    assert command[4:6] == ["5", "50"]
    assert "--v8-flags=--wasm-max-mem-pages=1024" in command
    granted = [word for word in command if word.startswith("--allow")]
    assert granted == [f"--allow-read={find_sandbox_runner()},{tmp_path.resolve()}"]


def test_a_program_gets_its_limits_and_none_of_the_workers_secrets() -> None:
    env = {
        **os.environ,
        "OPENAI_API_KEY": "sk-secret",
        "DSPEX_REDIS_URL": "redis://:secret@elsewhere",
        "DENO_DIR": "/d",
    }
    ran = subprocess.run(launched(sys.executable, "-c", LOOK), env=env, capture_output=True, text=True, check=True)
    found = json.loads(ran.stdout)
    assert found["cpu"] == [7, 8]
    assert {"DENO_DIR", "DENO_NO_PACKAGE_JSON", "PATH"} <= set(found["environment"])
    assert not [name for name in found["environment"] if name.startswith(("OPENAI", "DSPEX", "PYTHON"))]


@pytest.mark.parametrize(
    ("limits", "code", "sign"),
    [({"cpu_s": 1}, "while True: pass", signal.SIGXCPU), ({"wall_s": 1}, "input()", signal.SIGALRM)],
    ids=["computing", "waiting"],
)
def test_a_program_beyond_a_limit_ends(limits: dict[str, int], code: str, sign: signal.Signals) -> None:
    with subprocess.Popen(launched(sys.executable, "-c", code, **limits), stdin=subprocess.PIPE) as program:
        assert program.wait(PATIENCE_S) == -sign


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_a_program_ends_with_the_process_that_started_it() -> None:
    announcing = launched(sys.executable, "-c", "import os; print(os.getpid(), flush=True); input()")
    parent = f"import subprocess, time; subprocess.Popen({announcing!r}, stdin=subprocess.PIPE); time.sleep(60)"
    starter = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    program = int(starter.stdout.readline())
    descriptor = os.pidfd_open(program)
    starter.kill()
    starter.wait()
    starter.stdout.close()
    # It isn't our child, but its descriptor tells when it is gone.
    assert select.select([descriptor], [], [], 30)[0]
    os.close(descriptor)

"""The built distributions, as installed: what they contain, and that a fleet runs from them without this checkout."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import dspy
import httpx
import pytest
from celery import Celery

from snakepit_bridge.testing import BridgeServer
from tests.harness.installed_wheel import ROOT, InstalledWheel, build, install
from tests.harness.stage import stage
from tests.harness.waiting import PATIENCE_S, wait_until
from workers.dev.stand_in_lm import QUESTIONS

# Each environment's first process compiles what it loads; a machine at work takes its time for that.
pytestmark = pytest.mark.timeout(900)

USERS_FILES = ROOT / "tests" / "installed"
FOLDERS = ("workers", "tasks", "config")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> InstalledWheel:
    return install(tmp_path_factory.mktemp("wheel"))


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A folder with the files of a user's application."""
    shutil.copytree(USERS_FILES, tmp_path / "shop", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "shop"


def test_the_wheel_has_two_packages_and_every_file_of_them(installed: InstalledWheel) -> None:
    names = zipfile.ZipFile(installed.wheel).namelist()
    distribution = "-".join(installed.wheel.name.split("-")[:2])
    assert {name.split("/")[0] for name in names} == {"snakepit_bridge", "dspex_fleet", f"{distribution}.dist-info"}
    sources = {
        f"{'dspex_fleet/' if folder in FOLDERS else ''}{path.relative_to(ROOT)}"
        for folder in ("snakepit_bridge", "dspex_fleet", *FOLDERS)
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".py", ".pyi", ".lua", ".typed"}
    }
    assert sources <= set(names)
    assert {"snakepit_bridge/py.typed", "dspex_fleet/py.typed", "dspex_fleet/examples/questions.jsonl"} <= set(names)


def test_the_source_distribution_builds_the_wheel_that_the_checkout_builds(
    installed: InstalledWheel, tmp_path: Path
) -> None:
    (direct,) = build(tmp_path / "direct", "--wheel")
    assert direct.read_bytes() == installed.wheel.read_bytes()
    with tarfile.open(installed.sdist) as packed:
        top = {name.split("/")[1] for name in packed.getnames() if "/" in name}
    assert not {"tests", "benchmarks", ".github", "docs"} & top


def test_nothing_of_a_users_own_is_shadowed(installed: InstalledWheel, tmp_path: Path) -> None:
    code = "import importlib.util as u; print([n for n in {!r} if u.find_spec(n)])"
    for name in (*FOLDERS, "examples", "tests", "hatch_build"):
        assert not list(installed.packages.glob(f"{name}*")), f"{name} is at the top of site-packages"
    found = installed.run("python", "-c", code.format((*FOLDERS, "hatch_build")), cwd=tmp_path)
    assert found.stdout.strip() == "[]", found.stderr


def test_the_commands_run_a_fleet(installed: InstalledWheel, tmp_path: Path) -> None:
    """The worker by our command, refresher and gateway beside it, and Celery's commands on the app."""
    with stage(tmp_path, worker=False) as play, BridgeServer() as elixir:
        elixir.begin("shop")
        elixir.register("shop", "llm_temperature", "float", 0.25)
        env = {**play.settings, "DSPEX_REDIS_URL": play.url, "DSPEX_BRIDGE": elixir.address}
        at: dict[str, Any] = {"cwd": tmp_path, "env": env}
        with (
            installed.running("dspex-fleet", "worker", "-c", "20", ready=" ready.", **at),
            installed.running("dspex-fleet", "refresher", "--session", "shop", **at),
            installed.running(
                "dspex-fleet", "gateway", "--grpc=127.0.0.1:0", "--http=127.0.0.1:0", ready="}", **at
            ) as log,
        ):
            play.fleet.register("qa", dspy.Predict("question -> answer"), {"temperature": "llm_temperature"})
            (announced,) = [line for line in log.read_text(encoding="utf-8").splitlines() if line.startswith("{")]
            listening = json.loads(announced)["http"]
            variables = f"http://{listening}/v1/sessions/shop/variables"
            wait_until(lambda: httpx.get(variables).status_code == 200, "the refresher to publish the session")
            answer = play.fleet.submit("qa", {"question": "from a wheel"}, session="shop").get(PATIENCE_S)
            assert answer.answer == "answer of from a wheel"
            assert answer.provenance.variables == {"llm_temperature": 0.25}
            (request,) = play.requests_with("from a wheel")
            assert request.body["temperature"] == 0.25
            pinged = installed.run("celery", "-A", "dspex_fleet", "inspect", "ping", **at)
            assert "pong" in pinged.stdout, pinged.stdout + pinged.stderr


def test_the_demo_holds(installed: InstalledWheel, tmp_path: Path) -> None:
    questions = tmp_path / "questions.jsonl"
    questions.write_text("\n".join(QUESTIONS.read_text(encoding="utf-8").splitlines()[:20]) + "\n", encoding="utf-8")
    arguments = ["--questions", str(questions), "--out", str(tmp_path / "out"), "--workers", "1"]
    ran = installed.run("dspex-fleet", "demo", *arguments, cwd=tmp_path)
    assert ran.stdout.splitlines()[-1:] == ["demo: 20 predictions, 5 revisions, 0 lost, 0 torn, 0 stale"], ran.stderr


def test_an_app_of_a_users_own_takes_the_fleet_by_one_call(installed: InstalledWheel, shop: Path) -> None:
    """Predictions, its own tasks in its own module ``tasks``, its queues, its task base: all on one asyncio worker."""
    with stage(shop, worker=False) as play:
        env = {**play.settings, "SHOP_REDIS": play.url}
        app = Celery("client", broker=play.url, backend=play.url, set_as_current=False)
        with installed.running(
            "celery", "-A", "shop", "worker", "-l", "INFO", ready=" ready.", cwd=shop, env=env
        ) as log:
            play.fleet.register("qa", dspy.Predict("question -> answer"))
            assert (
                play.fleet.submit("qa", {"question": "beside tasks"}).get(PATIENCE_S).answer == "answer of beside tasks"
            )
            assert app.send_task("shop.add", [2, 3]).get(PATIENCE_S) == 5
            described = app.send_task("shop.describe")
            assert described.get(PATIENCE_S) == {"id": described.id, "queue": "celery", "late": False}
            assert app.send_task("tasks.total", [[1.25, 2]]).get(PATIENCE_S) == "3.25 EUR"
            banner = log.read_text(encoding="utf-8")
        assert "1000 (asyncio_pool)" in banner
        assert set(re.findall(r"\.> (\w+) +exchange=", banner)) == {"celery", "predictions"}
        # A queue of its own, on prefork, with the queue of programs that execute code.
        queues = ["-Q", "labels,predictions.code", "--pool", "processes", "-c", "1"]
        with installed.running(
            "celery", "-A", "shop", "worker", *queues, "-l", "INFO", ready=" ready.", cwd=shop, env=env
        ):
            assert app.send_task("tasks.label", ["fragile"], queue="labels").get(PATIENCE_S) == "FRAGILE"
            redis = app.connection_for_read().default_channel.client
            # The process of the task stores its result, and the worker acknowledges its message after that.
            wait_until(lambda: not list(redis.scan_iter("dspex:delivery:held:*")), "the message to be acknowledged")
        assert redis.lrange("labels", 0, -1) == []


# What Windows lacks, for the modules of the wheel alone: other packages have their own ways there.
NOT_ON_WINDOWS = """
import builtins, types

LACKING = {
    "os": {"fork", "forkpty", "register_at_fork", "getuid", "geteuid", "getgid", "killpg", "setsid", "sysconf"},
    "signal": {"SIGKILL", "SIGHUP", "SIGQUIT", "SIGCHLD", "SIGUSR1", "SIGALRM", "setitimer", "alarm", "pthread_kill"},
    "socket": {"AF_UNIX"},
}
ABSENT = {"fcntl", "resource", "pwd", "grp", "termios", "syslog", "greenlet", "pybreaker", "uvicorn"}
real = builtins.__import__

class Partial(types.ModuleType):
    def __init__(self, module):
        super().__init__(module.__name__)
        self.__module = module

    def __getattr__(self, name):
        if name in LACKING[self.__name__]:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r} on Windows")
        return getattr(self.__module, name)

def restricted(name, globals=None, locals=None, fromlist=(), level=0):
    if globals and str(globals.get("__name__")).startswith("snakepit_bridge"):
        if name.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        if name in LACKING:
            return Partial(real(name))
    return real(name, globals, locals, fromlist, level)

builtins.__import__ = restricted
"""

CLIENT = """
import sys
import snakepit_bridge.cli, snakepit_bridge.dspy_integration, snakepit_bridge.session_context
from snakepit_bridge.client import Fleet

fleet = Fleet(sys.argv[1])
token = fleet.session("s").blocking.set_variables({"llm_temperature": 0.5})
assert fleet.session("s").blocking.get_variable("llm_temperature") == 0.5
handle = fleet.submit("qa", {"question": "from elsewhere"}, session="s", at_least=token)
assert not handle.ready()
print(handle.id)
"""


def test_a_client_needs_nothing_that_windows_lacks(installed: InstalledWheel, tmp_path: Path) -> None:
    with stage(tmp_path, worker=False) as play:
        play.fleet.register("qa", dspy.Predict("question -> answer"))
        ran = installed.run("python", "-c", NOT_ON_WINDOWS + CLIENT, play.url, cwd=tmp_path)
        assert ran.returncode == 0, ran.stderr
        assert play.fleet.handle(ran.stdout.strip()).cancel()
        status = NOT_ON_WINDOWS + "from snakepit_bridge.cli import main\nmain(['status'])"
        helped = installed.run("python", "-c", status, cwd=tmp_path, env={"DSPEX_REDIS_URL": play.url})
        assert helped.returncode == 0, helped.stderr


def marked_lines(path: Path) -> set[int]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return {number for number, line in enumerate(lines, 1) if "# wrong" in line}


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_a_type_checker_sees_the_types_of_the_installed_wheel(
    installed: InstalledWheel, shop: Path, checker: str
) -> None:
    """The checkers of this checkout look at a user's file, with the environment of the wheel for its imports."""
    file = shop / "typed.py"
    if checker == "mypy":
        (shop / "mypy.ini").write_text(
            "[mypy]\nstrict = true\n[mypy-celery.*]\nignore_missing_imports = true\n"
            "[mypy-dspy.*,litellm.*,openai.*]\nfollow_imports = skip\n"
        )
        arguments = ["mypy", "--python-executable", str(installed.python), file.name]
    else:
        strict = {"typeCheckingMode": "strict", "include": [file.name], "reportMissingTypeStubs": False}
        (shop / "pyrightconfig.json").write_text(json.dumps(strict))
        arguments = ["basedpyright", "--pythonpath", str(installed.python)]
    ran = subprocess.run([sys.executable, "-m", *arguments], cwd=shop, capture_output=True, text=True, check=False)
    found = {int(line) for line in re.findall(r"typed\.py:(\d+):(?:\d+ - | )error", ran.stdout)}
    assert found == marked_lines(file), ran.stdout + ran.stderr

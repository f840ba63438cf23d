"""What is deployed and how: the locks, the image's recipe and the compose file. The wheel: test_wheel.py."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ruamel.yaml import YAML

from config.lm_profiles import read_profiles
from config.settings import FleetSettings
from tests.harness.image_steps import read_stages
from tests.harness.waiting import PATIENCE_S
from workers.health.checks import Problems
from workers.health.server import HealthServer

ROOT = Path(__file__).parents[3]
COMPOSE = ROOT / "docker-compose.yml"
DEPLOY = ROOT / "docs" / "how-to" / "deploy.md"
LOCKS = [ROOT / "requirements.lock", ROOT / "deploy" / "requirements.lock", ROOT / "deploy" / "demo.lock"]
RAY_LOCK = ROOT / "deploy" / "ray.lock"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def pinned(lock: Path) -> dict[str, tuple[Requirement, int]]:
    """Return each pinned requirement of a lock, by name, with its number of hashes."""
    found: dict[str, tuple[Requirement, int]] = {}
    for entry in lock.read_text().replace("\\\n", " ").splitlines():
        if entry and not entry.lstrip().startswith("#"):
            text, *hashes = entry.split("--hash=")
            requirement = Requirement(text.strip())
            found[canonicalize_name(requirement.name)] = (requirement, len(hashes))
    return found


def declared(*, extras: tuple[str, ...], groups: tuple[str, ...]) -> Iterator[Requirement]:
    for text in PROJECT["project"]["dependencies"]:
        yield Requirement(text)
    for extra in extras:
        for requirement in map(Requirement, PROJECT["project"]["optional-dependencies"][extra]):
            if requirement.name != PROJECT["project"]["name"]:
                yield requirement
    for group in groups:
        for entry in PROJECT["dependency-groups"][group]:
            if isinstance(entry, dict):
                yield from declared(extras=(), groups=(entry["include-group"],))
            else:
                yield Requirement(entry)


def compose() -> dict[str, Any]:
    return YAML(typ="safe").load(COMPOSE)


def check_compose(path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


@pytest.mark.parametrize(
    ("lock", "least"),
    [*((lock, 50) for lock in LOCKS), (RAY_LOCK, 50), (ROOT / "deploy" / "uv.lock", 1)],
    ids=["development", "image", "demo", "ray", "uv"],
)
def test_a_lock_pins_and_hashes_everything_and_names_no_registry_or_path(lock: Path, least: int) -> None:
    requirements = pinned(lock)
    assert len(requirements) >= least
    for requirement, hashes in requirements.values():
        assert requirement.url is None
        assert [specifier.operator for specifier in requirement.specifier] == ["=="]
        assert hashes
    assert not re.search(r"://|^-|index-url|find-links|file:", lock.read_text(), re.MULTILINE)


@pytest.mark.parametrize(
    ("lock", "extras", "groups"),
    [
        (LOCKS[0], ("embedded", "server", "worker"), ("dev",)),
        (LOCKS[1], ("server", "worker", "flower"), ("build",)),
        (LOCKS[2], ("embedded", "server", "worker"), ("build",)),
        (RAY_LOCK, ("ray",), ()),
    ],
    ids=["development", "image", "demo", "ray"],
)
def test_a_lock_answers_everything_that_the_project_declares(
    lock: Path, extras: tuple[str, ...], groups: tuple[str, ...]
) -> None:
    requirements = pinned(lock)
    for wanted in declared(extras=extras, groups=groups):
        name = canonicalize_name(wanted.name)
        assert name in requirements, f"{lock.name} lacks {wanted}; run `make lock`"
        (version,) = requirements[name][0].specifier
        assert wanted.specifier.contains(version.version, prereleases=True), f"{version} breaks {wanted}; `make lock`"


@pytest.mark.parametrize("lock", [*LOCKS[1:], RAY_LOCK], ids=["image", "demo", "ray"])
def test_all_locks_pin_the_same_versions(lock: Path) -> None:
    development, other = pinned(LOCKS[0]), pinned(lock)
    shared = development.keys() & other.keys()
    assert {name for name in shared if development[name][0].specifier != other[name][0].specifier} == set()


def test_the_demo_installs_no_development_tools() -> None:
    assert not {"pytest", "ruff", "basedpyright", "hypothesis"} & pinned(LOCKS[2]).keys()


def test_the_compose_file_is_valid_and_the_check_sees_a_mistake(tmp_path: Path) -> None:
    done = check_compose(COMPOSE)
    assert done.returncode == 0, done.stdout + done.stderr
    broken = tmp_path / "docker-compose.yml"
    broken.write_text(COMPOSE.read_text().replace("healthcheck:", "healthchek:", 1))
    assert check_compose(broken).returncode != 0


def test_the_profiles_that_compose_mounts_are_read_and_ask_only_for_keys_that_it_hands_through() -> None:
    worker = compose()["services"]["worker"]
    default = re.search(r":-(.*)}", worker["volumes"][0]["source"])
    assert default
    profiles = read_profiles(ROOT / default[1])
    key_variables = {table.api_key_env for table in profiles.profiles.values() if table.api_key_env}
    assert key_variables <= worker["environment"].keys()
    assert worker["environment"]["DSPEX_LM_PROFILES"] == worker["volumes"][0]["target"]


def test_every_service_says_when_it_is_healthy_and_comes_back() -> None:
    services = compose()["services"]
    assert {"valkey", "worker", "flower"} <= services.keys()
    for service in services.values():
        assert service["healthcheck"]["test"]
        assert service["restart"] == "unless-stopped"


HEALTH_ADDRESS = "127.0.0.1:8063"


def test_every_process_of_the_fleet_is_healthy_when_it_takes_work() -> None:
    services = compose()["services"]
    for name in ("worker", "code-worker", "refresher", "gateway"):
        assert f"http://{HEALTH_ADDRESS}/readyz" in services[name]["healthcheck"]["test"][-1]
        assert services[name]["environment"]["DSPEX_HEALTH_ADDRESS"] == HEALTH_ADDRESS


def test_a_command_in_a_container_of_its_own_is_asked_for_no_health() -> None:
    (_, *_, final) = read_stages()
    assert not [line for line in final if line.startswith("HEALTHCHECK ") or "DSPEX_HEALTH_ADDRESS" in line]


def test_the_watchdog_ends_a_worker_that_hangs_before_the_documented_probe_restarts_it() -> None:
    (manifest,) = re.findall(r"```yaml\n(containers:.*?)```", DEPLOY.read_text(), re.DOTALL)
    [container] = YAML(typ="safe").load(manifest)["containers"]
    probe = container["livenessProbe"]
    # A loop that serves many predictions gets three times the limit.
    assert (
        probe["periodSeconds"] * (probe["failureThreshold"] - 1) >= 3 * FleetSettings.model_validate({}).stall_limit_s
    )


class _Lacking:
    """Stands for a process that lacks something."""

    def __init__(self, problem: str) -> None:
        self.problem = problem

    def live(self) -> Problems:
        return {}

    def ready(self) -> Problems:
        return {"broker": self.problem}

    def started(self) -> Problems:
        return {}


@pytest.mark.parametrize(("problem", "healthy"), [("", True), ("it doesn't answer", False)])
def test_the_check_of_a_container_tells_by_its_exit_code(problem: str, healthy: bool) -> None:
    server = HealthServer("127.0.0.1:0")
    server.start(_Lacking(problem))
    (_, python, *arguments) = compose()["services"]["worker"]["healthcheck"]["test"]
    assert python == "python"
    command = [sys.executable, *(text.replace(HEALTH_ADDRESS, f"127.0.0.1:{server.port}") for text in arguments)]
    done = subprocess.run(command, capture_output=True, timeout=PATIENCE_S, check=False)
    server.stop()
    assert (done.returncode == 0) is healthy, done.stderr


def test_a_worker_has_the_time_to_hand_back_what_it_has_not_finished() -> None:
    for name in ("worker", "code-worker"):
        service = compose()["services"][name]
        grace_s = float(service["stop_grace_period"].removesuffix("s"))
        assert grace_s >= FleetSettings.model_validate({}).stop_grace_s + 10
        assert grace_s == service["environment"]["DSPEX_SUPERVISOR_GRACE_S"]


def test_a_worker_can_be_scaled() -> None:
    worker = compose()["services"]["worker"]
    assert not {"container_name", "ports", "hostname"} & worker.keys()


def test_the_server_logs_every_change_and_evicts_nothing() -> None:
    command = " ".join(compose()["services"]["valkey"]["command"])
    assert "--appendonly yes --appendfsync everysec" in command
    assert "--maxmemory-policy noeviction" in command


def test_no_secret_stands_in_the_compose_file_and_no_port_is_open_to_the_network() -> None:
    for service in compose()["services"].values():
        for name, value in service.get("environment", {}).items():
            if re.search(r"KEY|TOKEN|SECRET|PASSWORD", name):
                assert value is None, f"{name} must come from the host's environment"
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:")


def test_the_image_runs_as_a_user_that_is_not_root_and_owns_no_code() -> None:
    *build, final = read_stages()
    assert build
    users = [line.split()[1] for line in final if line.startswith("USER ")]
    assert users
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", users[-1])
    after = final[max(number for number, line in enumerate(final) if line.startswith("USER ")) :]
    assert not [line for line in after if line.startswith(("COPY", "ADD", "RUN"))]
    assert "--chown" not in " ".join(final)


def test_the_image_installs_nothing_that_is_not_pinned() -> None:
    installs = [line for stage in read_stages() for line in stage if "pip install" in line]
    assert installs
    for line in installs:
        assert "--require-hashes" in line or ("--no-deps" in line and "--no-build-isolation" in line)
    # The image's own user can't write any, so that each start would compile all that it loads.
    assert all("--compile-bytecode" in line for line in installs if "uv pip" in line)


def test_the_image_copies_only_what_exists_and_what_the_ignore_file_lets_through() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copies = [line.split()[1:-1] for stage in read_stages() for line in stage if line.startswith("COPY ")]
    sources = {word for words in copies if not words[0].startswith("--from") for word in words}
    assert sources == allowed
    assert [source for source in sources if not (ROOT / source).exists()] == []

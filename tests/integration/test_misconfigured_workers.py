"""A worker that can't run predictions says why in one line, ends with exit code 1, and has taken nothing."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import dspy
import pytest
from redis import Redis

from snakepit_bridge.client import Fleet
from snakepit_bridge.testing import RecordingLM
from tests.harness.containers import Ended, WorkerSpec, local_redis, run_worker
from tests.harness.stage import LM_KEY, echo

PROFILE = """\
default = "demo"
[profiles.demo]
model = "openai/demo"
api_base = "{url}"
api_key_env = "{env}"
"""


@pytest.fixture(scope="module")
def url() -> Generator[str]:
    with local_redis() as server:
        yield server.celeryconfig["host_url"]


def started(url: str, pool: str, **env: str) -> Ended:
    """Run a worker to its end."""
    return run_worker(WorkerSpec(pool=pool, env=env), url)


def refused(worker: Ended) -> str:
    """Assert that a worker has ended by what is wrong, and return what it said of that."""
    assert worker.returncode == 1, worker.output
    assert "Traceback" not in worker.output
    assert "ready." not in worker.output
    lines = [line for line in worker.output.splitlines() if line.startswith("This worker can't")]
    assert len(lines) == 1, worker.output
    return lines[0]


@pytest.mark.parametrize("pool", ["asyncio", "threads", "prefork", "solo"])
def test_a_profile_whose_key_is_not_there(url: str, pool: str, tmp_path: Path) -> None:
    profiles = tmp_path / "profiles.toml"
    profiles.write_text(PROFILE.format(url="http://127.0.0.1:9/v1", env="NOBODY_SET_THIS"), encoding="utf-8")
    fleet = Fleet(url)
    fleet.register("qa", dspy.Predict("question -> answer"))
    handle = fleet.submit("qa", {"question": "why?"})
    assert "NOBODY_SET_THIS" in refused(started(url, pool, DSPEX_LM_PROFILES=str(profiles)))
    assert not handle.ready()
    with Redis.from_url(url) as client:
        assert client.llen("predictions\x06\x163") >= 1
        assert client.keys("dspex:delivery:held:*") == []
        client.delete("predictions\x06\x163")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("not = [toml", "profiles.toml"),
        ('[profiles.demo]\nmodle = "openai/demo"\n', "profiles.demo.model"),
        (None, "profiles.toml"),
    ],
)
def test_a_profiles_file_that_cannot_be_used(url: str, tmp_path: Path, text: str | None, says: str) -> None:
    profiles = tmp_path / "profiles.toml"
    if text is not None:
        profiles.write_text(text, encoding="utf-8")
    assert says in refused(started(url, "threads", DSPEX_LM_PROFILES=str(profiles)))


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("guards", "'guards' isn't an import path of public names"),
        ("os:system", "'os:system' isn't in an allowed package (tests.harness.programs); allow it in the settings"),
        ("tests.harness.programs:Missing", "'tests.harness.programs:Missing' can't be imported here"),
        ("tests.harness.programs:reward", "'tests.harness.programs:reward' isn't LM middleware"),
    ],
)
def test_middleware_that_cannot_be_used(url: str, tmp_path: Path, path: str, says: str) -> None:
    profiles = tmp_path / "profiles.toml"
    profiles.write_text(f'[profiles.demo]\nmodel = "openai/demo"\nmiddleware = ["{path}"]\n', encoding="utf-8")
    env = {"DSPEX_LM_PROFILES": str(profiles), "DSPEX_ALLOWED_PACKAGES": "tests.harness.programs"}
    lines = refused(started(url, "asyncio", **env))
    assert "LM profile 'demo'" in lines
    assert says in lines


def test_an_import_that_cannot_be_used(url: str) -> None:
    lines = refused(started(url, "asyncio", DSPEX_LM="openai/demo", DSPEX_IMPORTS="acme.targets"))
    assert "DSPEX_IMPORTS names a module that can't be used: 'acme.targets' isn't in an allowed package (none)" in lines


def test_a_setting_that_cannot_be_read(url: str) -> None:
    lines = refused(started(url, "threads", DSPEX_LEASE_S="abc"))
    assert "DSPEX_LEASE_S" in lines or "lease_s" in lines


def test_a_password_that_is_wrong_and_never_shown() -> None:
    with local_redis() as server:
        url = server.celeryconfig["host_url"]
        with Redis.from_url(url) as client:
            client.config_set("requirepass", "right")
        done = started(url.replace("redis://", "redis://:sesame-wrong@"), "prefork", DSPEX_LM="openai/demo")
        assert "can't be used" in refused(done)
        assert "sesame" not in done.output


def test_what_is_no_redis() -> None:
    with RecordingLM(echo, api_key=LM_KEY) as lm:
        port = lm.url.rsplit(":", 1)[1].split("/")[0]
        lines = refused(started(f"redis://127.0.0.1:{port}/0", "threads", DSPEX_LM="openai/demo"))
    assert "can't be used as Redis" in lines

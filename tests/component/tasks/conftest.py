"""An LM that records its requests, and a worker's settings that name it."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest
from pydantic import SecretStr

from config.settings import FleetSettings
from snakepit_bridge.testing import RecordingLM
from tests.harness.stage import echo


@pytest.fixture
def lm() -> Generator[RecordingLM]:
    with RecordingLM(echo) as server:
        yield server


@pytest.fixture
def worker_settings(redis_url: str, lm: RecordingLM, tmp_path: Path) -> FleetSettings:
    profiles = tmp_path / "lm.toml"
    profiles.write_text(
        f'[profiles.demo]\nmodel = "openai/demo"\napi_base = "{lm.url}"\napi_key_env = "PATH"\n', encoding="utf-8"
    )
    return FleetSettings(redis_url=SecretStr(redis_url), lm_profiles=profiles, requirement_wait_s=0.1)

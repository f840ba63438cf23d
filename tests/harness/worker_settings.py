"""Settings of workers that reach no server, and a file of LM profiles for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from config.settings import FleetSettings

KEY_VARIABLE = "LIFECYCLE_KEY"
"""The environment variable that has the key of the second profile."""

_PROFILES = f"""\
default = "second"
[profiles.first]
model = "openai/one"
limits = {{ max_in_flight = 2 }}
[profiles.second]
model = "openai/two"
api_key_env = "{KEY_VARIABLE}"
"""


def offline_settings(**fields: Any) -> FleetSettings:
    """Return settings whose Redis nobody serves."""
    return FleetSettings.model_validate({"redis_url": "redis://127.0.0.1:1/0", **fields})


def write_profiles(folder: Path) -> Path:
    """Write a file of two profiles, of which the second is the default, and return its path."""
    path = folder / "lm.toml"
    path.write_text(_PROFILES, encoding="utf-8")
    return path

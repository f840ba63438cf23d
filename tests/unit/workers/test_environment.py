"""A setting that can't be is named by its variable, with the rule that it breaks."""

from __future__ import annotations

import pytest

from config.bounds import BoundSettings
from config.settings import FleetSettings
from snakepit_bridge.exceptions import ConfigurationError
from workers.environment import read_settings


def test_settings_are_those_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSPEX_LEASE_S", "7")
    assert read_settings(FleetSettings).lease_s == 7.0


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        (
            {"DSPEX_LEASE_S": "-4", "DSPEX_LOG": "xx"},
            "DSPEX_LEASE_S can't be '-4': it should be greater than or equal to 1. "
            "DSPEX_LOG can't be 'xx': it should be 'console' or 'json'.",
        ),
        ({"DSPEX_LOG_REDACT": "a("}, "DSPEX_LOG_REDACT can't be 'a(': 'a(' isn't a regular expression: "),
    ],
)
def test_each_variable_that_is_wrong_is_named(
    variables: dict[str, str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as refused:
        read_settings(FleetSettings)
    assert says in str(refused.value)


def test_bounds_are_read_likewise(monkeypatch: pytest.MonkeyPatch) -> None:
    name = next(iter(BoundSettings.model_fields)).upper()
    monkeypatch.setenv(f"DSPEX_{name}", "many")
    with pytest.raises(ConfigurationError, match=f"DSPEX_{name} can't be 'many': it should be a valid"):
        read_settings(BoundSettings)

"""The Elixir package's error reasons: one for each class that a gateway can name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from snakepit_bridge.exceptions import BridgeError
from workers.gateway import errors

REASONS_EX = Path(__file__).parents[3] / "elixir/lib/dspex_fleet/error/reasons.ex"
# The package's own word for an error that isn't a BridgeError.
UNEXPECTED = errors.to_message(RuntimeError()).kind


def subclasses(cls: type) -> Iterator[type]:
    yield cls
    for sub in cls.__subclasses__():
        yield from subclasses(sub)


def test_every_error_of_the_fleet_has_a_reason() -> None:
    product = ("snakepit_bridge.", "tasks.", "workers.")
    classes = {cls.__name__ for cls in subclasses(BridgeError) if cls.__module__.startswith(product)}
    listed = re.search(r"@reasons ~w\((.*?)\)", REASONS_EX.read_text(encoding="utf-8"), re.DOTALL)
    assert listed is not None
    assert set(listed[1].split()) == {*classes, UNEXPECTED}

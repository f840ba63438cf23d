"""The client's server-side scripts, each in a ``.lua`` file of its own."""

from __future__ import annotations

from importlib.resources import files

from snakepit_bridge.stores.connection import Script


def _script(name: str) -> Script:
    return Script((files(__name__) / f"{name}.lua").read_text(encoding="utf-8"))


CANCEL = _script("cancel")
ENQUEUE = _script("enqueue")

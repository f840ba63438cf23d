"""The transport's scripts: each is there, commented, and treats messages as opaque bytes."""

from __future__ import annotations

from importlib.resources import files

import pytest

from workers.broker import lua

NAMES = sorted(entry.name.removesuffix(".lua") for entry in files(lua).iterdir() if entry.name.endswith(".lua"))


def test_these_are_all() -> None:
    assert NAMES == ["beat", "claim", "claim_take", "delay", "leave", "move", "reap", "settle", "settling"]


@pytest.mark.parametrize("name", NAMES)
def test_messages_stay_opaque(name: str) -> None:
    text = lua.SCRIPTS[name].text
    assert text.startswith("-- ")
    assert "cjson" not in text
    assert "cmsgpack" not in text


def test_a_script_stands_below_what_it_needs() -> None:
    text = lua.SCRIPTS["settle"].text
    assert text.index("local function settle(") < text.index("-- needs: settling")


def test_a_script_that_is_not_there_says_so() -> None:
    with pytest.raises(FileNotFoundError):
        lua.SCRIPTS["nothing"]

"""The scripts: each is there, and put together from what it needs."""

from __future__ import annotations

from importlib.resources import files

import pytest

from snakepit_bridge.snapshots import lua

SHARED = {"commit", "life", "request", "session", "stage", "state"}
ALONE = {"confirm_all", "heads", "prune"}
NAMES = {
    "change_experiments", "checks", "confirm", "confirm_all", "declare", "drop", "fence", "head", "heads", "history",
    "label", "labels", "prune", "publish", "read", "read_at", "replace_values", "retain", "rollback", "rollout",
    "rollout_events", "stored_values", "unlabel",
}  # fmt: skip


def test_every_lua_file_is_a_script_or_a_used_library() -> None:
    names = {entry.name.removesuffix(".lua") for entry in files(lua).iterdir() if entry.name.endswith(".lua")}
    assert names == NAMES | SHARED


@pytest.mark.parametrize("script", sorted(NAMES - ALONE))
def test_libraries_precede_a_script_once(script: str) -> None:
    text = lua.SCRIPTS[script].text
    assert text.count("local HEAD, VARIABLES") == 1
    assert text.index("local HEAD, VARIABLES") < text.index("-- needs:")


@pytest.mark.parametrize("name", sorted(NAMES | SHARED))
def test_values_stay_opaque(name: str) -> None:
    assert "cjson." not in lua.SCRIPTS[name].text
    text = lua.SCRIPTS[name].text
    for bounded in ("cmsgpack.unpack(", "unpack(ARGV))", "unpack(entry[2])"):  # an entry of the history has few fields
        text = text.replace(bounded, "")
    assert "unpack(" not in text


def test_a_missing_script_raises() -> None:
    with pytest.raises(FileNotFoundError):
        lua.SCRIPTS["nothing"]

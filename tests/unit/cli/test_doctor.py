"""``doctor``: what it says of the log of the server's changes."""

from __future__ import annotations

from typing import Any

import pytest

from snakepit_bridge.cli.doctor import _durability

ON = {"aof_enabled": 1, "aof_last_write_status": "ok", "aof_delayed_fsync": 0}


@pytest.mark.parametrize(
    ("info", "fsync", "level", "says"),
    [
        ({"aof_enabled": 0}, "everysec", "warn", "off"),
        (ON, "always", "ok", "nothing confirmed is lost"),
        (ON, "everysec", "ok", "1 to 3 s"),
        (ON, "no", "warn", "30 s"),
        (ON, None, "ok", "on"),
        ({**ON, "aof_delayed_fsync": 3}, "everysec", "warn", "delayed 3 times"),
        ({**ON, "aof_delayed_fsync": 3}, "always", "ok", "always"),
        ({**ON, "aof_last_write_status": "err"}, "everysec", "fail", "its last write failed"),
    ],
)
def test_it_says_what_a_loss_would_cost(info: dict[str, Any], fsync: str | None, level: str, says: str) -> None:
    """KINDS 30."""
    check = _durability(info, fsync)
    assert check.level == level
    assert says in check.found
    assert bool(check.fix) == (level != "ok")

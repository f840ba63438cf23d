"""Scripts and Python agree on which stored results are final."""

from __future__ import annotations

import json

import pytest
from redis import Redis

from snakepit_bridge.client.lua import FINAL_STATE
from snakepit_bridge.protocol.messages import is_final


@pytest.mark.parametrize("state", ["SUCCESS", "FAILURE", "REVOKED", "PENDING", "STARTED", "RETRY"])
@pytest.mark.parametrize("separators", [(", ", ": "), (",", ":")])
def test_scripts_agree_on_what_is_final(redis_url: str, state: str, separators: tuple[str, str]) -> None:
    stored = json.dumps({"status": state, "result": None}, separators=separators).encode()
    script = f"{FINAL_STATE}\nreturn final_state(ARGV[1]) or ''"
    with Redis.from_url(redis_url, decode_responses=True) as client:
        found = client.eval(script, 0, stored)
    assert found == (state if is_final(stored) else "")


@pytest.mark.parametrize(
    "stored",
    [b"", b"junk", b"[]", b"7", b"null", b"{}", b'{"status": 7}', b'{"status": null}', b'{"status": ["SUCCESS"]}'],
)
def test_what_is_no_result_is_final_for_neither(redis_url: str, stored: bytes) -> None:
    script = f"{FINAL_STATE}\nreturn final_state(ARGV[1]) or ''"
    with Redis.from_url(redis_url, decode_responses=True) as client:
        assert client.eval(script, 0, stored) == ""
    assert not is_final(stored)

"""What keeps servers out of this folder does so."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.harness.containers import local_redis
from workers.dev.redis_server import EmbeddedRedis


@pytest.mark.parametrize("start", [EmbeddedRedis.start, lambda: local_redis().__enter__()], ids=["embedded", "local"])
def test_a_server_is_refused(start: Callable[[], object]) -> None:
    with pytest.raises(pytest.fail.Exception, match=r"belong in tests/component"):
        start()


def test_the_shared_server_is_refused(request: pytest.FixtureRequest) -> None:
    with pytest.raises(pytest.fail.Exception, match=r"belong in tests/component"):
        request.getfixturevalue("redis_url")

"""A publisher that was paused while another took over is refused from its first publish on."""

from __future__ import annotations

from snakepit_bridge.snapshots import RedisStore
from snakepit_bridge.variables import Variable
from tests.harness.lines import LineProcess
from tests.harness.waiting import wait_until
from tests.integration.replica_process import ELIXIR, SESSION
from workers.dev.redis_server import EmbeddedRedis


async def test_a_publisher_that_was_paused_past_a_takeover_is_refused() -> None:
    with EmbeddedRedis.start() as server:
        store = RedisStore(server.url)
        old = await store.raise_fence(SESSION, publisher=ELIXIR)
        with LineProcess("tests.integration.replica_process", "publish", server.url, old) as paused:
            for n in range(1, 20):
                assert paused.hear() == {"published": n}
            paused.pause()
            wait_until(lambda: _stopped(paused.pid), "the publisher to be stopped")
            new = await store.raise_fence(SESSION, publisher=ELIXIR)
            token = await store.publish(SESSION, {"n": Variable.declare("n", -1)}, publisher=ELIXIR, fence=new)
            paused.resume()
            # What it had written before the pause comes first, and then the refusal.
            message = paused.hear()
            while "published" in message:
                message = paused.hear()
        assert message == {"refused": old, "current": new}
        shot = await store.read(SESSION)
        assert (shot.token, shot.value("n")) == (token, -1)
        assert (await store.history(SESSION, 1))[0].token == token
        await store.aclose()


def _stopped(pid: int) -> bool:
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rsplit(") ", 1)[1].startswith("T")

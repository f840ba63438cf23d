"""What no role may do, and what each may not: docs/how-to/redis-rights.md says it, servers refuse it."""

from __future__ import annotations

from collections.abc import Generator

import pytest
from redis import Redis
from redis.exceptions import NoPermissionError, ResponseError

from snakepit_bridge.redis.acl import Role
from tests.harness import servers
from tests.harness.acl import RightsServer, rights_server

NOBODY = (
    "CONFIG GET requirepass", "CONFIG SET save x", "ACL LIST", "FLUSHALL", "KEYS *", "SCAN 0", "MONITOR", "SHUTDOWN",
    "SET other:{s:x}:head 1", "GET other:{s:x}:head", "HSET other:{s:x}:variables t 1",
    "LPUSH other.predictions x", "PUBLISH other:cancel x", "GET anything", "SET anything x", "DEL anything",
)  # fmt: skip
WORKERS_OWN = (
    "HSET dspex:delivery:held:w tag m", "HSET dspex:{limits}:buckets a 1", "HSET dspex:cost:program:1 qa 1",
    "XADD dspex:pieces:t * text x", "SET dspex:{lm:d}:answer x", "GET dspex:{lm:d}:answer",
    "HSET dspex:{j:qa:good}:hour:1 usd 0",
)  # fmt: skip
DENIED: dict[Role, tuple[str, ...]] = {
    Role.client: (*WORKERS_OWN, "ZREM dspex:delivery:dead id", "SET dspex:{g:d}:request x", "SET dspex:refreshers x"),
    Role.gateway: (*WORKERS_OWN, "SET dspex:{i:k}:idempotency x", "HSET dspex:delivery:workers w 1"),
    Role.operator: (*WORKERS_OWN, "SET dspex:{g:d}:request x", "SET dspex:{o:k}:idempotency x"),
    Role.refresher: (
        *WORKERS_OWN, "LPUSH predictions x", "GET celery-task-meta-t", "SET celery-task-meta-t x",
        "GET dspex:payload:d", "SET dspex:{p:qa}:versions x", "SADD dspex:programs qa",
    ),
    Role.worker: (
        "SADD dspex:datasets golden", "SET dspex:{d:golden}:versions x", "ZADD dspex:jobs 1 j",
        "SET dspex:{g:d}:request x", "SET dspex:{o:k}:idempotency x", "SET dspex:refreshers x",
    ),
}  # fmt: skip


@pytest.fixture(scope="module", params=servers.KINDS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generator[RightsServer]:
    with rights_server(request.param, tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.mark.parametrize("role", Role)
def test_a_role_is_refused_what_is_not_its_own(server: RightsServer, role: Role) -> None:
    allowed: list[str] = []
    with Redis.from_url(server.url(role.value)) as client:
        for command in (*NOBODY, *DENIED[role]):
            try:
                client.execute_command(*command.split())
                allowed.append(command)
            except NoPermissionError:
                continue
    assert allowed == []
    assert server.admin.dbsize() == 0


@pytest.mark.parametrize("role", Role)
def test_a_script_may_no_more_than_its_caller(server: RightsServer, role: Role) -> None:
    with Redis.from_url(server.url(role.value)) as client:
        for call in ("'FLUSHALL'", "'CONFIG', 'GET', '*'", "'SET', 'other:x', '1'"):
            with pytest.raises(
                (NoPermissionError, ResponseError), match=r"(?i)permission|ACL|can't (run|access)|not allowed"
            ):
                client.eval(f"return redis.call({call})", 0)
    assert server.admin.dbsize() == 0


def test_a_client_can_write_what_no_pattern_tells_apart(server: RightsServer) -> None:
    """The page says so: results of any task, and variables of any session of the namespace."""
    with Redis.from_url(server.url("client")) as client:
        client.set("celery-task-meta-anybodys", "x")
        client.hset("dspex:{s:anybodys}:variables", "t", "1")
    server.admin.flushall()

"""Under too few rights every process and command says in one line which user lacks what."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Generator, Sequence
from dataclasses import replace

import dspy
import pytest

from snakepit_bridge.cli import main
from snakepit_bridge.client import Fleet
from snakepit_bridge.exceptions import StoreForbiddenError
from snakepit_bridge.process.home_loop import run_blocking
from snakepit_bridge.redis.acl import SETINFO, Rights, Role
from snakepit_bridge.redis.acl_check import check_rights
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.outages import is_transient
from tests.harness import servers
from tests.harness.acl import RightsServer, rights_server
from tests.harness.containers import WorkerSpec, run_worker
from tests.integration.gateway_clients import gateway
from workers.refresher import RefresherSettings
from workers.refresher.service import run_refresher

_STORE = """
    ping select eval evalsha script|exists script|load subscribe unsubscribe publish info time hget hset hdel hmget
    hgetall hkeys hvals del exists get set xadd xtrim xlen xdel xrange xrevrange pexpire pttl persist zadd zrange zscore
    zrem multi
"""
# What docs/concepts/sessions-and-revisions.md once called enough, for the snapshot store alone.
STORE_ALONE = Rights(
    commands=tuple(_STORE.split()),
    keys=("dspex:*",),
    reads=(),
    channels=("dspex:*",),
)


@pytest.fixture(scope="module", params=servers.KINDS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generator[RightsServer]:
    with rights_server(request.param, tmp_path_factory.mktemp("server")) as running:
        running.grant("few", STORE_ALONE)
        yield running


@pytest.mark.parametrize("pool", ["asyncio", "prefork"])
def test_a_worker_does_not_start_and_names_all_that_it_lacks(server: RightsServer, pool: str) -> None:
    ended = run_worker(WorkerSpec(pool=pool), server.url("few"))
    assert ended.returncode == 1
    assert "Traceback" not in ended.output
    [reason] = [line for line in ended.output.splitlines() if line.startswith("This worker can't")]
    assert "User 'few' lacks rights" in reason
    assert "acl ROLE" in reason
    for lacking in ("client|tracking", "hincrby", "llen", "psubscribe", "predictions*", "/0.celery.pidbox"):
        assert lacking in reason


@pytest.mark.parametrize("command", ["doctor", "status", "dead list", "programs", "predict qa question=why"])
def test_a_command_says_who_lacks_what_in_a_line(server: RightsServer, command: str) -> None:
    server.grant("none", Rights(("ping",), (), (), ()))
    out, err = io.StringIO(), io.StringIO()
    with pytest.raises(SystemExit) as ended, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        main(["--redis-url", server.url("none"), *command.split()])
    assert ended.value.code == 1
    assert len(err.getvalue().splitlines()) == 1
    assert "'none'" in out.getvalue() + err.getvalue()
    assert "secret-of" not in out.getvalue() + err.getvalue()


def test_the_doctor_names_all_that_an_operator_lacks(server: RightsServer) -> None:
    out = io.StringIO()
    with pytest.raises(SystemExit), contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
        main(["--redis-url", server.url("few"), "doctor", "--json"])
    assert "rights on Redis" in out.getvalue()
    assert "user 'few': it lacks commands brpop, " in out.getvalue()


@pytest.mark.parametrize("lacking", ["hset", "evalsha", "lpush", "subscribe"])
def test_a_client_gets_the_named_error_and_does_not_wait(server: RightsServer, lacking: str) -> None:
    """Some are called by scripts, some by our own connections and some by kombu."""
    rights = server.rights(Role.client)
    server.grant("client-of-less", replace(rights, commands=tuple({*rights.commands} - {lacking})))
    fleet = Fleet(server.url("client-of-less"), wait_s=5)
    with pytest.raises(StoreForbiddenError, match="User 'client-of-less' lacks rights") as refused:
        use(fleet)
    assert not is_transient(refused.value)


def use(fleet: Fleet) -> None:
    fleet.register("qa", dspy.Predict("question -> answer"))
    fleet.session("s").blocking.register_variable("t", "float", 0.5)
    fleet.submit("qa", {"question": "why?"}).get()


@pytest.mark.parametrize("role", Role)
def test_what_a_role_lacks_is_found_before_anything_is_done(server: RightsServer, role: Role) -> None:
    """Nothing that it asks is executed, and a user of the role itself lacks nothing."""
    rights, before = server.rights(role), server.admin.dbsize()
    # What a selector allows for some keys is allowed.
    always = {"multi", "exec", SETINFO, *(command for command, _ in rights.selectors)}
    server.refused()
    run_blocking(check_rights(RedisConnection(server.url(role.value)), rights))
    assert server.refused() == []
    for half in (0, 1):
        commands = [name for name in rights.commands if name not in always][half::2]
        less = replace(rights, commands=_without(rights.commands, commands))
        assert lacks(server, less, rights) == f"it lacks commands {', '.join(commands)}"
        keys = sorted([*rights.keys, *rights.reads])[half::2]
        less = replace(rights, keys=_without(rights.keys, keys), reads=_without(rights.reads, keys))
        assert lacks(server, less, rights) == f"it lacks keys {', '.join(keys)}"
    assert lacks(server, replace(rights, channels=()), rights) == f"it lacks channels {', '.join(rights.channels)}"
    assert server.admin.dbsize() == before


def lacks(server: RightsServer, less: Rights, rights: Rights) -> str:
    server.grant("less", less)
    with pytest.raises(StoreForbiddenError) as refused:
        run_blocking(check_rights(RedisConnection(server.url("less")), rights))
    return refused.value.problem


def _without(names: tuple[str, ...], gone: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name in names if name not in gone)


async def test_a_gateway_does_not_start(server: RightsServer) -> None:
    with pytest.raises(StoreForbiddenError, match=r"'few'.*lpush"):
        async with gateway(server.url("few")):
            pass


def test_a_refresher_does_not_start(server: RightsServer) -> None:
    with pytest.raises(
        StoreForbiddenError,
        match=r"'client'.*lacks commands .*; keys dspex:format \(for setnx\), dspex:refreshers, dspex:refreshers:",
    ):
        run_refresher(RefresherSettings("127.0.0.1:9", server.url("client")))

"""The table of rights: held against the scripts that workers and refreshers run, Celery's, and the documentation."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
from celery.backends import redis as celery_redis
from kombu.transport import redis as kombu_redis

from snakepit_bridge.exceptions import ConfigurationError
from snakepit_bridge.redis.acl import PARTS, UNKNOWN_TO_7_0, Rights, Role, called_by, commands_of, rights_of, setuser
from snakepit_bridge.redis.urls import database_of, user_of

ROOT = Path(__file__).parents[3]
ABOVE = {
    Role.worker: ("workers", "workers/broker/lua", "tasks/rate_limits/lua", "tasks/response_cache/lua"),
    Role.refresher: ("workers/refresher",),
}


@pytest.mark.parametrize("role", ABOVE)
def test_commands_of_other_packages_scripts_are_granted(role: Role) -> None:
    scripts = [path.read_text(encoding="utf-8") for folder in ABOVE[role] for path in (ROOT / folder).glob("*.lua")]
    called = {command for script in scripts for command in called_by(script)}
    # Both run scripts that hold a lease, by a library of the connection's package.
    called |= called_by((ROOT / "snakepit_bridge" / "redis" / "lease_functions.lua").read_text(encoding="utf-8"))
    assert len(called) > 5
    assert called <= set(rights_of(role).commands)


@pytest.mark.parametrize("module", [celery_redis, kombu_redis])
def test_commands_of_celerys_scripts_are_granted(module: object) -> None:
    called = called_by(inspect.getsource(module))  # type: ignore[arg-type]
    assert called
    assert called <= set(rights_of(Role.worker).commands)
    assert called_by(kombu_redis.REFRESH_BINDING + kombu_redis.SWEEP_BINDINGS) <= set(rights_of(Role.gateway).commands)


def test_no_role_has_dangerous_commands() -> None:
    never = {
        "acl",
        "config",
        "keys",
        "scan",
        "flushall",
        "flushdb",
        "shutdown",
        "monitor",
        "debug",
        "eval_ro",
        "migrate",
    }
    for role in Role:
        rights = rights_of(role, "shop")
        assert never.isdisjoint(name.partition("|")[0] for name in rights.commands)
        assert not {"*", "~*"} & {*rights.keys, *rights.reads, *rights.channels}


def test_every_part_belongs_to_a_role_and_grants_something() -> None:
    for parts in PARTS.values():
        assert len(set(parts)) == len(parts)
        assert all(commands_of(part) or part.keys or part.reads or part.channels or part.selectors for part in parts)


@pytest.mark.parametrize("role", Role)
def test_a_namespace_grants_nothing_in_another(role: Role) -> None:
    """Celery's results and kombu's own keys alone have no namespace."""
    shop, other = rights_of(role, "shop"), rights_of(role, "other")
    shared = {*shop.keys, *shop.reads, *shop.channels} & {*other.keys, *other.reads, *other.channels}
    assert {name for name in shared if not name.startswith(("celery-task", "_kombu.binding", "unacked_"))} == set()


def test_rules_have_the_form_of_acl_setuser() -> None:
    rights = Rights(("get",), ("a:*",), ("b",), ("c",))
    assert setuser("me", rights) == "ACL SETUSER me reset on >PASSWORD resetkeys resetchannels ~a:* %R~b &c -@all +get"
    assert setuser("me", rights, password="#00", file=True).startswith("user me reset on #00 resetkeys")
    with pytest.raises(ConfigurationError, match="contain spaces"):
        setuser("you and me", rights)


def test_queue_database_and_server_version_are_respected() -> None:
    rights = rights_of(Role.worker, queue="odd[1]*", db=3, setinfo=False)
    assert r"odd\[1\]\**" in rights.keys
    assert "/3.celery.pidbox" in rights.channels
    assert not UNKNOWN_TO_7_0 & {*rights.commands}


@pytest.mark.parametrize(
    ("url", "user", "database"),
    [
        ("redis://localhost:6379", "default", 0),
        ("redis://:secret@localhost/2", "default", 2),
        ("rediss://an%40n:secret@localhost:6379/1?ssl_cert_reqs=none", "an@n", 1),
        ("unix:///tmp/redis.sock?db=4", "default", 4),
        ("redis+sentinel://ann:x@a:1,b:2/service/5", "ann", 5),
        ("redis+cluster://a:1,b:2", "default", 0),
    ],
)
def test_user_and_database_are_read_from_the_url(url: str, user: str, database: int) -> None:
    assert (user_of(url), database_of(url)) == (user, database)


def table() -> str:
    """The documentation's table of keys and channels."""
    lines = ["| role | keys | read-only keys | channels |", "|---|---|---|---|"]
    for role in Role:
        rights = rights_of(role, "NS", "QUEUE")
        named = (rights.keys, rights.reads, rights.channels)
        lines.append(f"| {role} | " + " | ".join(" ".join(f"`{name}`" for name in names) for names in named) + " |")
    return "\n".join(lines)


def test_the_documentation_names_each_roles_keys_and_channels() -> None:
    assert table() in (ROOT / "docs" / "concepts" / "sessions-and-revisions.md").read_text(encoding="utf-8")

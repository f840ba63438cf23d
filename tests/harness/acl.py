"""A server whose users have the least rights of each role, and what each of them asked for: granted or refused."""

from __future__ import annotations

import bisect
import fnmatch
import itertools
import re
import threading
import time
from collections import defaultdict
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from redis import Redis

from snakepit_bridge.redis.acl import Rights, Role, rights_of, setuser
from tests.harness import servers
from tests.harness.cluster import free_ports, local_server
from tests.harness.waiting import PATIENCE_S

# What redis-py asks a server for when it may, and does without; and what `doctor` does.
UNASKED = frozenset({"client|maint_notifications", "config|get", "acl|getuser"})
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32}")
_CONNECTION = re.compile(r" addr=(\S+) .* user=(\S+)")
_CONTAINERS = ("client", "script", "config", "acl", "cluster", "xinfo")


class RightsServer:
    """A server with a user for each role, of the role's name and password; nobody else may connect.

    Args:
        admin: a client with all rights.
        kind: the kind of server.
        namespace: the fleet's.
    """

    def __init__(self, admin: Redis, kind: str, namespace: str) -> None:
        self.admin = admin
        self.namespace = namespace
        # Debian's is 7.0, which knows neither CLIENT SETINFO nor WAITAOF.
        self.setinfo = kind == "valkey"
        admin.config_set("appendonly", "yes")
        for role in Role:
            self.grant(role.value, self.rights(role))

    @property
    def port(self) -> int:
        return int(self.admin.connection_pool.connection_kwargs["port"])

    def rights(self, role: Role) -> Rights:
        return rights_of(role, self.namespace, setinfo=self.setinfo)

    def grant(self, user: str, rights: Rights) -> None:
        """Make a user by the very command that is printed."""
        self.admin.execute_command(*setuser(user, rights, password=f">{_password(user)}").split())

    def url(self, user: str) -> str:
        return f"redis://{user}:{_password(user)}@127.0.0.1:{self.port}/0"

    def refused(self) -> list[str]:
        """Return what users asked for and might not, since the last call: user, reason, object and context."""
        log: Any = self.admin.execute_command("ACL", "LOG", "200")
        self.admin.execute_command("ACL", "LOG", "RESET")
        entries = [raw if isinstance(raw, dict) else dict(zip(raw[::2], raw[1::2], strict=True)) for raw in log]
        found = (
            f"{raw['username']}: {raw['reason']} {_UUID.sub('<uuid>', raw['object'])}, {_command(raw)} {raw['context']}"
            for raw in entries
            if raw["object"] not in UNASKED
        )
        return sorted(set(found))


def _password(user: str) -> str:
    return f"secret-of-{user}"


def _command(entry: dict[str, str]) -> str:
    return entry["client-info"].partition(" cmd=")[2].partition(" ")[0]


@contextmanager
def rights_server(kind: str, folder: Path, namespace: str = "dspex") -> Generator[RightsServer]:
    """Run a server whose users have least rights."""
    [port] = free_ports(1)
    arguments = ["--port", str(port), "--user", "root", "on", ">root", "~*", "&*", "+@all", "--user", "default", "off"]
    with (
        servers.running_on(kind),
        # Without a timeout: MONITOR is silent for as long as nobody asks anything.
        local_server(folder, *arguments, port=port, username="root", password="root", socket_timeout=None) as admin,
    ):
        yield RightsServer(admin, kind, namespace)


# Under load the users of connections are looked at seldom.
_ABOUT_S = 2.0


class Usage:
    """What each user sends to a server, outside of scripts: commands, and all words that may be keys or channels."""

    def __init__(self, admin: Redis) -> None:
        self._admin = admin
        self._said: dict[str, list[tuple[float, list[str]]]] = defaultdict(list)
        self._sightings: dict[str, list[tuple[float, str]]] = defaultdict(list)
        self._ended = threading.Event()
        self._is_complete = False
        self.commands: dict[str, set[str]] = defaultdict(set)
        self._words: dict[str, set[str]] = defaultdict(set)

    @contextmanager
    def recording(self) -> Generator[None]:
        """Within it, what the server does is recorded."""
        with self._admin.monitor() as monitor:
            threads = [
                threading.Thread(target=self._listen, args=(monitor,), daemon=True),
                threading.Thread(target=self._look_at_users, daemon=True),
            ]
            for thread in threads:
                thread.start()
            try:
                yield
            finally:
                self._ended.set()
                self._admin.execute_command("ECHO", "recorded")
                for thread in threads:
                    thread.join(PATIENCE_S)
                    assert not thread.is_alive()
        assert self._is_complete
        self._attribute()

    def used(self, user: str, patterns: Iterable[str]) -> set[str]:
        """Return the patterns of keys or channels that a user's words match."""
        return {
            pattern for pattern in patterns if any(fnmatch.fnmatchcase(word, pattern) for word in self._words[user])
        }

    def _listen(self, monitor: Any) -> None:
        for event in monitor.listen():
            words: list[str] = event["command"].split(" ")
            if words == ["ECHO", "recorded"]:
                self._is_complete = True
                return
            if event["client_type"] != "lua":
                self._said[f"{event['client_address']}:{event['client_port']}"].append((event["time"], words))

    def _look_at_users(self) -> None:
        """Note whose each connection is; one is nobody's before it has said so, and some end before they are seen."""
        while not self._ended.wait(0.02):
            # As one text, of which two words are wanted: to parse it all would take most of the test's time.
            listed: Any = self._admin.execute_command("CLIENT", "LIST")
            now_s = time.time()
            for address, user in _CONNECTION.findall(listed):
                if user != "default":
                    self._sightings[address].append((now_s, user))

    def _attribute(self) -> None:
        for address, commands in self._said.items():
            for at_s, (name, *words) in commands:
                command = name.lower()
                # A port may be used again by another; and what a connection asked that ended unseen may be anybody's.
                for each in self._users_at(address, at_s) or Role:
                    self.commands[each].add(f"{command}|{words[0].lower()}" if command in _CONTAINERS else command)
                    self._words[each].update(word for word in words if len(word) < 200)

    def _users_at(self, address: str, at_s: float) -> set[str]:
        """Return who was seen at an address about then."""
        sightings = self._sightings.get(address, [])
        first = bisect.bisect_left(sightings, (at_s - _ABOUT_S, ""))
        return {user for _, user in itertools.takewhile(lambda seen: seen[0] <= at_s + _ABOUT_S, sightings[first:])}

"""Addresses: what a Redis URL names, be it one server, one behind Sentinel, or a cluster; and a client for it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self, cast
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster, SSLConnection
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.asyncio.sentinel import SentinelManagedConnection as Managed
from redis.asyncio.sentinel import SentinelManagedSSLConnection as ManagedSSL
from redis.backoff import NoBackoff

SCHEMES = (
    "redis", "rediss", "unix", "redis+socket", "valkey", "valkeys",
    "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster",
)  # fmt: skip
"""The schemes that a URL can have. Those with a second s speak TLS."""

# Celery's and Valkey's names for the schemes that redis-py knows.
_SAME = {"valkey": "redis", "valkeys": "rediss", "redis+socket": "unix"}
_PORTS = {"sentinel": 26379, "cluster": 6379}
_OF_SENTINEL = "sentinel_"
_DATABASE = re.compile(r"/?\d*")

_TLS = "ssl_"
_VERIFICATION = ("required", "optional", "none")

Kind = Literal["server", "sentinel", "cluster"]


class OptionError(ValueError):
    """An option of a URL that can't be; its text quotes nothing of the URL that could be secret."""


@dataclass(frozen=True, slots=True)
class Address:
    """What a URL names.

    Attributes:
        kind: what answers there.
        url: for one server, the URL as redis-py reads it.
        hosts: for the others, where to ask first.
        options: for the others, what a connection takes: credentials, TLS, database.
        service: for Sentinel, the name of the primary.
        asking: for Sentinel, what a connection to itself takes.
    """

    kind: Kind
    url: str = field(default="", repr=False)
    hosts: tuple[tuple[str, int], ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False)
    service: str = ""
    asking: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False)

    @classmethod
    def parse(cls, url: str) -> Self:
        """Reads a URL.

        ``redis+sentinel://USER:PASSWORD@HOST:PORT,HOST:PORT/SERVICE/DB`` and ``redis+cluster://…@HOST:PORT,HOST:PORT``
        name several hosts. Options of the connection follow the ``?``, for one to Sentinel itself as ``sentinel_…``.

        Raises:
            OptionError: an option of it can't be.
            ValueError: it can't be read; the text may quote a password.
        """
        url = _with_verification(url)
        scheme, _, rest = url.partition("://")
        plain, _, kind = scheme.partition("+")
        if kind not in _PORTS:
            same = renamed(f"{_SAME.get(scheme, scheme)}://{rest}", "virtual_host", "db")
            parse_url(same)
            if not scheme.startswith(("unix", "redis+socket")) and not _DATABASE.fullmatch(urlsplit(same).path):
                raise ValueError("the database is a number")
            return cls("server", same)
        return cls._of_several(plain, cast("Kind", kind), rest)

    @classmethod
    def _of_several(cls, plain: str, kind: Kind, rest: str) -> Self:
        rest, _, query = rest.partition("?")
        credentials, at, place = rest.rpartition("@")
        hosts, _, path = place.partition("/")
        service, _, database = path.partition("/")
        if kind == "cluster" and path not in ("", "0"):
            raise ValueError("a cluster has one database")
        if kind == "sentinel" and not service:
            raise ValueError("the name of the service is missing")
        asked = parse_qsl(query, strict_parsing=bool(query))
        own = [(name, value) for name, value in asked if not name.startswith(_OF_SENTINEL)]
        options = _options(f"{plain}://{credentials}{at}any/{database or 0}", own)
        asking = _options(f"{plain}://any", [(n.removeprefix(_OF_SENTINEL), v) for n, v in asked if (n, v) not in own])
        if kind == "cluster":
            options.pop("db", None)
        found = tuple(_host(host, _PORTS[kind]) for host in hosts.split(","))
        return cls(kind, "", found, options, service, asking)

    def client(self, **limits: Any) -> Redis:
        """Returns a client that connects on its first use.

        Args:
            limits: what every connection takes besides: timeouts, retries, and ``max_connections``.
        """
        if self.kind == "server":
            return Redis.from_pool(BlockingConnectionPool.from_url(self.url, timeout=None, **limits))
        if self.kind == "cluster":
            nodes = [ClusterNode(host, port) for host, port in self.hosts]
            # The many connections are spread over nodes and opened as needed: a cluster's client has no queue for them.
            limits = {name: limit for name, limit in limits.items() if name != "max_connections"}
            return cast("Redis", RedisCluster(startup_nodes=nodes, **_ssl(self.options), **limits))
        # One that is away is not tried again: the next one is asked.
        asking = {**_ssl(self.asking), "socket_connect_timeout": 1.0, "retry": Retry(NoBackoff(), 0)}
        sentinel = Sentinel(self.hosts, sentinel_kwargs=asking)
        managed = ManagedSSL if self.options.get("connection_class") is SSLConnection else Managed
        options = {**self.options, **limits, "connection_class": managed, "timeout": None}
        return Redis.from_pool(_SentinelPool(self.service, sentinel, **options))


def user_of(url: str) -> str:
    """Return the user as which a URL connects."""
    credentials, at, _ = url.partition("://")[2].partition("?")[0].rpartition("@")
    return (unquote(credentials.partition(":")[0]) if at else "") or "default"


def database_of(url: str) -> int:
    """Return the number of the database that a URL names, 0 if it names none."""
    path, _, query = url.partition("://")[2].partition("?")
    named = dict(parse_qsl(query)).get("db") or dict(parse_qsl(query)).get("virtual_host")
    number = named or path.rpartition("/")[2]
    return int(number) if number.isdecimal() else 0


class _SentinelPool(SentinelConnectionPool, BlockingConnectionPool):
    """Connections to whichever server is the primary; whoever wants one more than there may be waits for it."""


def renamed(url: str, option: str, name: str) -> str:
    """Returns a URL with an option of its query under another name: Celery calls a socket's database ``virtual_host``.

    Raises:
        ValueError: it has options of both names that differ.
    """
    bare, _, query = url.partition("?")
    given = parse_qsl(query, keep_blank_values=True)
    if option not in dict(given):
        return url
    options = {name if key == option else key: value for key, value in given}
    if dict(given).get(name, options[name]) != dict(given)[option]:
        raise ValueError(f"{option} and {name} name two databases")
    return f"{bare}?{urlencode(options, safe='/')}"


def split_tls(url: str) -> tuple[str, dict[str, Any]]:
    """Return a URL without its options of TLS, and those, as redis-py's connections take them; none without TLS.

    Celery hands each option on as the URL spells it, takes a spelling here that it refuses there, and verifies nobody
    where the URL says nothing: so both its broker and its result backend get the options as values.

    Raises:
        OptionError: one of them can't be.
    """
    bare, _, query = _with_verification(url).partition("?")
    given = parse_qsl(query, keep_blank_values=True)
    tls = [(name, value) for name, value in given if name.startswith(_TLS)]
    if not speaks_tls(bare):
        return url, {}
    others = urlencode([pair for pair in given if pair not in tls], safe="/")
    options: dict[str, Any] = {"ssl_cert_reqs": "required", **_options("rediss://any", tls)}
    options = {name: value for name, value in options.items() if name.startswith(_TLS)}
    return f"{bare}?{others}" if others else bare, options


def speaks_tls(url: str) -> bool:
    """Tell whether a Redis URL's scheme speaks TLS."""
    return url.partition("://")[0].partition("+")[0] in ("rediss", "valkeys")


def _with_verification(url: str) -> str:
    """The URL with ``ssl_cert_reqs`` as redis-py spells it: Celery spells ``required`` as ``CERT_REQUIRED``."""
    bare, _, query = url.partition("?")
    given = parse_qsl(query, keep_blank_values=True)
    wanted = [(name, value) for name, value in given if name.removeprefix(_OF_SENTINEL).startswith(_TLS)]
    if not wanted:
        return url
    if not speaks_tls(bare):
        scheme = bare.partition("://")[0]
        raise OptionError(
            f"{wanted[0][0]} is an option of TLS, which {scheme}:// doesn't speak; name a scheme like rediss"
        )
    return f"{bare}?{urlencode([(name, _verification(name, value)) for name, value in given], safe='/')}"


def _verification(option: str, value: str) -> str:
    if option.removeprefix(_OF_SENTINEL) != "ssl_cert_reqs":
        return value
    spelt = value.lower().removeprefix("cert_")
    if spelt not in _VERIFICATION:
        raise OptionError(f"{option} is one of {', '.join(_VERIFICATION)}, or CERT_REQUIRED and so on; got {value!r}")
    return spelt


def masked(url: str) -> str:
    """Returns a Redis URL without its credentials, however oddly they are written."""
    bare = re.sub(r"(?<=://).*@", "***@", url, flags=re.DOTALL)
    return re.sub(r"(?<=password=)[^&#]*", "***", bare)


def _options(url: str, query: list[tuple[str, str]]) -> dict[str, Any]:
    parsed = dict(parse_url(f"{url}?{urlencode(query)}" if query else url))
    return {name: value for name, value in parsed.items() if name not in ("host", "port")}


def _ssl(options: Mapping[str, Any]) -> dict[str, Any]:
    """Clients that make their connections themselves are told of TLS by a flag."""
    plain = {name: value for name, value in options.items() if name != "connection_class"}
    return plain | ({"ssl": True} if options.get("connection_class") is SSLConnection else {})


def _host(text: str, port: int) -> tuple[str, int]:
    match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]]+)(?::(\d{1,5}))?", text)
    if match is None:
        raise ValueError("a host reads NAME:PORT")
    return match[1].strip("[]"), int(match[2] or port)

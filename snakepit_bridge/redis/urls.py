"""Redis URLs: parsing them for single servers, Sentinel and clusters, and creating clients."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self, cast
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from redis import DriverInfo
from redis import __version__ as redis_version
from redis.asyncio import Redis, RedisCluster, SSLConnection
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.asyncio.sentinel import SentinelManagedConnection as Managed
from redis.asyncio.sentinel import SentinelManagedSSLConnection as ManagedSSL
from redis.backoff import NoBackoff

from snakepit_bridge.redis.pools import SentinelPrimaryPool, StayClosedPool

SCHEMES = (
    "redis", "rediss", "unix", "redis+socket", "valkey", "valkeys",
    "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster",
)  # fmt: skip
"""The supported URL schemes. Those with a second s use TLS."""

# Celery's and Valkey's aliases of redis-py's schemes.
_SCHEME_ALIASES = {"valkey": "redis", "valkeys": "rediss", "redis+socket": "unix"}
_PORTS = {"sentinel": 26379, "cluster": 6379}
_SENTINEL_PREFIX = "sentinel_"
SENTINEL_TIMEOUT_S = 1.0
"""Seconds for which one Sentinel is waited for; then the next one is asked, and none of them again."""

DRIVER_INFO = DriverInfo(lib_version=redis_version)
"""How connections introduce themselves. For each of them redis-py would read its version from its package's files."""

_DATABASE = re.compile(r"/?\d*")

_TLS_PREFIX = "ssl_"
_VERIFICATION = ("required", "optional", "none")

Kind = Literal["server", "sentinel", "cluster"]


class OptionError(ValueError):
    """An invalid option of a URL; the message quotes nothing that could be secret."""


@dataclass(frozen=True, slots=True)
class Address:
    """A parsed Redis URL.

    Attributes:
        kind: single server, Sentinel or cluster.
        url: for a single server, the URL as redis-py reads it.
        hosts: otherwise, the hosts to connect to first.
        options: otherwise, connection options: credentials, TLS, database.
        service: for Sentinel, the name of the primary.
        sentinel_options: for Sentinel, options of connections to Sentinel itself.
    """

    kind: Kind
    url: str = field(default="", repr=False)
    hosts: tuple[tuple[str, int], ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False)
    service: str = ""
    sentinel_options: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False)

    @classmethod
    def parse(cls, url: str) -> Self:
        """Parse a URL.

        ``redis+sentinel://USER:PASSWORD@HOST:PORT,HOST:PORT/SERVICE/DB`` and ``redis+cluster://…@HOST:PORT,HOST:PORT``
        name several hosts. Connection options follow the ``?``; those for Sentinel itself are prefixed ``sentinel_``.

        Raises:
            OptionError: an option is invalid.
            ValueError: the URL is invalid; the message may quote a password.
        """
        url = _normalize_verification(url)
        scheme, _, rest = url.partition("://")
        plain, _, kind = scheme.partition("+")
        if kind not in _PORTS:
            plain_url = rename_option(f"{_SCHEME_ALIASES.get(scheme, scheme)}://{rest}", "virtual_host", "db")
            parse_url(plain_url)
            if not scheme.startswith(("unix", "redis+socket")) and not _DATABASE.fullmatch(urlsplit(plain_url).path):
                raise ValueError("the database is a number")
            return cls("server", plain_url)
        return cls._parse_hosts(plain, cast("Kind", kind), rest)

    @classmethod
    def _parse_hosts(cls, plain: str, kind: Kind, rest: str) -> Self:
        rest, _, query = rest.partition("?")
        credentials, at, place = rest.rpartition("@")
        hosts, _, path = place.partition("/")
        service, _, database = path.partition("/")
        if kind == "cluster" and path not in ("", "0"):
            raise ValueError("a cluster has one database")
        if kind == "sentinel" and not service:
            raise ValueError("the name of the service is missing")
        query_options = parse_qsl(query, strict_parsing=bool(query))
        own = [(name, value) for name, value in query_options if not name.startswith(_SENTINEL_PREFIX)]
        options = _parse_options(f"{plain}://{credentials}{at}any/{database or 0}", own)
        others = [
            (name.removeprefix(_SENTINEL_PREFIX), value) for name, value in query_options if (name, value) not in own
        ]
        sentinel_options = _parse_options(f"{plain}://any", others)
        if kind == "cluster":
            options.pop("db", None)
        parsed = tuple(_parse_host(host, _PORTS[kind]) for host in hosts.split(","))
        return cls(kind, "", parsed, options, service, sentinel_options)

    def client(self, **limits: Any) -> Redis:
        """Return a client, which connects on its first use.

        Args:
            limits: more options of every connection: timeouts, retries, and ``max_connections``.
        """
        if self.kind == "cluster":
            nodes = [ClusterNode(host, port) for host, port in self.hosts]
            # A cluster's client spreads connections over nodes, opens them as needed, and can't queue for them.
            limits = {name: limit for name, limit in limits.items() if name != "max_connections"}
            return cast("Redis", RedisCluster(startup_nodes=nodes, **_tls_as_flag(self.options), **limits))
        # Clients of a cluster take it since redis-py 8 only.
        limits = {"driver_info": DRIVER_INFO, **limits}
        if self.kind == "server":
            return Redis.from_pool(StayClosedPool.from_url(self.url, timeout=None, **limits))
        sentinel = Sentinel(self.hosts, sentinel_kwargs={**sentinel_arguments(self), "retry": Retry(NoBackoff(), 0)})
        managed = ManagedSSL if self.options.get("connection_class") is SSLConnection else Managed
        options = {**self.options, **limits, "connection_class": managed, "timeout": None}
        return Redis.from_pool(SentinelPrimaryPool(self.service, sentinel, **options))


def sentinel_arguments(address: Address) -> dict[str, Any]:
    """Return the options of connections to Sentinel itself; one that is unreachable or hangs is soon given up."""
    timeouts = {"socket_connect_timeout": SENTINEL_TIMEOUT_S, "socket_timeout": SENTINEL_TIMEOUT_S}
    return {**_tls_as_flag(address.sentinel_options), **timeouts, "driver_info": DRIVER_INFO}


def user_of(url: str) -> str:
    """Return the user name of a URL."""
    credentials, at, _ = url.partition("://")[2].partition("?")[0].rpartition("@")
    return (unquote(credentials.partition(":")[0]) if at else "") or "default"


def database_of(url: str) -> int:
    """Return the database number of a URL, 0 by default."""
    path, _, query = url.partition("://")[2].partition("?")
    option = dict(parse_qsl(query)).get("db") or dict(parse_qsl(query)).get("virtual_host")
    number = option or path.rpartition("/")[2]
    return int(number) if number.isdecimal() else 0


def rename_option(url: str, option: str, name: str) -> str:
    """Rename an option of a URL's query: Celery calls a socket's database ``virtual_host``.

    Raises:
        ValueError: both options are given and differ.
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
    """Split a URL into one without TLS options and those options as values for redis-py; none without TLS.

    Celery passes the options on as the URL spells them, accepts different spellings for broker and result backend, and
    doesn't verify certificates by default: so both get the options as values.

    Raises:
        OptionError: an option is invalid.
    """
    bare, _, query = _normalize_verification(url).partition("?")
    given = parse_qsl(query, keep_blank_values=True)
    tls = [(name, value) for name, value in given if name.startswith(_TLS_PREFIX)]
    if not uses_tls(bare):
        return url, {}
    others = urlencode([pair for pair in given if pair not in tls], safe="/")
    options: dict[str, Any] = {"ssl_cert_reqs": "required", **_parse_options("rediss://any", tls)}
    options = {name: value for name, value in options.items() if name.startswith(_TLS_PREFIX)}
    return f"{bare}?{others}" if others else bare, options


def uses_tls(url: str) -> bool:
    """Check whether a Redis URL's scheme uses TLS."""
    return url.partition("://")[0].partition("+")[0] in ("rediss", "valkeys")


def _normalize_verification(url: str) -> str:
    """Return the URL with redis-py's spelling of ``ssl_cert_reqs``; Celery spells ``required`` ``CERT_REQUIRED``."""
    bare, _, query = url.partition("?")
    given = parse_qsl(query, keep_blank_values=True)
    wanted = [(name, value) for name, value in given if name.removeprefix(_SENTINEL_PREFIX).startswith(_TLS_PREFIX)]
    if not wanted:
        return url
    if not uses_tls(bare):
        scheme = bare.partition("://")[0]
        raise OptionError(
            f"{wanted[0][0]} is an option of TLS, which {scheme}:// doesn't speak; name a scheme like rediss"
        )
    return f"{bare}?{urlencode([(name, _normalize_option(name, value)) for name, value in given], safe='/')}"


def _normalize_option(option: str, value: str) -> str:
    if option.removeprefix(_SENTINEL_PREFIX) != "ssl_cert_reqs":
        return value
    normalized = value.lower().removeprefix("cert_")
    if normalized not in _VERIFICATION:
        raise OptionError(f"{option} is one of {', '.join(_VERIFICATION)}, or CERT_REQUIRED and so on; got {value!r}")
    return normalized


def mask_url(url: str) -> str:
    """Return a Redis URL with its credentials masked, even if it is malformed."""
    bare = re.sub(r"(?<=://).*@", "***@", url, flags=re.DOTALL)
    return re.sub(r"(?<=password=)[^&#]*", "***", bare)


def _parse_options(url: str, query: list[tuple[str, str]]) -> dict[str, Any]:
    parsed = dict(parse_url(f"{url}?{urlencode(query)}" if query else url))
    return {name: value for name, value in parsed.items() if name not in ("host", "port")}


def _tls_as_flag(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options with TLS as a flag, for clients that create their connections themselves."""
    plain = {name: value for name, value in options.items() if name != "connection_class"}
    return plain | ({"ssl": True} if options.get("connection_class") is SSLConnection else {})


def _parse_host(text: str, port: int) -> tuple[str, int]:
    match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]]+)(?::(\d{1,5}))?", text)
    if match is None:
        raise ValueError("a host reads NAME:PORT")
    return match[1].strip("[]"), int(match[2] or port)

"""The program registry: name and version to spec, in Redis, shared by all clients and workers.

Keys, all permanent: ``{namespace}:programs`` (a set of names) and per program, under one hash tag, a hash from
versions and labels to digests, and one string per spec.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from types import MappingProxyType
from typing import Self

from snakepit_bridge.exceptions import ProgramNotFoundError, ProgramSpecError
from snakepit_bridge.process.lru_cache import ThreadSafeLRUCache
from snakepit_bridge.programs.spec import ProgramSpec, check_name, digest
from snakepit_bridge.programs.staging import StagedLabel, parse_entry
from snakepit_bridge.protocol.namespaces import DEFAULT_NAMESPACE
from snakepit_bridge.protocol.targeting import Attributes
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.key_names import FleetKeys
from snakepit_bridge.redis.scripts import ScriptPackage
from snakepit_bridge.rollouts.records import ArmAssignment

_REFERENCE = re.compile(
    r"(?P<name>[A-Za-z0-9][A-Za-z0-9_.-]{0,99})(?:@(?P<label>[A-Za-z0-9_.-]{1,100})|:(?P<version>\d{1,9}))?"
)
_MAX_CACHED_SPECS = 512
_NO_ATTRIBUTES: Attributes = MappingProxyType({})
_SCRIPTS = ScriptPackage("snakepit_bridge.programs")


@dataclass(frozen=True, slots=True)
class Reference:
    """A reference to a program: ``qa`` (the newest version), ``qa@prod`` (a label) or ``qa:3`` (a version)."""

    name: str
    label: str | None = None
    version: int | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a reference.

        Raises:
            ProgramNotFoundError: the text isn't a valid reference.
        """
        match = _REFERENCE.fullmatch(text)
        if match is None:
            raise ProgramNotFoundError(text[:120])
        return cls(match["name"], match["label"], int(match["version"]) if match["version"] else None)

    def __str__(self) -> str:
        if self.label is not None:
            return f"{self.name}@{self.label}"
        return self.name if self.version is None else f"{self.name}:{self.version}"

    @property
    def field(self) -> str:
        """The field of the program's hash that this reference reads."""
        if self.label is not None:
            return f"label:{self.label}"
        return "latest" if self.version is None else f"version:{self.version}"


@dataclass(frozen=True, slots=True)
class Program:
    """One version of a registered program."""

    name: str
    version: int
    digest: str
    spec: ProgramSpec


@dataclass(frozen=True, slots=True)
class ProgramListing:
    """A program as ``programs`` lists it: its newest version, and the labels with their versions."""

    name: str
    latest: int
    labels: dict[str, int]


class ProgramRegistry:
    """The programs of one Redis.

    Args:
        connection: connection to it.
        namespace: prefix of every key.
    """

    def __init__(self, connection: RedisConnection, *, namespace: str = DEFAULT_NAMESPACE) -> None:
        self.connection = connection
        self.keys = FleetKeys(namespace)
        self._specs: ThreadSafeLRUCache[str, ProgramSpec] = ThreadSafeLRUCache(_MAX_CACHED_SPECS)

    async def register(self, name: str, spec: ProgramSpec) -> Program:
        """Store a spec as the program's newest version and return it; the same content keeps its version.

        The caller has checked the spec (see :func:`~.build.check_spec`).

        Raises:
            ProgramSpecError: the name is invalid.
            StoreUnavailableError: Redis can't be reached.
        """
        check_name(name)
        encoded = spec.encode()
        content = digest(encoded)
        client = self.connection.client
        # A name without a version is harmless, a version without a name would be hidden: so the name is added first.
        await self.connection.wait_bounded(client.sadd(self.keys.programs, name))
        keys = [self.keys.program_versions(name), self.keys.program_spec(name, content)]
        entry: bytes = await self.connection.run(_SCRIPTS["register"], keys, [content, encoded])
        version, _ = parse_entry(name, entry)
        return Program(name, version, content, spec)

    async def get(self, reference: str) -> Program:
        """Return the program that a reference resolves to now; specs are cached in this process.

        A label resolves to what it points at, also while it is staged: that is the baseline.

        Raises:
            ProgramNotFoundError: no such program, version or label.
            StoreUnavailableError: Redis can't be reached.
        """
        wanted = Reference.parse(reference)
        entry = await self.connection.execute_read("HGET", self.keys.program_versions(wanted.name), wanted.field)
        return await self._load(wanted, entry)

    async def resolve(
        self, reference: str, key: str, now_s: float, attributes: Attributes = _NO_ATTRIBUTES
    ) -> tuple[Program, ArmAssignment | None]:
        """Return the program that a request gets for a reference, and its arm if that is a label which is staged.

        Args:
            reference: of the program.
            key: the request's targeting key.
            now_s: the time in Unix seconds.
            attributes: the request's, for the segments of experiments.

        Raises:
            ProgramNotFoundError: no such program, version or label.
            ProgramSpecError: Redis holds something else than what was stored.
            StoreUnavailableError: Redis can't be reached.
            ValueError: the key is too long.
        """
        wanted = Reference.parse(reference)
        if wanted.label is None:
            return await self.get(reference), None
        fields = wanted.field, f"rollout:{wanted.label}", f"experiments:{wanted.label}"
        found = await self.connection.execute_read("HMGET", self.keys.program_versions(wanted.name), *fields)
        entry, assignment = found[0], None
        if entry is not None:
            entry, assignment = StagedLabel(wanted.name, wanted.label, *found).assign(key, attributes, now_s)
        return await self._load(wanted, entry), assignment

    async def label(self, name: str, label: str, version: int, *, author: str = "", reason: str = "") -> None:
        """Point a label such as ``prod`` at a version; a rollout of the label ends, unless the label stays there.

        Experiments go on: their arms are versions, whatever the label points at.

        Args:
            name, label, version: what is to point where.
            author, reason: of the event, if a rollout ends.

        Raises:
            ProgramNotFoundError: there is no such version.
        """
        check_name(label)
        keys = [self.keys.program_versions(name), self.keys.program_rollouts(name, label)]
        if not await self.connection.run(_SCRIPTS["label"], keys, [label, version, author, reason]):
            raise ProgramNotFoundError(f"{name}:{version}", await self._list_alternatives(name))

    async def list(self) -> list[ProgramListing]:
        """Return every program, by name."""
        names = await self._list_names()
        if not names:
            return []
        pipeline = self.connection.client.pipeline(transaction=False)
        for name in names:
            pipeline.hgetall(self.keys.program_versions(name))
        found = await self.connection.wait_bounded(pipeline.execute())
        return [_build_listing(name, fields) for name, fields in zip(names, found, strict=True) if fields]

    async def _load(self, wanted: Reference, entry: bytes | None) -> Program:
        if entry is None:
            raise ProgramNotFoundError(str(wanted), await self._list_alternatives(wanted.name))
        version, content = parse_entry(wanted.name, entry)
        return Program(wanted.name, version, content, await self._load_spec(wanted.name, content))

    async def _list_names(self) -> list[str]:
        found = await self.connection.wait_bounded(self.connection.client.smembers(self.keys.programs))
        return sorted(_as_bytes(name).decode() for name in found)

    async def _list_alternatives(self, name: str) -> list[str]:
        """Return suggestions: the references of the same program if it exists, else all names."""
        keys = await self.connection.wait_bounded(self.connection.client.hkeys(self.keys.program_versions(name)))
        if not keys:
            return await self._list_names()
        fields = (_as_bytes(key).decode().partition(":") for key in keys)
        marks = {"label": "@", "version": ":"}
        return [name, *(f"{name}{marks[kind]}{text}" for kind, _, text in fields if kind in marks)]

    async def _load_spec(self, name: str, content: str) -> ProgramSpec:
        spec = self._specs.get(content)
        if spec is None:
            found = await self.connection.wait_bounded(
                self.connection.client.get(self.keys.program_spec(name, content))
            )
            encoded = b"" if found is None else _as_bytes(found)
            if digest(encoded) != content:
                raise ProgramSpecError(
                    name, "the whole", "what Redis holds isn't what was registered; register it again"
                )
            spec = ProgramSpec.parse(encoded, program=name)
            self._specs.put(content, spec)
        return spec


def _as_bytes(answer: bytes | str) -> bytes:
    """Narrow a reply to bytes: our client doesn't decode, and redis-py's types allow both."""
    assert isinstance(answer, bytes)
    return answer


def _build_listing(name: str, fields: dict[bytes, bytes]) -> ProgramListing:
    labels = {
        field.decode().removeprefix("label:"): parse_entry(name, entry)[0]
        for field, entry in sorted(fields.items())
        if field.startswith(b"label:")
    }
    return ProgramListing(name, parse_entry(name, fields[b"latest"])[0], labels)

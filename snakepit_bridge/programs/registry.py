"""The program registry: name and version to spec, in Redis, shared by all clients and workers.

Keys, all permanent: ``{namespace}:programs`` (a set of names) and per program, under one hash tag, a hash from
versions and labels to digests, and one string per spec.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from types import MappingProxyType
from typing import Self

from snakepit_bridge.audit.change_control import UNSET, ControlledChange, open_change_control, read_nothing
from snakepit_bridge.audit.entries import AuditSource
from snakepit_bridge.audit.trail import RedisAuditTrail
from snakepit_bridge.encryption.cipher import PLAIN, Cipher
from snakepit_bridge.exceptions import ProgramNotFoundError, ProgramSpecError, RolloutMovedError
from snakepit_bridge.process.lru_cache import ThreadSafeLRUCache
from snakepit_bridge.programs.controlled import describe_label_move, raise_if_refused
from snakepit_bridge.programs.spec import ProgramSpec, check_name, digest
from snakepit_bridge.programs.staging import StagedLabel, parse_entry, parse_record
from snakepit_bridge.protocol.namespaces import DEFAULT_NAMESPACE
from snakepit_bridge.protocol.targeting import Attributes
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.key_names import FleetKeys
from snakepit_bridge.redis.scripts import ScriptPackage
from snakepit_bridge.rollouts.records import ArmAssignment, RolloutRecord

_REFERENCE = re.compile(
    r"(?P<name>[A-Za-z0-9][A-Za-z0-9_.-]{0,99})(?:@(?P<label>[A-Za-z0-9_.-]{1,100})|:(?P<version>\d{1,9})"
    r"|#(?P<digest>[0-9a-f]{64}))?"
)
_NO_REFERENCE = "a reference reads NAME, NAME:VERSION, NAME@LABEL or NAME#DIGEST"
_MAX_CACHED_SPECS = 512

UNREGISTERED = 0
"""The version of a variant, which is known by its digest alone."""

VARIANT_KEPT_S = 86_400
"""Seconds for which a variant is kept after it was stored last."""

_NO_ATTRIBUTES: Attributes = MappingProxyType({})
_SCRIPTS = ScriptPackage("snakepit_bridge.programs")


@dataclass(frozen=True, slots=True)
class Reference:
    """A reference to a program.

    It reads ``qa`` (the newest version), ``qa@prod`` (a label), ``qa:3`` (a version) or ``qa#DIGEST`` (a variant).
    """

    name: str
    label: str | None = None
    version: int | None = None
    digest: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a reference.

        Raises:
            ProgramNotFoundError: the text isn't a valid reference.
        """
        match = _REFERENCE.fullmatch(text)
        if match is None:
            raise ProgramNotFoundError(text[:120], (), _NO_REFERENCE)
        return cls(match["name"], match["label"], int(match["version"]) if match["version"] else None, match["digest"])

    def __str__(self) -> str:
        if self.label is not None:
            return f"{self.name}@{self.label}"
        if self.digest is not None:
            return f"{self.name}#{self.digest}"
        return self.name if self.version is None else f"{self.name}:{self.version}"

    @property
    def field(self) -> str:
        """The field of the program's hash that this reference reads."""
        if self.label is not None:
            return f"label:{self.label}"
        return "latest" if self.version is None else f"version:{self.version}"


@dataclass(frozen=True, slots=True)
class Program:
    """One version of a registered program, or a variant of it, whose version is 0."""

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


@dataclass(frozen=True, slots=True)
class ProgramVersion:
    """A version of a program, without its spec."""

    version: int
    digest: str
    labels: tuple[str, ...]


class ProgramRegistry:
    """The programs of one Redis.

    Args:
        connection: connection to it.
        namespace: prefix of every key.
        source: where this process's changes come from, for the audit trail.
        cipher: encrypts changes of labels that wait for approval.
    """

    def __init__(
        self,
        connection: RedisConnection,
        *,
        namespace: str = DEFAULT_NAMESPACE,
        source: AuditSource = AuditSource.CLIENT,
        cipher: Cipher = PLAIN,
    ) -> None:
        self.connection = connection
        self.keys = FleetKeys(namespace)
        self.control = open_change_control(connection, namespace, source, cipher)
        self.trail = RedisAuditTrail(connection, namespace=namespace, source=source)
        self._specs: ThreadSafeLRUCache[str, ProgramSpec] = ThreadSafeLRUCache(_MAX_CACHED_SPECS)

    async def register(self, name: str, spec: ProgramSpec, *, author: str = "") -> Program:
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
        change = ControlledChange("register", f"program:{name}", author)
        args = [content, encoded, author, *self.trail.build_args(change.target)]

        async def register() -> bytes:
            return await self.connection.run(_SCRIPTS["register"], keys, args)

        entry = await self.control.carry_out(change, register, read_nothing)
        version, _ = parse_entry(name, entry)
        return Program(name, version, content, spec)

    async def store_variant(self, name: str, spec: ProgramSpec) -> Reference:
        """Store a spec that isn't registered and return the reference under which it runs, for a day.

        Storing it again keeps it for another day. The caller has checked the spec (see :func:`~.build.check_spec`).

        Raises:
            ProgramSpecError: the name is invalid.
            StoreUnavailableError: Redis can't be reached.
        """
        encoded = spec.encode()
        content = digest(encoded)
        key = self.keys.program_variant(check_name(name), content)
        await self.connection.execute("SET", key, encoded, "EX", VARIANT_KEPT_S)
        return Reference(name, digest=content)

    async def get(self, reference: str) -> Program:
        """Return the program that a reference resolves to now; specs are cached in this process.

        A label resolves to what it points at, also while it is staged: that is the baseline.

        Raises:
            ProgramNotFoundError: no such program, version or label.
            StoreUnavailableError: Redis can't be reached.
        """
        wanted = Reference.parse(reference)
        if wanted.digest is not None:
            return await self._load_variant(wanted, wanted.digest)
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

    async def label(
        self,
        name: str,
        label: str,
        version: int,
        *,
        author: str = "",
        reason: str = "",
        expected: str = "",
        approval: str = "",
    ) -> RolloutRecord | None:
        """Point a label such as ``prod`` at a version; an open rollout of the label ends, even if the label stays.

        Experiments go on: their arms are versions, whatever the label points at.

        Args:
            name, label, version: what is to point where.
            author, reason: recorded, also with the end of a rollout.
            expected: the version that the label has to be at, or ``none`` if it isn't set; empty for any.
            approval: the id of the request for it that was approved.

        Returns:
            The rollout that it ended; None for none.

        Raises:
            ProgramNotFoundError: there is no such version.
            ProgramSpecError: Redis holds something else than a rollout there.
            ApprovalRequiredError: a rule protects the label.
            RolloutMovedError: the label isn't at ``expected``.
        """
        check_name(label)
        keys = [self.keys.program_versions(name), self.keys.program_rollouts(name, label)]
        change = describe_label_move(name, label, version, author, reason, expected, approval)
        args = [label, version, author, reason, expected, *self.trail.build_args(change.target, approval)]

        async def move() -> list[bytes]:
            reply: list[bytes] = await self.connection.run(_SCRIPTS["label"], keys, args)
            if reply[0] == b"unknown":
                raise ProgramNotFoundError(f"{name}:{version}", await self._list_alternatives(name))
            if reply[0] == b"moved":
                raise RolloutMovedError(change.target, expected, reply[1].decode())
            raise_if_refused(reply, approval)
            return reply

        reply = await self.control.carry_out(change, move, lambda: self.read_label(name, label))
        return parse_record(name, reply[1]) if reply[1] else None

    async def read_label(self, name: str, label: str) -> str:
        """Return the version that a label points at, as text; ``none`` if it isn't set.

        Raises:
            StoreUnavailableError: Redis can't be reached.
        """
        field = Reference(name, label=label).field
        entry = await self.connection.execute_read("HGET", self.keys.program_versions(name), field)
        return UNSET if entry is None else str(parse_entry(name, entry)[0])

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

    async def versions(self, name: str) -> list[ProgramVersion]:
        """Return every version of a program, the newest first, with the labels that point at it.

        Raises:
            ProgramNotFoundError: there is no such program.
            StoreUnavailableError: Redis can't be reached.
        """
        wanted = Reference.parse(name)
        stored = await self.connection.wait_bounded(
            self.connection.client.hgetall(self.keys.program_versions(wanted.name))
        )
        if not stored or wanted != Reference(wanted.name):
            raise ProgramNotFoundError(name, await self._list_names())
        fields = {_as_bytes(field): _as_bytes(entry) for field, entry in stored.items()}
        labels = _build_listing(name, fields).labels
        entries = [parse_entry(name, entry) for field, entry in fields.items() if field.startswith(b"version:")]
        return [
            ProgramVersion(version, digest, tuple(label for label, at in labels.items() if at == version))
            for version, digest in sorted(entries, reverse=True)
        ]

    async def _load(self, wanted: Reference, entry: bytes | None) -> Program:
        if entry is None:
            raise ProgramNotFoundError(str(wanted), await self._list_alternatives(wanted.name))
        version, content = parse_entry(wanted.name, entry)
        return Program(wanted.name, version, content, await self._load_spec(wanted.name, content))

    async def _load_variant(self, wanted: Reference, content: str) -> Program:
        spec = self._specs.get(content)
        if spec is None:
            key = self.keys.program_variant(wanted.name, content)
            found = await self.connection.execute_read("GET", key)
            if found is None:
                raise ProgramNotFoundError(str(wanted), await self._list_alternatives(wanted.name))
            spec = self._parse_spec(wanted.name, content, _as_bytes(found))
        return Program(wanted.name, UNREGISTERED, content, spec)

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
            spec = self._parse_spec(name, content, b"" if found is None else _as_bytes(found))
        return spec

    def _parse_spec(self, name: str, content: str, encoded: bytes) -> ProgramSpec:
        """Return the spec that is stored under a digest, and keep it."""
        if digest(encoded) != content:
            raise ProgramSpecError(name, "the whole", "what Redis holds isn't what was registered; register it again")
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

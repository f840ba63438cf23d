"""Requests: changes of what is protected, which wait until somebody else approves them."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

from typing_extensions import override

from snakepit_bridge.audit.entries import AuditSource, identify
from snakepit_bridge.encryption.cipher import PLAIN, Cipher
from snakepit_bridge.exceptions import ApprovalError, ApprovalNotFoundError
from snakepit_bridge.protocol.namespaces import DEFAULT_NAMESPACE
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.key_names import FleetKeys
from snakepit_bridge.redis.scripts import ScriptPackage
from snakepit_bridge.variables.codec import encode_canonical, parse

REQUEST_TTL_S = 86_400
"""Seconds for which a request waits for its approvals."""

_APPROVER = b"approver:"
# What the cipher calls a request.
_KIND = "approval_request"
# Requests stay listed for as much longer as clocks may differ.
_CLOCK_SKEW_S = 60.0
_SCRIPTS = ScriptPackage("snakepit_bridge.audit")


@dataclass(frozen=True, slots=True)
class ApprovalRequest:
    """A change that waits for approval.

    Attributes:
        operation: what is to be done, such as ``publish`` or ``label``.
        target: with what, such as ``session:shop`` or ``program:qa@prod``.
        arguments: what it takes besides: JSON values.
        expected: the token or version that the target has to be at still; empty if it doesn't matter.
        author: who requested it.
        reason: why.
        rule: the rule that protects the target, such as ``label:stable``.
        needed: how many approvals it needs.
        source: where the request came from.
        created_at, expires_at: in Unix seconds.
        digest: of what is to be done, in hex; with keys of encryption nobody else can compute it. Empty before it is
            stored.
        approvers: who has approved it so far.
    """

    operation: str
    target: str
    arguments: Mapping[str, Any]
    expected: str
    author: str
    reason: str
    rule: str = ""
    needed: int = 1
    source: AuditSource = AuditSource.CLIENT
    created_at: float = 0.0
    expires_at: float = 0.0
    digest: str = ""
    approvers: tuple[str, ...] = field(default=(), compare=False)

    def encode_content(self) -> bytes:
        """Return the text of what is to be done, and by whom: equal requests of one author are one."""
        parts = [self.operation, self.target, dict(self.arguments), self.expected, self.author, self.reason]
        return encode_canonical(parts)

    @property
    def id(self) -> str:
        """The request's id, the beginning of its digest."""
        return self.digest[:16]

    @property
    def is_approved(self) -> bool:
        """Whether it has the approvals that it needs."""
        return len(self.approvers) >= self.needed

    def encode(self) -> bytes:
        """Return the JSON text of all but the approvers."""
        fields = asdict(self)
        del fields["approvers"]
        return encode_canonical(fields)

    @classmethod
    def decode(cls, text: bytes, approvers: tuple[str, ...]) -> Self:
        """Parse the form of ``encode``."""
        fields: dict[str, Any] = parse(text)
        fields["source"] = AuditSource(fields["source"])
        return cls(**fields, approvers=approvers)

    def as_dict(self) -> dict[str, Any]:
        """Return all fields as JSON values, with the id and the digest."""
        return {"id": self.id, **asdict(self), "approvers": list(self.approvers)}

    def check_approver(self, approver: str) -> str:
        """Return the name by which an approver counts.

        Raises:
            ApprovalError: it is blank, it is the requester's, or it has approved already.
        """
        name = identify(approver).strip()
        if not name:
            raise ApprovalError(self.id, "an approval needs the name of who gives it; give an author")
        if name == identify(self.author):
            raise ApprovalError(self.id, f"{name} requested it, and somebody else has to approve it")
        if name in self.approvers:
            raise ApprovalError(self.id, f"{name} has approved it already; it needs {self.needed} different people")
        return name


class ApprovalRequests(ABC):
    """The requests of one fleet."""

    @abstractmethod
    async def add(self, request: ApprovalRequest) -> ApprovalRequest:
        """Store a request, and return it; the same one that waits already stays as it is."""

    @abstractmethod
    async def list(self) -> list[ApprovalRequest]:
        """Return the requests that wait, the oldest first.

        Raises:
            StoreUnavailableError: Redis is away.
        """

    @abstractmethod
    async def get(self, id: str) -> ApprovalRequest:
        """Return a request that waits.

        Raises:
            ApprovalNotFoundError: it was applied, was rejected or has expired.
            StoreUnavailableError: Redis is away.
        """

    @abstractmethod
    async def approve(self, id: str, approver: str) -> ApprovalRequest:
        """Add an approval, and return the request with it; it isn't applied by this.

        Raises:
            ApprovalError: the approver can't approve it.
            ApprovalNotFoundError: it was applied, was rejected or has expired.
        """

    @abstractmethod
    async def remove(self, id: str) -> None:
        """Remove a request, if it waits still."""


class RedisApprovalRequests(ApprovalRequests):
    """The requests of one fleet, in Redis: a hash each, which expires.

    Args:
        connection: the fleet's Redis.
        namespace: prefix of every key.
        cipher: encrypts them, since they hold the values that are to be published.
    """

    def __init__(
        self, connection: RedisConnection, *, namespace: str = DEFAULT_NAMESPACE, cipher: Cipher = PLAIN
    ) -> None:
        self._connection = connection
        self._keys = FleetKeys(namespace)
        self._cipher = cipher

    @override
    async def add(self, request: ApprovalRequest) -> ApprovalRequest:
        request = replace(request, digest=self._cipher.digest(_KIND, request.encode_content()))
        key, execute = self._keys.approval_request(request.id), self._connection.execute
        # The index first: an id without a request is left out, and a request that isn't listed would wait unseen.
        await execute("ZADD", self._keys.approvals, "NX", request.expires_at, request.id)
        await execute("EXPIRE", self._keys.approvals, 2 * REQUEST_TTL_S)
        text = self._cipher.encrypt(_KIND, (request.id,), request.encode())
        args = [text, request.needed, REQUEST_TTL_S * 1000]
        await self._connection.run(_SCRIPTS["add_request"], [key], args)
        return await self.get(request.id)

    @override
    async def list(self) -> list[ApprovalRequest]:
        await self._connection.execute("ZREMRANGEBYSCORE", self._keys.approvals, "-inf", time.time() - _CLOCK_SKEW_S)
        ids: list[bytes] = await self._connection.execute_read("ZRANGE", self._keys.approvals, 0, -1)
        found = [await self._read(id.decode()) for id in ids]
        return sorted((request for request in found if request is not None), key=lambda each: each.created_at)

    @override
    async def get(self, id: str) -> ApprovalRequest:
        request = await self._read(id)
        if request is None:
            raise ApprovalNotFoundError(id)
        return request

    @override
    async def approve(self, id: str, approver: str) -> ApprovalRequest:
        name = (await self.get(id)).check_approver(approver)
        # One that is gone meanwhile must not be created anew, so that the approval is written only beside it.
        key = self._keys.approval_request(id)
        if not await self._connection.run(_SCRIPTS["approve"], [key], [name, f"{time.time():.3f}"]):
            raise ApprovalNotFoundError(id)
        return await self.get(id)

    @override
    async def remove(self, id: str) -> None:
        await self._connection.execute("DEL", self._keys.approval_request(id))
        await self._connection.execute("ZREM", self._keys.approvals, id)

    async def _read(self, id: str) -> ApprovalRequest | None:
        found: dict[bytes, bytes] = await self._connection.execute_read("HGETALL", self._keys.approval_request(id))
        if b"request" not in found:
            return None
        approvers = sorted(name.removeprefix(_APPROVER).decode() for name in found if name.startswith(_APPROVER))
        text = self._cipher.decrypt(_KIND, (id,), found[b"request"])
        return ApprovalRequest.decode(text, tuple(approvers))


class MemoryApprovalRequests(ApprovalRequests):
    """The requests of a store in memory."""

    def __init__(self) -> None:
        self._requests: dict[str, ApprovalRequest] = {}

    def find(self, id: str) -> ApprovalRequest | None:
        """Return a request that waits, or None."""
        request = self._requests.get(id)
        return None if request is None or request.expires_at <= time.time() else request

    @override
    async def add(self, request: ApprovalRequest) -> ApprovalRequest:
        request = replace(request, digest=PLAIN.digest(_KIND, request.encode_content()))
        kept = self.find(request.id) or request
        self._requests[request.id] = kept
        return kept

    @override
    async def list(self) -> list[ApprovalRequest]:
        waiting = [request for id in self._requests if (request := self.find(id)) is not None]
        return sorted(waiting, key=lambda each: each.created_at)

    @override
    async def get(self, id: str) -> ApprovalRequest:
        request = self.find(id)
        if request is None:
            raise ApprovalNotFoundError(id)
        return request

    @override
    async def approve(self, id: str, approver: str) -> ApprovalRequest:
        request = await self.get(id)
        name = request.check_approver(approver)
        self._requests[id] = replace(request, approvers=(*request.approvers, name))
        return self._requests[id]

    def discard(self, id: str) -> None:
        """Remove a request, if it waits still."""
        self._requests.pop(id, None)

    @override
    async def remove(self, id: str) -> None:
        self.discard(id)

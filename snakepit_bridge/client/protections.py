"""``fleet.protections``: the rules by which changes of sessions and labels need somebody else's approval."""

from __future__ import annotations

import time

from snakepit_bridge.audit.change_control import (
    ControlledChange,
    TargetProtectedError,
    open_change_control,
    raise_if_protected,
)
from snakepit_bridge.audit.entries import AuditSource
from snakepit_bridge.audit.protections import MAX_PROTECTIONS, Protection, ProtectionKind
from snakepit_bridge.audit.trail import RedisAuditTrail
from snakepit_bridge.encryption.cipher import PLAIN, Cipher
from snakepit_bridge.exceptions import ApprovalNotFoundError, ProtectionError
from snakepit_bridge.process.home_loop import run_blocking, run_on_home_loop
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.key_names import FleetKeys
from snakepit_bridge.redis.scripts import ScriptPackage
from snakepit_bridge.snapshots.records import STORE
from snakepit_bridge.snapshots.redis_heads import RedisHeads
from snakepit_bridge.snapshots.redis_keys import Keys

_SCRIPTS = ScriptPackage("snakepit_bridge.audit")


class AsyncProtections:
    """The rules of a fleet, for callers that await.

    Args:
        connection: to the fleet's Redis.
        namespace: the fleet's.
        source: where changes of the rules come from, for the audit trail.
        cipher: encrypts what waits for approval.
    """

    def __init__(
        self,
        connection: RedisConnection,
        namespace: str,
        source: AuditSource = AuditSource.CLIENT,
        cipher: Cipher = PLAIN,
    ) -> None:
        self.control = open_change_control(connection, namespace, source, cipher)
        self._connection = connection
        self._keys = FleetKeys(namespace)
        self._trail = RedisAuditTrail(connection, namespace=namespace, source=source)

    async def list(self) -> list[Protection]:
        """Return the rules, by kind and pattern.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        return await run_on_home_loop(self.control.protections.list())

    async def protect(
        self,
        kind: ProtectionKind | str,
        pattern: str,
        *,
        approvals: int = 1,
        author: str = "",
        approval: str = "",
    ) -> Protection:
        """Set a rule, in place of the one of the same pattern: what it names is changed only with approvals.

        Args:
            kind: ``session`` or ``label``.
            pattern: of names, in which ``*`` stands for any text; of labels ``stable``, or ``qa@prod`` with the name of
                the program or session.
            approvals: how many people have to approve. Fewer than the rule asks for now need the approvals that it
                asks for.
            author: who sets it.
            approval: the id of the request for it that was approved.

        Raises:
            ProtectionError: the rule can't be one, it is of a session that an Elixir server publishes, or there are too
                many.
            ApprovalRequiredError: the rule would ask for fewer approvals; a request waits.
            StoreUnavailableError: Redis is away.
        """
        rule = Protection(_parse_kind(kind), pattern, approvals, author, time.time())
        await run_on_home_loop(self._check_owner(rule))
        change = ControlledChange(
            "protect", f"protection:{rule}", author,
            build_arguments=lambda: {"approvals": approvals}, approval=approval,
        )  # fmt: skip
        await run_on_home_loop(self._change(change, rule, rule))
        return rule

    async def unprotect(
        self, kind: ProtectionKind | str, pattern: str, *, author: str = "", approval: str = ""
    ) -> None:
        """Remove a rule, which needs the approvals that it asks for.

        Args:
            kind, pattern: of the rule.
            author: who removes it.
            approval: the id of the request for it that was approved.

        Raises:
            ProtectionError: there is no such rule.
            ApprovalRequiredError: a request waits.
            StoreUnavailableError: Redis is away.
        """
        rule = await run_on_home_loop(self.control.protections.get(_parse_kind(kind), pattern))
        if rule is None:
            known = ", ".join(map(str, await self.list())) or "none"
            raise ProtectionError(f"{kind}:{pattern}", f"there is no such rule; there are: {known}")
        change = ControlledChange("unprotect", f"protection:{rule}", author, approval=approval)
        await run_on_home_loop(self._change(change, rule, None))

    async def _check_owner(self, rule: Protection) -> None:
        """Refuse a rule of one session whose changes an Elixir server makes.

        Raises:
            ProtectionError: it is.
        """
        if rule.kind is not ProtectionKind.SESSION or "*" in rule.pattern:
            return
        heads = await RedisHeads(self._connection, Keys(self._keys.namespace)).read([rule.pattern])
        head = heads.get(rule.pattern)
        if head is not None and head.authority != STORE:
            raise ProtectionError(
                str(rule),
                f"the session is published by '{head.authority}', whose changes count once they are made. Protect a "
                f"label of it, to whose token predictions are pinned ({rule.pattern}@stable), or have its application "
                "publish by a gateway: docs/how-to/protect.md",
            )

    async def _change(self, change: ControlledChange, rule: Protection, after: Protection | None) -> None:
        async def read_found() -> str:
            found = await self.control.protections.get(rule.kind, rule.pattern)
            return "" if found is None else str(found.approvals)

        async def work() -> None:
            rules = await self.control.protections.list()
            if after is not None and len({*map(str, rules), str(rule)}) > MAX_PROTECTIONS:
                raise ProtectionError(str(rule), f"there are {len(rules)}, which is the maximum; remove one")
            if not self._trail.in_scripts:
                _check_weaker(rules, rule, after, change.approval)
            value = "" if after is None else after.encode()
            args = [str(rule), value, change.author, *self._trail.build_args(change.target, change.approval)]
            reply = await self._connection.run(_SCRIPTS["set_protection"], [self._keys.protections], args)
            if reply[0] == b"unapproved":
                raise ApprovalNotFoundError(change.approval)
            raise_if_protected(reply)

        await self.control.carry_out(change, work, read_found)


def _check_weaker(rules: list[Protection], rule: Protection, after: Protection | None, approval: str) -> None:
    """Check what the script checks, on a cluster.

    Raises:
        TargetProtectedError: fewer approvals would be needed after the change.
    """
    before = next((each.approvals for each in rules if str(each) == str(rule)), 0)
    if not approval and (0 if after is None else after.approvals) < before:
        raise TargetProtectedError(str(rule), before, str(before))


def _parse_kind(kind: ProtectionKind | str) -> ProtectionKind:
    try:
        return ProtectionKind(kind)
    except ValueError:
        raise ProtectionError(str(kind), f"a rule protects a {' or a '.join(ProtectionKind)}") from None


class FleetProtections:
    """The rules of a fleet; each method does what the one of the same name of ``aio`` does.

    It can be used in any thread, with or without a running event loop.

    Args:
        aio: the same for callers that await.
    """

    def __init__(self, aio: AsyncProtections) -> None:
        self.aio = aio

    def list(self) -> list[Protection]:
        return run_blocking(self.aio.list())

    def protect(self, kind: ProtectionKind | str, pattern: str, *, approvals: int = 1, author: str = "") -> Protection:
        return run_blocking(self.aio.protect(kind, pattern, approvals=approvals, author=author))

    def unprotect(self, kind: ProtectionKind | str, pattern: str, *, author: str = "") -> None:
        run_blocking(self.aio.unprotect(kind, pattern, author=author))

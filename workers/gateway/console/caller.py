"""Calls of the API's operations from within the gateway, under the same checks as a client's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from workers.gateway.access.authentication import Grant
from workers.gateway.access.gate import RequestGate
from workers.gateway.errors import NotGrantedError, ReadOnlyError
from workers.gateway.operation import Operation


class OperationCaller:
    """Calls operations by name.

    Args:
        operations: the gateway's.
        gate: admits the calls, as it admits those of clients.
    """

    def __init__(self, operations: Iterable[Operation], gate: RequestGate) -> None:
        self._operations = {operation.name: operation for operation in operations}
        self._gate = gate

    def allows(self, grant: Grant, name: str, *, may_change: bool) -> bool:
        """Check whether a grant has the scope of an operation, and whether it only reads or changes are allowed.

        Args:
            grant: the visitor's.
            name: ``Service.Method``.
            may_change: whether the visitor has allowed changes.
        """
        operation = self._operations.get(name)
        return operation is not None and grant.allows(operation.scope) and (may_change or operation.only_reads)

    def deny(self, grant: Grant, name: str) -> NotGrantedError:
        """Note that an operation was denied to a visitor, for their scope or their sessions, and return the error.

        Args:
            grant: the visitor's.
            name: ``Service.Method``.
        """
        scope = self._operations[name].scope
        error = NotGrantedError(grant.name, scope, "*" if grant.allows(scope) else "")
        self._gate.denied.note(error, name)
        return error

    async def call(self, grant: Grant, name: str, request: Any, *, may_change: bool) -> Any:
        """Return an operation's response.

        Args:
            grant: the visitor's.
            name: ``Service.Method``.
            request: its request message.
            may_change: whether the visitor has allowed changes.

        Raises:
            NotGrantedError: the grant lacks the operation's scope, or isn't valid for the session.
            ReadOnlyError: the operation changes something, which the visitor hasn't allowed.
        """
        operation = self._operations[name]
        if not grant.allows(operation.scope):
            raise self.deny(grant, name)
        if not (may_change or operation.only_reads):
            raise ReadOnlyError
        return await self._gate.call(operation, request, grant, None, {})

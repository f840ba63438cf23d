"""Write several changes to an Elixir session, which has no transactions, and undo them if one fails."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from snakepit_bridge.elixir.client import BridgeClient
from snakepit_bridge.elixir.codec import RemoteVariable
from snakepit_bridge.elixir.errors import ElixirError, ElixirFailedError
from snakepit_bridge.elixir.generated import snakepit_bridge_pb2 as pb
from snakepit_bridge.elixir.listing import registration_number
from snakepit_bridge.exceptions import BridgeError, ValidationError, VariableNotFoundError
from snakepit_bridge.snapshots import Changes
from snakepit_bridge.variables import Variable
from snakepit_bridge.variables.codec import shorten_repr

Undo = Callable[[], Awaitable[None]]


@dataclass(eq=False, repr=False)
class HalfWrittenError(ElixirError):
    """Several changes of which Elixir has only some, since the connection was lost in between."""

    session: str
    written: str
    problem: str

    def __str__(self) -> str:
        problem = self.problem.rstrip(".")
        return (
            f"Elixir may have some of the changes of session '{self.session}' and lack others ({self.written}): "
            f"{problem}. They could not be undone; write them all again when it answers."
        )


class WriteTransaction:
    """Writes one set of changes to a session.

    Args:
        client: client of the Elixir server.
        session: the session.
        found: the variables to change that Elixir has.
        metadata: stored by Elixir with each change, if the method takes any.
        ids: name to id, for variables that Elixir no longer finds by name, since it forgets a name when one of several
            variables with it is deleted.
    """

    def __init__(
        self,
        client: BridgeClient,
        session: str,
        found: Mapping[str, RemoteVariable],
        metadata: Mapping[str, str],
        ids: Mapping[str, str] | None = None,
    ) -> None:
        self._client = client
        self._session = session
        self._found = found
        self._metadata = metadata
        self._ids = ids or {}
        self._started: list[tuple[str, Undo]] = []

    async def write(self, changes: Changes) -> None:
        """Write changes that have been validated. Values are set last, in one call.

        Raises:
            ValidationError: Elixir rejects one; nothing was changed.
            HalfWrittenError: some may be written, and could not be undone.
            ElixirError: nothing was changed, except perhaps a single change whose response was lost.
            SessionNotFoundError: Elixir doesn't have the session.
        """
        values: dict[str, Variable] = {}
        try:
            for name, variable in changes.items():
                remote = self._found.get(name)
                if remote is None or variable is None or not _keeps_kind(remote.variable, variable):
                    await self._replace(name, remote, variable)
                elif remote.variable != variable:
                    values[name] = variable
            await self._set(values)
        except BridgeError as exc:
            await self._undo(exc, alone=len(changes) == 1 and len(self._started) == 1)
            raise

    async def _replace(self, name: str, remote: RemoteVariable | None, variable: Variable | None) -> None:
        """Delete a variable and register it again, since Elixir can't change its type and constraints."""
        if remote is not None:
            await self._delete_all(remote)
        if variable is not None:
            self._started.append((name, lambda: self._remove(variable)))
            await self._remove_duplicates(
                variable, await self._client.register(self._session, variable, self._metadata)
            )

    async def _remove_duplicates(self, variable: Variable, id: str) -> None:
        """Delete older variables if another writer registered the same name meanwhile. The newest one stays.

        Only the writer of the newest one deletes the others, so that the result doesn't depend on timing.
        """
        ids = await self._find_ids(variable.name, id)
        if len(ids) == 1 or max(ids, key=registration_number) != id:
            return
        for older in ids - {id}:
            with suppress(VariableNotFoundError):  # another writer deleted it first
                await self._client.delete(self._session, older)
        # Elixir forgets the name whenever one of its variables is deleted.
        await self._client.set(self._session, variable, self._metadata, id=id)

    async def _delete_all(self, remote: RemoteVariable) -> None:
        ids = await self._find_ids(remote.variable.name, remote.id)
        self._started.append((remote.variable.name, lambda: self._restore(remote.variable)))
        # Otherwise a name registered twice would refer to its older variable. The current one is deleted last.
        for id in sorted(ids, key=lambda id: id == remote.id):
            await self._client.delete(self._session, id)

    async def _find_ids(self, name: str, known: str) -> set[str]:
        try:
            listed = pb.ListVariablesResponse.FromString(await self._client.list_raw(self._session))
        except ElixirFailedError:  # another variable can't be encoded; this one's id is known
            return {known}
        return {known, *(variable.id for variable in listed.variables if variable.name == name)}

    async def _set(self, values: Mapping[str, Variable]) -> None:
        if not values:
            return
        self._started.append((", ".join(values), lambda: self._revert_values(values)))
        if len(values) == 1:
            variable = next(iter(values.values()))
            await self._client.set(self._session, variable, self._metadata, id=self._ids.get(variable.name, ""))
            return
        rejected = await self._client.set_many(self._session, values.values(), self._ids)
        if rejected:
            name, rule = next(iter(rejected.items()))
            raise ValidationError(name, shorten_repr(values[name].value), f"Elixir refuses it: {rule.rstrip('.')}")

    async def _undo(self, problem: BridgeError, *, alone: bool) -> None:
        """Undo the started steps in reverse order; a lost response leaves open whether a step was carried out."""
        names = [name for name, _ in self._started]
        for _, undo in reversed(self._started):
            try:
                await undo()
            except BridgeError as exc:
                if alone:
                    return
                raise HalfWrittenError(self._session, ", ".join(names), str(problem)) from exc

    async def _revert_values(self, values: Mapping[str, Variable]) -> None:
        """Restore the previous values, except those that another writer has set meanwhile."""
        now = await self._client.get_many(self._session, values)
        ours = [self._found[name].variable for name, remote in now.items() if remote.variable == values[name]]
        if ours:
            await self._client.set_many(self._session, ours)

    async def _remove(self, variable: Variable) -> None:
        now = await self._read_variable(variable.name)
        if now is not None and now.variable == variable:
            await self._client.delete(self._session, now.id)

    async def _restore(self, variable: Variable) -> None:
        if await self._read_variable(variable.name) is None:
            await self._client.register(self._session, variable, self._metadata)

    async def _read_variable(self, name: str) -> RemoteVariable | None:
        return (await self._client.get_many(self._session, [name])).get(name)


def registers_variable(changes: Changes, found: Mapping[str, RemoteVariable]) -> bool:
    """Check whether changes register a variable, since it is new or its type or constraints change."""
    return any(
        variable is not None and (name not in found or not _keeps_kind(found[name].variable, variable))
        for name, variable in changes.items()
    )


def _keeps_kind(before: Variable, after: Variable) -> bool:
    return before.type is after.type and before.constraints == after.constraints

"""``fleet.recorders``: which finished predictions are kept for datasets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from snakepit_bridge.datasets.recorded import RecordCount, RecordedPredictions
from snakepit_bridge.datasets.recorders import RECORDERS_SESSION, Recorder, read_recorders
from snakepit_bridge.encryption.cipher import PLAIN, Cipher
from snakepit_bridge.exceptions import (
    ProgramNotFoundError,
    RecorderError,
    SessionNotFoundError,
    VariableNotFoundError,
)
from snakepit_bridge.process.blocking_methods import blocking
from snakepit_bridge.process.home_loop import run_on_home_loop
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.key_names import FleetKeys

if TYPE_CHECKING:
    from snakepit_bridge.session_context import SessionContext
    from snakepit_bridge.snapshots import SnapshotStore


@dataclass(frozen=True, slots=True)
class RecorderReport:
    """A recorder, and what is recorded of its program."""

    recorder: Recorder
    count: RecordCount

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {**self.recorder.as_dict(), "records": self.count.records, "oldest": self.count.oldest}


class AsyncRecorders:
    """The recorders of a fleet, for callers that await.

    Args:
        store: of the sessions, one of which has the recorders.
        connection: to the Redis of the results.
        namespace: the fleet's.
        cipher: decrypts recorded predictions.
    """

    def __init__(
        self, store: SnapshotStore, connection: RedisConnection, namespace: str, cipher: Cipher = PLAIN
    ) -> None:
        self._store = store
        self._connection = connection
        self._keys = FleetKeys(namespace)
        self._predictions = RecordedPredictions(connection, namespace, cipher)

    async def set(
        self,
        program: str,
        *,
        share: float = 1.0,
        keep: Sequence[str] = (),
        drop: Sequence[str] = (),
        replace: Sequence[str] = (),
        max_records: int = 10_000,
        expires_s: int = 7 * 86_400,
        errors: bool = True,
        author: str = "",
    ) -> Recorder:
        """Have a share of a program's finished predictions recorded, from a few seconds on.

        Inputs and outputs are kept in Redis, readable for whoever may read datasets there.

        Args:
            program: its name; predictions of all versions are recorded. Its recorder is replaced, if it has one.
            share: of the predictions, above 0 and up to 1, with at most six decimals.
            keep: the fields that are kept, as ``inputs.FIELD`` and ``outputs.FIELD``; all if empty.
            drop: fields that aren't kept.
            replace: fields of which only the name is kept.
            max_records: how many predictions are kept, the newest ones; up to 100,000.
            expires_s: seconds for which they are kept; up to 90 days.
            errors: whether predictions that failed are recorded too.
            author: recorded in the history of the session.

        Raises:
            RecorderError: it can't be a recorder; nothing was stored.
            ProgramNotFoundError: the program isn't registered.
            StoreUnavailableError: Redis is away.
        """
        recorder = Recorder(
            program, share, tuple(keep), tuple(drop), tuple(replace), max_records, expires_s, errors
        ).check()
        await run_on_home_loop(self._set(recorder, author))
        return recorder

    async def list(self) -> list[RecorderReport]:
        """Return the recorders, and how many predictions are recorded.

        Raises:
            RecorderError: a variable that should be a recorder is none.
            StoreUnavailableError: Redis is away.
        """
        return await run_on_home_loop(self._list())

    async def remove(self, program: str, *, erase: bool = False, author: str = "") -> None:
        """Stop recording a program's predictions, within a few seconds.

        Args:
            program: its name.
            erase: also remove what is recorded, also without a recorder. Otherwise that stays until it expires.
            author: recorded in the history of the session.

        Raises:
            RecorderError: the program has no recorder, and nothing is to be removed.
            StoreUnavailableError: Redis is away.
        """
        await run_on_home_loop(self._remove(program, author, erase=erase))

    async def _set(self, recorder: Recorder, author: str) -> None:
        versions = self._keys.program_versions(recorder.program)
        if not await self._connection.execute_read("HGET", versions, "latest"):
            names = await self._connection.execute_read("SMEMBERS", self._keys.programs)
            raise ProgramNotFoundError(recorder.program, sorted(name.decode() for name in names))
        values = {recorder.variable: recorder.encode()}
        await self._session(author).set_variables(values, reason="a recorder is set")

    async def _list(self) -> list[RecorderReport]:
        try:
            recorders, errors = read_recorders(await self._store.read(RECORDERS_SESSION))
        except SessionNotFoundError:
            return []
        for error in errors:
            raise error
        return [RecorderReport(each, await self._predictions.count(each.program)) for each in recorders]

    async def _remove(self, program: str, author: str, *, erase: bool) -> None:
        try:
            await self._session(author).delete_variable(Recorder(program).variable)
        except (SessionNotFoundError, VariableNotFoundError):
            if not erase:
                raise RecorderError(program, "there is none; list them with: dspex-fleet record show") from None
        if erase:
            await self._predictions.erase(program)

    def _session(self, author: str) -> SessionContext:
        from snakepit_bridge.session_context import SessionContext

        return SessionContext(RECORDERS_SESSION, self._store, author=author)


class Recorders:
    """The recorders of a fleet; each method does what the one of the same name of ``aio`` does.

    It can be used in any thread, with or without a running event loop.

    Args:
        aio: the same for callers that await.
    """

    def __init__(self, aio: AsyncRecorders) -> None:
        self.aio = aio

    set = blocking(AsyncRecorders.set)
    list = blocking(AsyncRecorders.list)
    remove = blocking(AsyncRecorders.remove)

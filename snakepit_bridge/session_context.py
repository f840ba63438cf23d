"""SessionContext: reads and writes the variables of one session, for modules, notebooks and tests.

Without a store it keeps the session in this process, so that a module can be tried without any service.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Self, TypeVar
from weakref import WeakSet

from snakepit_bridge.exceptions import SessionNotFoundError, VariableNotFoundError
from snakepit_bridge.process.home_loop import run_blocking, run_on_home_loop
from snakepit_bridge.protocol.messages import check_session
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.snapshots import SnapshotStore, open_store
from snakepit_bridge.snapshots.optimistic import retry_on_conflict
from snakepit_bridge.snapshots.snapshot import Snapshot
from snakepit_bridge.variables import Variable, VariableType

if TYPE_CHECKING:
    from snakepit_bridge.elixir.write_back import ElixirAuthority
    from snakepit_bridge.lm.profiles import LMProfiles
    from snakepit_bridge.snapshots import Change, Label

T = TypeVar("T")

Changes = Mapping[str, Variable | None]
Differences = dict[str, tuple[Variable | None, Variable | None]]
Proposal = Callable[[Mapping[str, Variable]], Changes]


def _no_session() -> None:
    return None


def _connect_authority(bridge: str, store: SnapshotStore, given: SnapshotStore | str | None) -> ElixirAuthority:
    # gRPC is only imported if there is an Elixir server to call.
    from snakepit_bridge.elixir.demand import SessionDemand
    from snakepit_bridge.elixir.write_back import ElixirAuthority
    from snakepit_bridge.redis.connection import RedisConnection
    from snakepit_bridge.redis.lease import Leases

    if not isinstance(given, str) or given.startswith("memory:"):
        return ElixirAuthority(bridge, store)
    connection = RedisConnection(given)
    return ElixirAuthority(bridge, store, demand=SessionDemand(connection), leases=Leases(connection))


class SessionContext:
    """The variables of one session, which modules follow and standalone programs set.

    Args:
        session_id: name of the session.
        store: the store of its snapshots: an object, its URL (``redis://…``), or None for this process's own memory.
        profiles: LM profiles that a variable bound to ``model`` may name; None lets it name another model of the
            ambient LM's provider.
        author: recorded in the history with each change made through this context.
        bridge: ``HOST:PORT`` of the Elixir server, which changes of its sessions are sent to. Without it such sessions
            are read-only.
    """

    def __init__(
        self,
        session_id: str,
        store: SnapshotStore | str | None = None,
        *,
        profiles: LMProfiles | None = None,
        author: str = "",
        bridge: ElixirAuthority | str | None = None,
    ) -> None:
        self.session_id = check_session(session_id)
        self.store = store if isinstance(store, SnapshotStore) else open_store(store or "memory://")
        self._elixir = _connect_authority(bridge, self.store, store) if isinstance(bridge, str) else bridge
        self.profiles = profiles
        self.author = author
        self._latest: Snapshot | None = None
        self._modules: WeakSet[Any] = WeakSet()
        self._modules_lock = threading.Lock()

    @property
    def modules(self) -> list[Any]:
        """The live variable-aware modules of this session, which are referenced weakly."""
        with self._modules_lock:
            return list(self._modules)

    def add_module(self, module: Any) -> None:
        """Add a module to those of this session, with a weak reference."""
        with self._modules_lock:
            self._modules.add(module)

    @property
    def blocking(self) -> BlockingSessionContext:
        """The same methods for callers that can't await."""
        return BlockingSessionContext(self)

    def __repr__(self) -> str:
        return f"SessionContext({self.session_id!r}, {self.store!r})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        # A copied module follows the same session.
        return self

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        # A saved module must not contain connections or a URL with a password; it is loaded without a session.
        return _no_session, ()

    async def snapshot(self) -> Snapshot:
        """Return the session's newest snapshot, in one round trip to the store.

        Raises:
            SessionNotFoundError: the session was never published.
            StoreUnavailableError: the store can't be reached.
        """
        return await run_on_home_loop(self._read())

    async def get_variable(self, name: str) -> Any:
        """Return a variable's value.

        Raises:
            VariableNotFoundError: the session doesn't have it.
            StoreUnavailableError: the store can't be reached.
        """
        return (await self.get_variables([name]))[name]

    async def get_variables(self, names: Iterable[str] | None = None) -> dict[str, Any]:
        """Return the values of several variables, or of all, read at one revision.

        Raises:
            VariableNotFoundError: the session lacks one of the names.
            StoreUnavailableError: the store can't be reached.
        """
        return await run_on_home_loop(self._values(None if names is None else list(names)))

    async def list_variables(self) -> list[Variable]:
        """Return all variables, by name, with types and constraints."""
        return await run_on_home_loop(self._list())

    async def set_variable(self, name: str, value: Any) -> Token:
        """Publish one value and return the token from which it is visible.

        A variable that exists keeps its type and constraints; one that doesn't gets the value's type.

        Args:
            name: the variable.
            value: its value.

        Raises:
            ValidationError: the value violates its type or a constraint.
            NotReplicatedError: the revision is in force, but on fewer servers than it was to wait for.
            SessionOwnedElsewhereError: an Elixir server publishes this session, and ``bridge`` isn't given.
            StoreUnavailableError: the store can't be reached.
            ElixirUnavailableError: the change goes to Elixir, which can't be reached.
            WriteNotShownError: Elixir has the change, but no refresher published it in time.
        """
        return await self.set_variables({name: value})

    async def set_variables(
        self,
        values: Mapping[str, Any],
        *,
        types: Mapping[str, str] | None = None,
        reason: str = "",
        durability: str | None = None,
    ) -> Token:
        """Publish several values as one revision: all of them or, if one is invalid, none.

        Args:
            values: variable name to value.
            types: name to type, for variables to declare anew; without one, an existing variable keeps its type and
                constraints, and a new one gets the value's type.
            reason: stored in the session's history.
            durability: ``primary``; ``replicated``, to wait until a replica of Redis has the revision; ``fsynced``,
                until it is on disk; or either with ``(REPLICAS, SECONDS)``. The store's own if None. Elixir keeps its
                sessions' values itself.
        """
        kinds = types or {}

        def changes(now: Mapping[str, Variable]) -> Changes:
            return {
                name: now[name].with_value(value)
                if name in now and name not in kinds
                else Variable.declare(name, value, kinds.get(name))
                for name, value in values.items()
            }

        return await self.change(changes, names=values, reason=reason, durability=durability)

    async def change(
        self, proposal: Proposal, *, names: Iterable[str] | None = None, reason: str = "", durability: str | None = None
    ) -> Token:
        """Publish the changes that a function computes from the present variables, as one revision.

        Args:
            proposal: takes the variables by name and returns those that change, None for one to delete. It is called
                again if another publish happens in between.
            names: the variables that it needs; all of them if None.
            reason: stored in the session's history.
            durability: see ``set_variables``.

        Raises:
            BridgeError: the errors of ``set_variable``.
        """
        return await run_on_home_loop(self._publish(names, proposal, reason, durability))

    async def register_variable(
        self,
        name: str,
        type: VariableType | str,
        value: Any,
        constraints: Mapping[str, Any] | None = None,
    ) -> Token:
        """Declare a variable with its type, first value and constraints, or declares it anew.

        Raises:
            ValidationError: the type is unknown, a constraint is malformed, or the value breaks one.
        """
        declared = Variable.declare(name, value, type, constraints)
        return await run_on_home_loop(self._publish([name], lambda _: {name: declared}, f"register {name}"))

    async def delete_variable(self, name: str) -> Token:
        """Delete a variable and return the token from which it is gone.

        Raises:
            VariableNotFoundError: the session doesn't have it.
        """

        def changes(now: Mapping[str, Variable]) -> Changes:
            if name not in now:
                raise VariableNotFoundError(name, self.session_id, tuple(now))
            return {name: None}

        return await run_on_home_loop(self._publish([name], changes, f"delete {name}"))

    async def history(self, limit: int = 20) -> list[Change]:
        """Return the newest publishes, newest first: token, time, author, reason, and what they changed.

        Raises:
            SessionNotFoundError: the session was never published.
        """
        return await run_on_home_loop(self.store.history(self.session_id, limit))

    async def diff(self, a: Token | str, b: Token | str = "latest") -> Differences:
        """Return the variables that differ between two revisions, each with its state at ``a`` and at ``b``.

        A revision is a token, its text, a label's name, or ``latest``.

        Raises:
            RevisionLostError: the store no longer has one of them.
            LabelNotFoundError: there is no such label.
        """
        return await run_on_home_loop(self.store.diff(self.session_id, a, b))

    async def rollback(self, to: Token | str, *, reason: str = "", durability: str | None = None) -> Token:
        """Publish an earlier revision's variables again and return the new token; history keeps both.

        Args:
            to: the revision: a token, its text, or a label's name.
            reason: stored in the session's history.
            durability: see ``set_variables``.

        Raises:
            RevisionLostError: the store no longer has that revision.
            NotReplicatedError: the new revision is in force, but on fewer servers than it was to wait for.
            SessionOwnedElsewhereError: an Elixir server publishes this session, and ``bridge`` isn't given.
        """
        return await run_on_home_loop(self._rollback(to, reason, durability))

    async def label(self, name: str, at: Token | str = "latest") -> Token:
        """Point a label such as ``stable`` at a revision, and return that revision's token."""
        return await run_on_home_loop(self.store.label(self.session_id, name, at, author=self.author))

    async def labels(self) -> dict[str, Label]:
        """Return the session's labels, by name."""
        return await run_on_home_loop(self.store.labels(self.session_id))

    def watch(self) -> AsyncGenerator[Token]:
        """Yield the newest token and later ones; a slow reader misses some, but never the last."""
        return self.store.watch(self.session_id)

    async def _read(self) -> Snapshot:
        self._latest = await self.store.read(self.session_id, self._latest)
        return self._latest

    async def _values(self, names: list[str] | None) -> dict[str, Any]:
        try:
            snapshot = await self._read()
        except SessionNotFoundError:
            if not names:
                return {}
            raise VariableNotFoundError(names[0], self.session_id) from None
        return snapshot.values(snapshot.variables if names is None else names)

    async def _list(self) -> list[Variable]:
        snapshot = await self._read()
        return [snapshot.variables[name] for name in sorted(snapshot.variables)]

    async def _publish(
        self, names: Iterable[str] | None, changes: Proposal, reason: str, durability: str | None = None
    ) -> Token:
        """Publish through the session's authority: Elixir or the store."""
        elixir = self._elixir
        if elixir is not None and await elixir.owns(self.session_id):
            return await elixir.change(self.session_id, names, changes, author=self.author, reason=reason)
        store = self.store if durability is None else self.store.with_durability(durability)
        return await self._publish_to_store(store, changes, reason)

    async def _publish_to_store(self, store: SnapshotStore, changes: Proposal, reason: str) -> Token:
        """Publish with optimistic concurrency: read again and retry if another publish happened in between."""

        async def publish() -> Token:
            metadata: Any = {"author": self.author, "reason": reason}
            try:
                now = await self._read()
            except SessionNotFoundError:
                return await store.publish(self.session_id, changes({}), **metadata)
            return await store.publish(self.session_id, changes(now.variables), expected=now.token, **metadata)

        return await retry_on_conflict(publish)

    async def _rollback(self, to: Token | str, reason: str, durability: str | None) -> Token:
        elixir = self._elixir
        if elixir is not None and await elixir.owns(self.session_id):
            return await elixir.rollback(self.session_id, to, author=self.author, reason=reason)
        store = self.store if durability is None else self.store.with_durability(durability)
        return await store.rollback(self.session_id, to, author=self.author, reason=reason)


class BlockingSessionContext:
    """Blocking version of a :class:`SessionContext`; each method does what the one of the same name does there.

    It can be used in any thread, with or without a running event loop.
    """

    def __init__(self, context: SessionContext) -> None:
        self._context = context

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return run_blocking(work)

    def snapshot(self) -> Snapshot:
        return self._run(self._context.snapshot())

    def get_variable(self, name: str) -> Any:
        return self._run(self._context.get_variable(name))

    def get_variables(self, names: Iterable[str] | None = None) -> dict[str, Any]:
        return self._run(self._context.get_variables(names))

    def list_variables(self) -> list[Variable]:
        return self._run(self._context.list_variables())

    def set_variable(self, name: str, value: Any) -> Token:
        return self._run(self._context.set_variable(name, value))

    def set_variables(
        self,
        values: Mapping[str, Any],
        *,
        types: Mapping[str, str] | None = None,
        reason: str = "",
        durability: str | None = None,
    ) -> Token:
        return self._run(self._context.set_variables(values, types=types, reason=reason, durability=durability))

    def change(
        self, proposal: Proposal, *, names: Iterable[str] | None = None, reason: str = "", durability: str | None = None
    ) -> Token:
        return self._run(self._context.change(proposal, names=names, reason=reason, durability=durability))

    def register_variable(
        self, name: str, type: VariableType | str, value: Any, constraints: Mapping[str, Any] | None = None
    ) -> Token:
        return self._run(self._context.register_variable(name, type, value, constraints))

    def delete_variable(self, name: str) -> Token:
        return self._run(self._context.delete_variable(name))

    def history(self, limit: int = 20) -> list[Change]:
        return self._run(self._context.history(limit))

    def diff(self, a: Token | str, b: Token | str = "latest") -> Differences:
        return self._run(self._context.diff(a, b))

    def rollback(self, to: Token | str, *, reason: str = "", durability: str | None = None) -> Token:
        return self._run(self._context.rollback(to, reason=reason, durability=durability))

    def label(self, name: str, at: Token | str = "latest") -> Token:
        return self._run(self._context.label(name, at))

    def labels(self) -> dict[str, Label]:
        return self._run(self._context.labels())

"""VariableAwareMixin: makes a DSPy module obey the variables of a session.

A call reads one snapshot, binds a clone of the module to it and runs the clone. So a call sees one revision from its
first predictor to its last, and concurrent calls under different revisions don't disturb each other.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Self, cast

import dspy

from snakepit_bridge.dspy_integration import call_snapshots as calls
from snakepit_bridge.dspy_integration.binding import Bound, LMScope, apply, check_bindable
from snakepit_bridge.dspy_integration.call_snapshots import WRITTEN_BY_THE_USER, CallSnapshots, runs_natively
from snakepit_bridge.dspy_integration.callbacks import Changes, SyncCallback, SyncCallbacks
from snakepit_bridge.dspy_integration.context_overrides import within
from snakepit_bridge.dspy_integration.module_tree import clone, part_at, parts
from snakepit_bridge.dspy_integration.reading import readable, restore, show
from snakepit_bridge.dspy_integration.trace_identity import under_own_names
from snakepit_bridge.exceptions import BindingError
from snakepit_bridge.process.threads import in_user_thread
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.session_context import SessionContext
from snakepit_bridge.snapshots.snapshot import Snapshot

__all__ = ["BINDINGS_KEY", "Changes", "SyncCallback", "VariableAwareMixin", "runs_natively"]

BINDINGS_KEY = "variable_bindings"

# Guards the few assignments that make up a module's synced state; a lock per module could be neither copied nor saved.
_state = threading.RLock()


class VariableAwareMixin:
    """Stands before a DSPy module class and lets attributes of its instances follow session variables.

    Without a session the module is the plain one. With one, each call syncs first, unless ``auto_sync`` is off.

    Args:
        session_context: the session to obey; modules hold it, it holds them only weakly.
        auto_sync: whether each call reads the session; if not, calls use the values of the last explicit sync.

    Example:
        >>> module = VariableAwarePredict("question -> answer", session_context=ctx)
        >>> await module.bind_to_variable("temperature", "llm_temperature")
        >>> await module.acall(question="…")          # asks at the temperature that the session holds now
    """

    _is_variable_aware = True
    _enters_surroundings = True

    # Defaults for instances that another class's machinery made, such as cloudpickle.
    _session_context: SessionContext | None = None
    _auto_sync: bool = True
    _bound: bool = False
    _synced: Token | None = None

    def __init__(
        self, *args: Any, session_context: SessionContext | None = None, auto_sync: bool = True, **kwargs: Any
    ) -> None:
        self._auto_sync = auto_sync
        self._variable_bindings: dict[str, str] = {}
        self._last_sync: dict[str, Any] = {}
        self._sync_callbacks = SyncCallbacks()
        # What a readable attribute was before it was bound: () if it wasn't there.
        self._unbound: dict[str, tuple[Any, ...]] = {}
        self._session_context = session_context
        super().__init__(*args, **kwargs)
        if session_context is not None:
            session_context.admit(self)

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        # A subclass's own `forward` stands before the one of the mixin, and is called directly too.
        if "forward" in vars(cls):
            cls.forward = cls._syncing(vars(cls)["forward"])
        if "aforward" in vars(cls):
            cls.aforward = cls._asyncing(vars(cls)["aforward"])

    @classmethod
    def _syncing(cls, forward: Any) -> Any:
        @functools.wraps(forward)
        def synced(self: Self, *args: Any, **kwargs: Any) -> Any:
            with self._running() as twin, within(twin):
                return forward(twin, *args, **kwargs)

        setattr(synced, WRITTEN_BY_THE_USER, forward)
        return synced

    @classmethod
    def _asyncing(cls, aforward: Any) -> Any:
        @functools.wraps(aforward)
        async def synced(self: Self, *args: Any, **kwargs: Any) -> Any:
            async with self._arunning() as twin:
                with within(twin):
                    return await aforward(twin, *args, **kwargs)

        setattr(synced, WRITTEN_BY_THE_USER, aforward)
        return synced

    # ---------------------------------------------------------------- the session

    @property
    def session_context(self) -> SessionContext | None:
        """The session that this module obeys, if any. May be set on a module that came back from a file."""
        return self._session_context

    @session_context.setter
    def session_context(self, context: SessionContext | None) -> None:
        if context is self._session_context:
            return
        with _state:
            self._forget_values()
            self._session_context = context
        if context is not None:
            context.admit(self)

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        above = cast(Any, super())
        if hasattr(above, "__setstate__"):
            above.__setstate__(dict(state))
        else:
            self.__dict__.update(state)
        if self._session_context is None:
            self._forget_values()
        else:
            self._session_context.admit(self)

    # ---------------------------------------------------------------- bindings

    async def bind_to_variable(
        self, attribute: str, variable_name: str, sync_callback: SyncCallback | None = None
    ) -> None:
        """Lets an attribute follow a variable and takes its present value.

        Args:
            attribute: what to bind, such as ``temperature``, or ``extract.temperature`` for one nested predictor.
            variable_name: the session variable.
            sync_callback: called with (attribute, old, new) when the value changes.

        Raises:
            RuntimeError: the module has no session.
            VariableNotFoundError: the session doesn't have the variable (also a ValueError).
            BindingError: the attribute can't take effect on this module; lists what can.
            ValidationError: the attribute refuses the present value.
        """
        context = self._context()
        check_bindable(self, attribute)
        self._bind(attribute, variable_name, sync_callback, await context.snapshot())

    def bind_to_variable_sync(
        self, attribute: str, variable_name: str, sync_callback: SyncCallback | None = None
    ) -> None:
        """Binds as :meth:`bind_to_variable` does, for callers that can't await, with or without a running loop."""
        context = self._context()
        check_bindable(self, attribute)
        self._bind(attribute, variable_name, sync_callback, context.blocking.snapshot())

    def get_bindings(self) -> dict[str, str]:
        """Returns attribute to variable name, as a copy."""
        return dict(self._variable_bindings)

    @property
    def bound_values(self) -> dict[str, Any]:
        """Attribute to the value that its variable had at the last sync, as a copy."""
        return dict(self._last_sync)

    def unbind_variable(self, attribute: str) -> None:
        """Ends a binding and its callbacks; the plain module's own value holds again."""
        with _state:
            self._variable_bindings = {k: v for k, v in self._variable_bindings.items() if k != attribute}
            self._last_sync = {k: v for k, v in self._last_sync.items() if k != attribute}
            self._sync_callbacks.drop(attribute)
            restore(self, attribute, self._unbound.get(attribute))
            self._unbound = {k: v for k, v in self._unbound.items() if k != attribute}

    def on_change(self, attribute: str, callback: SyncCallback) -> None:
        """Calls back with (attribute, old, new) each time a sync changes a bound attribute, until it is unbound.

        Raises:
            BindingError: the attribute isn't bound.
        """
        self._variable_of(attribute)
        self._sync_callbacks.add(attribute, callback)

    async def get_bound_variable(self, attribute: str) -> Any:
        """Returns the present value of the variable that an attribute is bound to, read from the session.

        Raises:
            BindingError: the attribute isn't bound (also a ValueError).
            RuntimeError: the module has no session.
        """
        variable = self._variable_of(attribute)
        return await self._context().get_variable(variable)

    # ---------------------------------------------------------------- sync

    async def sync_variables(self) -> Changes:
        """Takes the session's present values, all from one revision.

        Returns:
            attribute to (old, new), for the attributes that changed.

        Raises:
            VariableNotFoundError: a bound variable is gone.
            ValidationError: a target refuses its new value; nothing was taken.
            StoreUnavailableError: the store is away.
        """
        if self._session_context is None or not self._variable_bindings:
            return {}
        return self._sync(await self._session_context.snapshot())

    def sync_variables_sync(self) -> Changes:
        """Syncs as :meth:`sync_variables` does, for callers that can't await, with or without a running loop."""
        if self._session_context is None or not self._variable_bindings:
            return {}
        return self._sync(self._session_context.blocking.snapshot())

    # ---------------------------------------------------------------- calls

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self._running() as twin, within(twin):
            return twin._plain("__call__")(*args, **kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with self._running() as twin, within(twin):
            return twin._plain("forward")(*args, **kwargs)

    async def acall(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the module without blocking the loop: natively where DSPy can, else in a thread."""
        async with self._arunning() as twin:
            with within(twin):
                if runs_natively(type(self)):
                    return await twin._plain("acall")(*args, **kwargs)
                return await in_user_thread(twin._plain("__call__"), *args, **kwargs)

    async def aforward(self, *args: Any, **kwargs: Any) -> Any:
        async with self._arunning() as twin:
            with within(twin):
                if runs_natively(type(self)):
                    return await twin._plain("aforward")(*args, **kwargs)
                return await in_user_thread(twin._plain("forward"), *args, **kwargs)

    async def forward_async(self, *args: Any, **kwargs: Any) -> Any:
        """Syncs the bound variables, then runs the module; the same as ``await module.acall(…)``."""
        return await self.acall(*args, **kwargs)

    # ---------------------------------------------------------------- state

    def dump_state(self, json_mode: bool = True) -> dict[str, Any]:
        """Returns the plain module's state plus the bindings of this module and of the aware ones inside it."""
        state: dict[str, Any] = cast(Any, super()).dump_state(json_mode=json_mode)
        bindings = {path: part.get_bindings() for path, part in aware_parts(self) if part._variable_bindings}
        return {**state, BINDINGS_KEY: bindings} if bindings else state

    def load_state(self, state: Mapping[str, Any], **options: Any) -> Any:
        """Loads a state saved by this class or by the plain one; the latter leaves the bindings as they are.

        Raises:
            BindingError: the state binds what can't be bound here; nothing was loaded.
        """
        bindings: Mapping[str, Mapping[str, str]] = state.get(BINDINGS_KEY, {})
        for path, each in bindings.items():
            part = part_at(self, path)
            if not isinstance(part, VariableAwareMixin):
                raise BindingError(type(self).__name__, path or "itself", "the saved state binds it, and it isn't here")
            for attribute in each:
                check_bindable(part, attribute)
        plain = {name: value for name, value in state.items() if name != BINDINGS_KEY}
        loaded = cast(Any, super()).load_state(plain, **options)
        for path, each in bindings.items():
            cast(VariableAwareMixin, part_at(self, path))._rebind(each)
        return loaded

    # ---------------------------------------------------------------- inside

    def _should_auto_sync(self) -> bool:
        return self._auto_sync and self._session_context is not None and bool(self._variable_bindings)

    def _context(self) -> SessionContext:
        if self._session_context is None:
            raise RuntimeError(
                f"No session context available for variable binding: give {type(self).__name__} a session_context="
            )
        return self._session_context

    def _variable_of(self, attribute: str) -> str:
        if attribute not in self._variable_bindings:
            bound = ", ".join(sorted(self._variable_bindings)) or "nothing"
            problem = f"it is not bound to a variable; bind it first, bound is: {bound}"
            raise BindingError(type(self).__name__, attribute, problem)
        return self._variable_bindings[attribute]

    def _bind(self, attribute: str, variable: str, callback: SyncCallback | None, snapshot: Snapshot) -> None:
        value = snapshot.value(variable)
        # With the other bindings, since a value may only fit beside them: a token limit beside its model.
        self._pristine({**self._values(None), attribute: Bound(variable, value)})
        before = readable(self, attribute)
        with _state:
            old = self._last_sync.get(attribute, before[0] if before else None)
            self._unbound = {attribute: before, **self._unbound}
            self._variable_bindings = {**self._variable_bindings, attribute: variable}
            self._last_sync = {**self._last_sync, attribute: value}
            show(self, attribute, value)
            if callback is not None:
                self._sync_callbacks.add(attribute, callback)
        if callback is not None and old is not None and old != value:
            callback(attribute, old, value)

    def _rebind(self, bindings: Mapping[str, str]) -> None:
        """Takes the bindings of a saved state; their values come with the next sync."""
        for attribute in self._variable_bindings:
            if attribute not in bindings:
                self.unbind_variable(attribute)
        with _state:
            self._forget_values()
            self._variable_bindings = dict(bindings)
            self._unbound = {**{name: readable(self, name) for name in bindings}, **self._unbound}

    def _forget_values(self) -> None:
        """Makes the attributes what they were before they were bound; the bindings stay."""
        for attribute, before in self._unbound.items():
            restore(self, attribute, before)
        self._last_sync = {}
        self._synced = None

    def _values(self, snapshot: Snapshot | None) -> dict[str, Bound]:
        """The bound values at a snapshot, or those of the last sync."""
        bindings = self._variable_bindings
        if snapshot is None:
            return {name: Bound(bindings[name], value) for name, value in self._last_sync.items() if name in bindings}
        return {name: Bound(variable, snapshot.value(variable)) for name, variable in bindings.items()}

    def _values_for_call(self, call: CallSnapshots) -> dict[str, Bound]:
        if self._session_context is None or not self._variable_bindings:
            return {}
        if self._should_auto_sync():
            return self._values(call.known(self._session_context))
        never = sorted(self._variable_bindings.keys() - self._last_sync.keys())
        if never:
            problem = "auto_sync is off and it was never synced: await sync_variables() first"
            raise BindingError(type(self).__name__, ", ".join(never), problem)
        return self._values(None)

    def _pristine(self, values: Mapping[str, Bound]) -> Self:
        """Returns a clone of this module alone with the values put on it, as a trial of them."""
        twin = clone(self)
        twin._take_on(values)
        return twin

    def _take_on(self, values: Mapping[str, Bound]) -> None:
        """Puts values on this clone, first taking off what stands on it only to be read."""
        for attribute, before in self._unbound.items():
            restore(self, attribute, before)
        profiles = self._session_context.profiles if self._session_context is not None else None
        apply(self, values, LMScope(profiles, dspy.settings.lm))

    def _sync(self, snapshot: Snapshot) -> Changes:
        values = self._values(snapshot)
        self._pristine(values)
        return self._take(values, snapshot.token)

    def _take(self, values: Mapping[str, Bound], token: Token) -> Changes:
        """Makes values the readable ones and tells the callbacks, unless a concurrent call has taken newer ones."""
        with _state:
            if self._synced is not None and token < self._synced:
                return {}
            changes = {
                name: (self._last_sync.get(name), bound.value)
                for name, bound in values.items()
                if name in self._variable_bindings
                and (name not in self._last_sync or self._last_sync[name] != bound.value)
            }
            self._last_sync = {**self._last_sync, **{name: new for name, (_, new) in changes.items()}}
            self._synced = token
            for name, (_, new) in changes.items():
                show(self, name, new)
        self._sync_callbacks.tell(changes)
        return changes

    def _sessions(self) -> list[SessionContext]:
        """The sessions that a call of this module must read: its own and those of aware modules inside."""
        found = [part._session_context for _, part in aware_parts(self) if part._should_auto_sync()]
        return list(dict.fromkeys(context for context in found if context is not None))

    @contextmanager
    def _running(self) -> Generator[Self]:
        """Yields what to run: this module if it is a bound copy or obeys nothing, else a copy bound to one snapshot.

        Aware modules inside it, and those that it calls from elsewhere, see the same snapshots.
        """
        if self._bound:
            yield self
            return
        with calls.entered() as call:
            calls.read(call, self._sessions())
            with self._copy_for(call) as twin:
                yield twin

    @asynccontextmanager
    async def _arunning(self) -> AsyncGenerator[Self]:
        if self._bound:
            yield self
            return
        with calls.entered() as call:
            await calls.aread(call, self._sessions())
            with self._copy_for(call) as twin:
                yield twin

    @contextmanager
    def _copy_for(self, call: CallSnapshots) -> Generator[Self]:
        parts = [part for _, part in aware_parts(self)]
        values = [part._values_for_call(call) for part in parts]
        if not any(values):
            yield self
            return
        twin = clone(self)
        for (_, part), bound in zip(aware_parts(twin), values, strict=True):
            part._take_on(bound)
            part._bound = True
        for part, bound in zip(parts, values, strict=True):
            snapshot = call.known(part._session_context) if part._session_context is not None else None
            if snapshot is not None and part._should_auto_sync():
                part._take(bound, snapshot.token)
        with under_own_names(self, twin):
            yield twin

    def _plain(self, method: str) -> Any:
        """A method of the plain class, on this object: KNN knows no ``forward`` and Parallel no ``acall``."""
        plain = cast(Any, super())
        if hasattr(plain, method):
            return getattr(plain, method)
        return plain.__call__ if method == "forward" else plain.forward


def aware_parts(module: VariableAwareMixin) -> list[tuple[str, VariableAwareMixin]]:
    """Returns the variable-aware parts of a module with their paths, the module itself first."""
    return list(parts(module, VariableAwareMixin))


@functools.cache
def of_the_mixin() -> frozenset[str]:
    """Return the names of what the mixin keeps on an instance."""

    class Bare(VariableAwareMixin, dspy.Module):
        """Has nothing of its own."""

    names = vars(Bare()).keys() - vars(dspy.Module()).keys()
    return frozenset(names) | frozenset(VariableAwareMixin.__annotations__) | {"_surroundings"}

"""VariableAwareMixin: binds attributes of a DSPy module to the variables of a session.

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
from snakepit_bridge.dspy_integration.binding import (
    BoundValue,
    LMScope,
    apply_values,
    check_bindable,
    expose_value,
    read_attribute,
    restore_attribute,
)
from snakepit_bridge.dspy_integration.call_snapshots import WRITTEN_BY_THE_USER, CallSnapshots, runs_natively
from snakepit_bridge.dspy_integration.callbacks import Changes, SyncCallback, SyncCallbacks
from snakepit_bridge.dspy_integration.context_overrides import OVERRIDES, apply_overrides
from snakepit_bridge.dspy_integration.module_tree import clone, part_at, parts
from snakepit_bridge.dspy_integration.trace_identity import preserve_predictor_identity
from snakepit_bridge.exceptions import BindingError
from snakepit_bridge.process.threads import run_in_user_thread
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.session_context import SessionContext
from snakepit_bridge.snapshots.snapshot import Snapshot

__all__ = ["BINDINGS_KEY", "Changes", "SyncCallback", "VariableAwareMixin", "runs_natively"]

BINDINGS_KEY = "variable_bindings"

# Guards the few assignments of a module's synced state; a lock per module could be neither copied nor pickled.
_state_lock = threading.RLock()


class VariableAwareMixin:
    """Goes before a DSPy module class and binds attributes of its instances to session variables.

    Without a session the module is the plain one. With one, each call syncs first, unless ``auto_sync`` is off.

    Args:
        session_context: the session; it references its modules only weakly.
        auto_sync: whether each call reads the session; if not, calls use the values of the last explicit sync.

    Example:
        >>> module = VariableAwarePredict("question -> answer", session_context=ctx)
        >>> await module.bind_to_variable("temperature", "llm_temperature")
        >>> prediction = await module.acall(question="…")  # at the temperature that the session has now
    """

    _is_variable_aware = True
    _applies_overrides = True

    # Defaults for instances that were created without __init__, such as by cloudpickle.
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
        # The value that an attribute had before it was bound, as a 1-tuple; () if it didn't exist.
        self._original_values: dict[str, tuple[Any, ...]] = {}
        self._session_context = session_context
        super().__init__(*args, **kwargs)
        if session_context is not None:
            session_context.add_module(self)

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        # A subclass's own `forward` overrides the mixin's, and may be called directly.
        if "forward" in vars(cls):
            cls.forward = cls._wrap_forward(vars(cls)["forward"])
        if "aforward" in vars(cls):
            cls.aforward = cls._wrap_aforward(vars(cls)["aforward"])

    @classmethod
    def _wrap_forward(cls, forward: Any) -> Any:
        @functools.wraps(forward)
        def synced(self: Self, *args: Any, **kwargs: Any) -> Any:
            with self._prepare_call() as module, apply_overrides(module):
                return forward(module, *args, **kwargs)

        setattr(synced, WRITTEN_BY_THE_USER, forward)
        return synced

    @classmethod
    def _wrap_aforward(cls, aforward: Any) -> Any:
        @functools.wraps(aforward)
        async def synced(self: Self, *args: Any, **kwargs: Any) -> Any:
            async with self._aprepare_call() as module:
                with apply_overrides(module):
                    return await aforward(module, *args, **kwargs)

        setattr(synced, WRITTEN_BY_THE_USER, aforward)
        return synced

    # ---------------------------------------------------------------- the session

    @property
    def session_context(self) -> SessionContext | None:
        """The session of this module, if any. It can be set on a module that was loaded from a file."""
        return self._session_context

    @session_context.setter
    def session_context(self, context: SessionContext | None) -> None:
        if context is self._session_context:
            return
        with _state_lock:
            self._forget_values()
            self._session_context = context
        if context is not None:
            context.add_module(self)

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        above = cast(Any, super())
        if hasattr(above, "__setstate__"):
            above.__setstate__(dict(state))
        else:
            self.__dict__.update(state)
        if self._session_context is None:
            self._forget_values()
        else:
            self._session_context.add_module(self)

    # ---------------------------------------------------------------- bindings

    async def bind_to_variable(
        self, attribute: str, variable_name: str, sync_callback: SyncCallback | None = None
    ) -> None:
        """Bind an attribute to a variable and sync its present value.

        Args:
            attribute: what to bind, such as ``temperature``, or ``extract.temperature`` for one nested predictor.
            variable_name: the session variable.
            sync_callback: called with (attribute, old, new) when the value changes.

        Raises:
            RuntimeError: the module has no session.
            VariableNotFoundError: the session doesn't have the variable (also a ValueError).
            BindingError: the attribute can't be bound on this module; lists those that can.
            ValidationError: the present value isn't valid for the attribute.
        """
        context = self._require_context()
        check_bindable(self, attribute)
        self._bind(attribute, variable_name, sync_callback, await context.snapshot())

    def bind_to_variable_sync(
        self, attribute: str, variable_name: str, sync_callback: SyncCallback | None = None
    ) -> None:
        """Bind as :meth:`bind_to_variable` does, for callers that can't await, with or without a running loop."""
        context = self._require_context()
        check_bindable(self, attribute)
        self._bind(attribute, variable_name, sync_callback, context.blocking.snapshot())

    def get_bindings(self) -> dict[str, str]:
        """Return attribute to variable name, as a copy."""
        return dict(self._variable_bindings)

    @property
    def bound_values(self) -> dict[str, Any]:
        """Attribute to the value of its variable at the last sync, as a copy."""
        return dict(self._last_sync)

    def unbind_variable(self, attribute: str) -> None:
        """Remove a binding and its callbacks, and restore the module's own value."""
        with _state_lock:
            self._variable_bindings = {k: v for k, v in self._variable_bindings.items() if k != attribute}
            self._last_sync = {k: v for k, v in self._last_sync.items() if k != attribute}
            self._sync_callbacks.remove(attribute)
            restore_attribute(self, attribute, self._original_values.get(attribute))
            self._original_values = {k: v for k, v in self._original_values.items() if k != attribute}

    def on_change(self, attribute: str, callback: SyncCallback) -> None:
        """Add a callback, called with (attribute, old, new) whenever a sync changes a bound attribute.

        Raises:
            BindingError: the attribute isn't bound.
        """
        self._require_variable(attribute)
        self._sync_callbacks.add(attribute, callback)

    async def get_bound_variable(self, attribute: str) -> Any:
        """Return the present value of the variable that an attribute is bound to, read from the session.

        Raises:
            BindingError: the attribute isn't bound (also a ValueError).
            RuntimeError: the module has no session.
        """
        variable = self._require_variable(attribute)
        return await self._require_context().get_variable(variable)

    # ---------------------------------------------------------------- sync

    async def sync_variables(self) -> Changes:
        """Sync all bound attributes with the session, from one revision.

        Returns:
            attribute to (old, new), for the attributes that changed.

        Raises:
            VariableNotFoundError: a bound variable was deleted.
            ValidationError: a new value isn't valid for its target; nothing was synced.
            StoreUnavailableError: the store is away.
        """
        if self._session_context is None or not self._variable_bindings:
            return {}
        return self._sync(await self._session_context.snapshot())

    def sync_variables_sync(self) -> Changes:
        """Sync as :meth:`sync_variables` does, for callers that can't await, with or without a running loop."""
        if self._session_context is None or not self._variable_bindings:
            return {}
        return self._sync(self._session_context.blocking.snapshot())

    # ---------------------------------------------------------------- calls

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self._prepare_call() as module, apply_overrides(module):
            return module._base_method("__call__")(*args, **kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with self._prepare_call() as module, apply_overrides(module):
            return module._base_method("forward")(*args, **kwargs)

    async def acall(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module without blocking the loop: natively if DSPy can, else in a thread."""
        async with self._aprepare_call() as module:
            with apply_overrides(module):
                if runs_natively(type(self)):
                    return await module._base_method("acall")(*args, **kwargs)
                return await run_in_user_thread(module._base_method("__call__"), *args, **kwargs)

    async def aforward(self, *args: Any, **kwargs: Any) -> Any:
        async with self._aprepare_call() as module:
            with apply_overrides(module):
                if runs_natively(type(self)):
                    return await module._base_method("aforward")(*args, **kwargs)
                return await run_in_user_thread(module._base_method("forward"), *args, **kwargs)

    async def forward_async(self, *args: Any, **kwargs: Any) -> Any:
        """Sync the bound variables, then runs the module; the same as ``await module.acall(…)``."""
        return await self.acall(*args, **kwargs)

    # ---------------------------------------------------------------- state

    def dump_state(self, json_mode: bool = True) -> dict[str, Any]:
        """Return the plain module's state plus the bindings of this module and of the aware ones inside it."""
        state: dict[str, Any] = cast(Any, super()).dump_state(json_mode=json_mode)
        bindings = {path: part.get_bindings() for path, part in find_aware_parts(self) if part._variable_bindings}
        return {**state, BINDINGS_KEY: bindings} if bindings else state

    def load_state(self, state: Mapping[str, Any], **options: Any) -> Any:
        """Load a state saved by this class or by the plain one; the latter leaves the bindings as they are.

        Raises:
            BindingError: the state has a binding that this module can't have; nothing was loaded.
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
            cast(VariableAwareMixin, part_at(self, path))._restore_bindings(each)
        return loaded

    # ---------------------------------------------------------------- inside

    def _should_auto_sync(self) -> bool:
        return self._auto_sync and self._session_context is not None and bool(self._variable_bindings)

    def _require_context(self) -> SessionContext:
        if self._session_context is None:
            raise RuntimeError(
                f"No session context available for variable binding: give {type(self).__name__} a session_context="
            )
        return self._session_context

    def _require_variable(self, attribute: str) -> str:
        if attribute not in self._variable_bindings:
            bound = ", ".join(sorted(self._variable_bindings)) or "nothing"
            problem = f"it is not bound to a variable; bind it first, bound is: {bound}"
            raise BindingError(type(self).__name__, attribute, problem)
        return self._variable_bindings[attribute]

    def _bind(self, attribute: str, variable: str, callback: SyncCallback | None, snapshot: Snapshot) -> None:
        value = snapshot.value(variable)
        # Together with the other bindings, since validity may depend on them: a token limit on its model.
        self._bind_clone({**self._values(None), attribute: BoundValue(variable, value)})
        before = read_attribute(self, attribute)
        with _state_lock:
            old = self._last_sync.get(attribute, before[0] if before else None)
            self._original_values = {attribute: before, **self._original_values}
            self._variable_bindings = {**self._variable_bindings, attribute: variable}
            self._last_sync = {**self._last_sync, attribute: value}
            expose_value(self, attribute, value)
            if callback is not None:
                self._sync_callbacks.add(attribute, callback)
        if callback is not None and old is not None and old != value:
            callback(attribute, old, value)

    def _restore_bindings(self, bindings: Mapping[str, str]) -> None:
        """Replace the bindings by those of a saved state; the next sync sets their values."""
        for attribute in self._variable_bindings:
            if attribute not in bindings:
                self.unbind_variable(attribute)
        with _state_lock:
            self._forget_values()
            self._variable_bindings = dict(bindings)
            self._original_values = {**{name: read_attribute(self, name) for name in bindings}, **self._original_values}

    def _forget_values(self) -> None:
        """Restore the attributes' own values; the bindings stay."""
        for attribute, before in self._original_values.items():
            restore_attribute(self, attribute, before)
        self._last_sync = {}
        self._synced = None

    def _values(self, snapshot: Snapshot | None) -> dict[str, BoundValue]:
        """Return the bound values at a snapshot, or those of the last sync."""
        bindings = self._variable_bindings
        if snapshot is None:
            return {
                name: BoundValue(bindings[name], value) for name, value in self._last_sync.items() if name in bindings
            }
        return {name: BoundValue(variable, snapshot.value(variable)) for name, variable in bindings.items()}

    def _values_for_call(self, call: CallSnapshots) -> dict[str, BoundValue]:
        if self._session_context is None or not self._variable_bindings:
            return {}
        if self._should_auto_sync():
            return self._values(call.get(self._session_context))
        never = sorted(self._variable_bindings.keys() - self._last_sync.keys())
        if never:
            problem = "auto_sync is off and it was never synced: await sync_variables() first"
            raise BindingError(type(self).__name__, ", ".join(never), problem)
        return self._values(None)

    def _bind_clone(self, values: Mapping[str, BoundValue]) -> Self:
        """Return a clone of this module with the values applied, to check that they are valid."""
        copied = clone(self)
        copied._apply_values(values)
        return copied

    def _apply_values(self, values: Mapping[str, BoundValue]) -> None:
        """Apply values to this clone, after the attributes' own values are restored on it."""
        for attribute, before in self._original_values.items():
            restore_attribute(self, attribute, before)
        profiles = self._session_context.profiles if self._session_context is not None else None
        apply_values(self, values, LMScope(profiles, dspy.settings.lm))

    def _sync(self, snapshot: Snapshot) -> Changes:
        values = self._values(snapshot)
        self._bind_clone(values)
        return self._record_sync(values, snapshot.token)

    def _record_sync(self, values: Mapping[str, BoundValue], token: Token) -> Changes:
        """Record synced values and run the callbacks, unless a concurrent call has recorded newer ones."""
        with _state_lock:
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
                expose_value(self, name, new)
        self._sync_callbacks.notify(changes)
        return changes

    def _find_sessions(self) -> list[SessionContext]:
        """Return the sessions that a call of this module reads: its own and those of aware modules inside."""
        found = [part._session_context for _, part in find_aware_parts(self) if part._should_auto_sync()]
        return list(dict.fromkeys(context for context in found if context is not None))

    @contextmanager
    def _prepare_call(self) -> Generator[Self]:
        """Yield the module to run: this one if it is a bound copy or has no bindings, else a bound copy.

        Aware modules inside it, and those that it calls from elsewhere, see the same snapshots.
        """
        if self._bound:
            yield self
            return
        with calls.current_call() as call:
            calls.load(call, self._find_sessions())
            with self._bound_copy(call) as module:
                yield module

    @asynccontextmanager
    async def _aprepare_call(self) -> AsyncGenerator[Self]:
        if self._bound:
            yield self
            return
        with calls.current_call() as call:
            await calls.aload(call, self._find_sessions())
            with self._bound_copy(call) as module:
                yield module

    @contextmanager
    def _bound_copy(self, call: CallSnapshots) -> Generator[Self]:
        parts = [part for _, part in find_aware_parts(self)]
        values = [part._values_for_call(call) for part in parts]
        if not any(values):
            yield self
            return
        copied = clone(self)
        for (_, part), bound in zip(find_aware_parts(copied), values, strict=True):
            part._apply_values(bound)
            part._bound = True
        for part, bound in zip(parts, values, strict=True):
            snapshot = call.get(part._session_context) if part._session_context is not None else None
            if snapshot is not None and part._should_auto_sync():
                part._record_sync(bound, snapshot.token)
        with preserve_predictor_identity(self, copied):
            yield copied

    def _base_method(self, method: str) -> Any:
        """Return a method of the plain class on this object: KNN has no ``forward`` and Parallel no ``acall``."""
        plain = cast(Any, super())
        if hasattr(plain, method):
            return getattr(plain, method)
        return plain.__call__ if method == "forward" else plain.forward


def find_aware_parts(module: VariableAwareMixin) -> list[tuple[str, VariableAwareMixin]]:
    """Return the variable-aware parts of a module with their paths, the module itself first."""
    return list(parts(module, VariableAwareMixin))


@functools.cache
def mixin_attribute_names() -> frozenset[str]:
    """Return the names of the attributes that the mixin keeps on an instance."""

    class Bare(VariableAwareMixin, dspy.Module):
        """A module without attributes of its own."""

    names = vars(Bare()).keys() - vars(dspy.Module()).keys()
    return frozenset(names) | frozenset(VariableAwareMixin.__annotations__) | {OVERRIDES}

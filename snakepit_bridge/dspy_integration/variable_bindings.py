"""VariableBindings: the attributes of a DSPy module that are bound to variables, and their values at the last sync."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, Self, cast

import dspy

from snakepit_bridge.dspy_integration.binding import (
    BoundValue,
    LMScope,
    apply_values,
    check_binding,
    expose_value,
    read_attribute,
    restore_attribute,
)
from snakepit_bridge.dspy_integration.callbacks import Changes, SyncCallback, SyncCallbacks
from snakepit_bridge.dspy_integration.module_tree import clone
from snakepit_bridge.exceptions import BindingError
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.session_context import SessionContext
from snakepit_bridge.snapshots.snapshot import Snapshot

# Guards the few assignments of a module's synced state; a lock per module could be neither copied nor pickled.
_state_lock = threading.RLock()


class VariableBindings:
    """The part of :class:`VariableAwareMixin` that binds attributes and syncs them.

    Its arguments are those of :class:`VariableAwareMixin`.
    """

    # Defaults for instances that were created without __init__, such as by cloudpickle.
    _session_context: SessionContext | None = None
    _auto_sync: bool = True
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
            BindingError: the attribute can't be bound on this module, and the error lists those that can; or no
                variable can have that name.
            ValidationError: the present value isn't valid for the attribute.
        """
        context = self._require_context()
        check_binding(self, attribute, variable_name)
        self._bind(attribute, variable_name, sync_callback, await context.snapshot())

    def bind_to_variable_sync(
        self, attribute: str, variable_name: str, sync_callback: SyncCallback | None = None
    ) -> None:
        """Bind as :meth:`bind_to_variable` does, for callers that can't await, with or without a running loop."""
        context = self._require_context()
        check_binding(self, attribute, variable_name)
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

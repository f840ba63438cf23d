"""VariableAwareMixin: makes a DSPy module obey the variables of a session.

A call reads one snapshot, binds a clone of the module to it and runs the clone. So a call sees one revision from its
first predictor to its last, and concurrent calls under different revisions don't disturb each other.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self, cast

import dspy

from snakepit_bridge.dspy_integration.binding import Bound, LMScope, apply, bind_values, check_bindable, part_at, split
from snakepit_bridge.dspy_integration.structure import clone, parts, predictors
from snakepit_bridge.exceptions import BindingError
from snakepit_bridge.revision import Token
from snakepit_bridge.session_context import SessionContext
from snakepit_bridge.snapshot import Snapshot

SyncCallback = Callable[[str, Any, Any], object]
Changes = dict[str, tuple[Any, Any]]

BINDINGS_KEY = "variable_bindings"

# Attributes in which DSPy keeps objects of its own; a bound value must not lie over them.
_DSPY_OWN = frozenset({"lm", "demos", "tools", "signature", "config", "history", "callbacks"})

# Guards the few assignments that make up a module's synced state; a lock per module could be neither copied nor saved.
_state = threading.Lock()


class VariableAwareMixin:
    """Stands before a DSPy module class and lets attributes of its instances follow session variables.

    Without a session the module is the plain one. With one, each call syncs first, unless ``auto_sync`` is off.

    Args:
        session_context: the session to obey; modules hold it, it doesn't hold them.
        auto_sync: whether each call reads the session; if not, calls use the values of the last explicit sync.

    Example:
        >>> module = VariableAwarePredict("question -> answer", session_context=ctx)
        >>> await module.bind_to_variable("temperature", "llm_temperature")
        >>> await module.acall(question="…")          # asks at the temperature that the session holds now
    """

    # Defaults for instances that another class's machinery made, such as cloudpickle.
    _session_context: SessionContext | None = None
    _auto_sync: bool = True
    _bound: bool = False
    _synced: Token | None = None

    def __init__(
        self, *args: Any, session_context: SessionContext | None = None, auto_sync: bool = True, **kwargs: Any
    ) -> None:
        self._session_context = session_context
        self._auto_sync = auto_sync
        self._variable_bindings: dict[str, str] = {}
        self._last_sync: dict[str, Any] = {}
        self._sync_callbacks: dict[str, list[SyncCallback]] = {}
        # What a readable attribute was before it was bound: () if it wasn't there.
        self._unbound: dict[str, tuple[Any, ...]] = {}
        super().__init__(*args, **kwargs)

    @property
    def session_context(self) -> SessionContext | None:
        """The session that this module obeys, if any. May be set on a module that came back from a file."""
        return self._session_context

    @session_context.setter
    def session_context(self, context: SessionContext | None) -> None:
        self._session_context = context
        self._synced = None

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
        return self._take(await self._session_context.snapshot())

    def sync_variables_sync(self) -> Changes:
        """Syncs as :meth:`sync_variables` does, for callers that can't await, with or without a running loop."""
        if self._session_context is None or not self._variable_bindings:
            return {}
        return self._take(self._session_context.blocking.snapshot())

    async def get_bound_variable(self, attribute: str) -> Any:
        """Returns the present value of the variable that an attribute is bound to, read from the session.

        Raises:
            ValueError: the attribute isn't bound.
        """
        if attribute not in self._variable_bindings:
            raise BindingError(
                type(self).__name__, attribute, "it is not bound to a variable", sorted(self._variable_bindings)
            )
        return await self._context().get_variable(self._variable_bindings[attribute])

    def get_bindings(self) -> dict[str, str]:
        """Returns attribute to variable name, as a copy."""
        return dict(self._variable_bindings)

    def unbind_variable(self, attribute: str) -> None:
        """Ends a binding and its callbacks; the plain module's own value holds again."""
        with _state:
            self._variable_bindings = {k: v for k, v in self._variable_bindings.items() if k != attribute}
            self._last_sync = {k: v for k, v in self._last_sync.items() if k != attribute}
            self._sync_callbacks.pop(attribute, None)
            _restore(self, attribute, self._unbound.pop(attribute, None))

    def on_change(self, attribute: str, callback: SyncCallback) -> None:
        """Calls back with (attribute, old, new) each time a sync changes a bound attribute, until it is unbound.

        Raises:
            BindingError: the attribute isn't bound.
        """
        if attribute not in self._variable_bindings:
            raise BindingError(type(self).__name__, attribute, "it is not bound to a variable; bind it first")
        self._sync_callbacks.setdefault(attribute, []).append(callback)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self._bound_for_call() as twin:
            return cast(Any, super(VariableAwareMixin, twin)).__call__(*args, **kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with self._bound_for_call() as twin:
            return cast(Any, super(VariableAwareMixin, twin)).forward(*args, **kwargs)

    async def acall(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the module without blocking the loop: natively where DSPy can, else in a thread."""
        with self._bound_for_call(await self._snapshot_for_call()) as twin:
            plain = cast(Any, super(VariableAwareMixin, twin))
            if runs_natively(type(self)):
                return await plain.acall(*args, **kwargs)
            # Carries the context along, dspy.context included; run_in_executor would not.
            return await asyncio.to_thread(plain.__call__, *args, **kwargs)

    async def aforward(self, *args: Any, **kwargs: Any) -> Any:
        with self._bound_for_call(await self._snapshot_for_call()) as twin:
            plain = cast(Any, super(VariableAwareMixin, twin))
            if runs_natively(type(self)):
                return await plain.aforward(*args, **kwargs)
            return await asyncio.to_thread(plain.forward, *args, **kwargs)

    async def forward_async(self, *args: Any, **kwargs: Any) -> Any:
        """Syncs the bound variables, then runs the module; the same as ``await module.acall(…)``."""
        return await self.acall(*args, **kwargs)

    def dump_state(self, json_mode: bool = True) -> dict[str, Any]:
        """Returns the plain module's state plus the bindings of this module and of the aware ones inside it."""
        state: dict[str, Any] = cast(Any, super()).dump_state(json_mode=json_mode)
        bindings = {path: part.get_bindings() for path, part in _aware(self) if part._variable_bindings}
        return {**state, BINDINGS_KEY: bindings} if bindings else state

    def load_state(self, state: dict[str, Any], **options: Any) -> Any:
        """Loads a state saved by this class or by the plain one; the latter leaves the bindings as they are."""
        plain = {name: value for name, value in state.items() if name != BINDINGS_KEY}
        loaded = cast(Any, super()).load_state(plain, **options)
        for path, bindings in state.get(BINDINGS_KEY, {}).items():
            part = part_at(self, path)
            if not isinstance(part, VariableAwareMixin):
                raise BindingError(type(self).__name__, path or "itself", "the saved state binds it, and it isn't here")
            part._variable_bindings = dict(bindings)
        return loaded

    def _should_auto_sync(self) -> bool:
        return self._auto_sync and not self._bound and self._session_context is not None and bool(_bindings(self))

    def _context(self) -> SessionContext:
        if self._session_context is None:
            raise RuntimeError(
                f"No session context available for variable binding: give {type(self).__name__} a session_context="
            )
        return self._session_context

    def _bind(self, attribute: str, variable: str, callback: SyncCallback | None, snapshot: Snapshot) -> None:
        value = snapshot.value(variable)
        bind_values(self, {attribute: Bound(variable, value)}, self._scope())
        before = _readable(self, attribute)
        old = self._last_sync.get(attribute, before[0] if before else None)
        with _state:
            self._unbound.setdefault(attribute, before)
            self._variable_bindings = {**self._variable_bindings, attribute: variable}
            self._last_sync = {**self._last_sync, attribute: value}
            _show(self, attribute, value)
            if callback is not None:
                self._sync_callbacks.setdefault(attribute, []).append(callback)
        if callback is not None and old is not None and old != value:
            callback(attribute, old, value)

    def _scope(self) -> LMScope:
        profiles = self._session_context.profiles if self._session_context else None
        return LMScope(profiles, dspy.settings.lm)

    def _values(self, snapshot: Snapshot | None) -> dict[str, Bound]:
        """The bound values at a snapshot, or those of the last sync."""
        bindings = self._variable_bindings
        if snapshot is None:
            return {name: Bound(bindings[name], value) for name, value in self._last_sync.items() if name in bindings}
        return {name: Bound(variable, snapshot.value(variable)) for name, variable in bindings.items()}

    def _take(self, snapshot: Snapshot) -> Changes:
        """Makes a snapshot's values the readable ones, unless a concurrent call has taken a newer one already."""
        values = self._values(snapshot)
        bind_values(self, values, self._scope())
        with _state:
            if self._synced is not None and snapshot.token < self._synced:
                return {}
            changes = {
                name: (self._last_sync.get(name), bound.value)
                for name, bound in values.items()
                if name not in self._last_sync or self._last_sync[name] != bound.value
            }
            self._last_sync = {**self._last_sync, **{name: new for name, (_, new) in changes.items()}}
            self._synced = snapshot.token
            for name, (_, new) in changes.items():
                _show(self, name, new)
        self._notify(changes)
        return changes

    def _notify(self, changes: Changes) -> None:
        """Calls every callback, then raises what they raised: the values stay taken, the fault doesn't hide."""
        faults: list[Exception] = []
        for name, (old, new) in changes.items():
            for callback in tuple(self._sync_callbacks.get(name, ())):
                try:
                    callback(name, old, new)
                except Exception as fault:  # noqa: BLE001  (raised below, once the others had their turn)
                    faults.append(fault)
        if faults:
            raise faults[0] if len(faults) == 1 else ExceptionGroup("sync callbacks failed", faults)

    async def _snapshot_for_call(self) -> Snapshot | None:
        return await self._context().snapshot() if self._should_auto_sync() else None

    @contextmanager
    def _bound_for_call(self, snapshot: Snapshot | None = None) -> Iterator[Self]:
        """Yields what to run: this module if it is bound already or obeys nothing, else a clone bound to one snapshot.

        Aware modules inside it that obey the same session get the same snapshot.
        """
        if self._bound or not _bindings(self):
            yield self
            return
        if snapshot is None and self._should_auto_sync():
            snapshot = self._context().blocking.snapshot()
        if snapshot is not None:
            for part in _siblings(self):
                part._take(snapshot)
        twin = self._bound_twin(snapshot)
        with _traced_as(self, twin):
            yield twin

    def _bound_twin(self, snapshot: Snapshot | None) -> Self:
        twin = clone(self)
        for part in _siblings(twin):
            apply(part, part._values(snapshot), part._scope())
            part._bound = True
        return twin


def runs_natively(module_class: type) -> bool:
    """Tells whether a class has an ``aforward`` that goes with its ``forward``.

    A class that overrides only ``forward`` would run its parent's ``aforward``, which does something else.
    """
    for base in module_class.__mro__:
        if base is not VariableAwareMixin and "aforward" in vars(base):
            return True
        if base is not VariableAwareMixin and "forward" in vars(base):
            return False
    return False


def _aware(module: Any) -> list[tuple[str, VariableAwareMixin]]:
    return list(parts(module, VariableAwareMixin)) or [("", module)]


def _siblings(module: VariableAwareMixin) -> list[VariableAwareMixin]:
    """The module and the aware ones inside it that obey the same session."""
    return [part for _, part in _aware(module) if part._session_context is module._session_context]


def _bindings(module: VariableAwareMixin) -> Mapping[str, str]:
    return next((part._variable_bindings for part in _siblings(module) if part._variable_bindings), {})


def _readable(module: Any, attribute: str) -> tuple[Any, ...]:
    """Returns the attribute's value as a 1-tuple, or () where it has none."""
    path, target = split(attribute)
    part = part_at(module, path)
    return (getattr(part, target),) if target not in _DSPY_OWN and hasattr(part, target) else ()


def _restore(module: Any, attribute: str, before: tuple[Any, ...] | None) -> None:
    path, target = split(attribute)
    part = part_at(module, path)
    if before is None or target in _DSPY_OWN:
        return
    if before:
        setattr(part, target, before[0])
    elif hasattr(part, target):
        delattr(part, target)


def _show(module: Any, attribute: str, value: Any) -> None:
    """Keeps ``module.temperature`` readable; what DSPy obeys is set on the clone of each call."""
    path, target = split(attribute)
    if target not in _DSPY_OWN:
        setattr(part_at(module, path), target, value)


@contextmanager
def _traced_as(module: Any, twin: Any) -> Iterator[None]:
    """Makes DSPy's trace name the module's own predictors, by whose identity optimizers find them."""
    trace: list[Any] | None = dspy.settings.trace
    start = len(trace) if trace is not None else 0
    try:
        yield
    finally:
        if trace is not None and len(trace) > start:
            originals = dict(predictors(module))
            own = {id(new): originals[path] for path, new in predictors(twin) if path in originals}
            for index in range(start, len(trace)):
                ran, *rest = trace[index]
                trace[index] = (own.get(id(ran), ran), *rest)

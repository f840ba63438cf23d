"""VariableAwareMixin: binds attributes of a DSPy module to the variables of a session.

A call reads one snapshot, binds a clone of the module to it and runs the clone. So a call sees one revision from its
first predictor to its last, and concurrent calls under different revisions don't disturb each other.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from typing import Any, Self, cast

import dspy

from snakepit_bridge.dspy_integration import call_snapshots as calls
from snakepit_bridge.dspy_integration.binding import BoundValue, check_bindable
from snakepit_bridge.dspy_integration.call_snapshots import CallSnapshots
from snakepit_bridge.dspy_integration.callbacks import Changes, SyncCallback
from snakepit_bridge.dspy_integration.context_overrides import OVERRIDES, apply_overrides
from snakepit_bridge.dspy_integration.module_tree import WRITTEN_BY_THE_USER, clone, part_at, parts, runs_natively
from snakepit_bridge.dspy_integration.trace_identity import preserve_predictor_identity
from snakepit_bridge.dspy_integration.variable_bindings import VariableBindings
from snakepit_bridge.exceptions import BindingError
from snakepit_bridge.process.threads import run_in_user_thread
from snakepit_bridge.session_context import SessionContext

__all__ = ["BINDINGS_KEY", "Changes", "SyncCallback", "VariableAwareMixin", "runs_natively"]

BINDINGS_KEY = "variable_bindings"


class VariableAwareMixin(VariableBindings):
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

    # A default for instances that were created without __init__, such as by cloudpickle.
    _bound: bool = False

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
            with self._prepare_call() as module, _overridden(module):
                return forward(module, *args, **kwargs)

        setattr(synced, WRITTEN_BY_THE_USER, forward)
        return synced

    @classmethod
    def _wrap_aforward(cls, aforward: Any) -> Any:
        @functools.wraps(aforward)
        async def synced(self: Self, *args: Any, **kwargs: Any) -> Any:
            async with self._aprepare_call() as module:
                with _overridden(module):
                    return await aforward(module, *args, **kwargs)

        setattr(synced, WRITTEN_BY_THE_USER, aforward)
        return synced

    # ---------------------------------------------------------------- calls

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self._prepare_call() as module, _overridden(module):
            return module._base_method("__call__")(*args, **kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with self._prepare_call() as module, _overridden(module):
            return module._base_method("forward")(*args, **kwargs)

    async def acall(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module without blocking the loop: natively if DSPy can, else in a thread."""
        async with self._aprepare_call() as module:
            with _overridden(module):
                if runs_natively(type(self)):
                    return await module._base_method("acall")(*args, **kwargs)
                return await run_in_user_thread(module._base_method("__call__"), *args, **kwargs)

    async def aforward(self, *args: Any, **kwargs: Any) -> Any:
        async with self._aprepare_call() as module:
            with _overridden(module):
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

    def _aprepare_call(self) -> AbstractAsyncContextManager[Self]:
        return nullcontext(self) if self._bound else self._aprepare_copy()

    @asynccontextmanager
    async def _aprepare_copy(self) -> AsyncGenerator[Self]:
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


def _overridden(module: VariableAwareMixin) -> AbstractContextManager[Any]:
    return apply_overrides(module) if OVERRIDES in vars(module) else nullcontext()


MIXIN_CLASSES = frozenset(VariableAwareMixin.__mro__) - {object}
"""The mixin and its base, which a variable-aware class has besides the plain one."""


def find_aware_parts(module: VariableAwareMixin) -> list[tuple[str, VariableAwareMixin]]:
    """Return the variable-aware parts of a module with their paths, the module itself first."""
    return list(parts(module, VariableAwareMixin))


@functools.cache
def mixin_attribute_names() -> frozenset[str]:
    """Return the names of the attributes that the mixin keeps on an instance."""

    class Bare(VariableAwareMixin, dspy.Module):
        """A module without attributes of its own."""

    names = vars(Bare()).keys() - vars(dspy.Module()).keys()
    defaults = VariableAwareMixin.__annotations__.keys() | VariableBindings.__annotations__.keys()
    return frozenset(names) | defaults | {OVERRIDES}

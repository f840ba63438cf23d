"""create_variable_aware_module: from a name or a class to a bound module in one call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from snakepit_bridge.dspy_integration.modules import variable_aware
from snakepit_bridge.dspy_integration.resolver import ModuleVariableResolver, construct, lookup
from snakepit_bridge.session_context import SessionContext


async def create_variable_aware_module(
    session_context: SessionContext,
    module_type: str | type,
    *args: Any,
    variable_bindings: Mapping[str, str] | None = None,
    **kwargs: Any,
) -> Any:
    """Return a new variable-aware module with its bindings in place.

    Args:
        session_context: the session to obey.
        module_type: registered name, or a module class; a plain class is made aware.
        *args: constructor arguments.
        variable_bindings: attribute to variable name.
        **kwargs: constructor arguments; LM keywords become the predictors' config.

    Raises:
        UnknownModuleError: no such name is registered (also a ValueError).
        VariableNotFoundError: the session lacks a bound variable (also a ValueError).
        BindingError: an attribute can't be bound on this module (also a ValueError).
    """
    registry = ModuleVariableResolver.MODULE_REGISTRY
    module_class = module_type if isinstance(module_type, type) else lookup(registry, module_type).preferred
    aware = variable_aware(module_class)
    module = construct(aware, registry, *args, session_context=session_context, **kwargs)
    for attribute, variable in (variable_bindings or {}).items():
        await module.bind_to_variable(attribute, variable)
    return module

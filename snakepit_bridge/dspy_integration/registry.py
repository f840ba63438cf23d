"""Registries of objects that a variable can name but not hold: tools, interpreters, reward functions, adapters.

Only code registers; a variable only chooses among registered objects and those that the module was built with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import dspy

from snakepit_bridge.dspy_integration.bounds import abbreviate
from snakepit_bridge.dspy_integration.sandbox import SANDBOX
from snakepit_bridge.exceptions import ValidationError, join_names, suggest_name

T = TypeVar("T")


class NamedRegistry(Generic[T]):
    """The registered objects of one kind, by name, for this process.

    Args:
        kind: name of the kind, for errors.
        **first: initial entries.
    """

    def __init__(self, kind: str, **first: T) -> None:
        self.kind = kind
        self._things: dict[str, T] = dict(first)

    def register(self, thing: T, name: str | None = None) -> T:
        """Register an object under a name, and return it; also a decorator.

        Raises:
            ValueError: the name is empty or taken.
        """
        called = name or str(getattr(thing, "name", None) or getattr(thing, "__name__", ""))
        if not called:
            raise ValueError(f"This {self.kind} has no name of its own; give one.")
        if self._things.setdefault(called, thing) is not thing:
            raise ValueError(f"Another {self.kind} is called '{called}' already; choose another name.")
        return thing

    def unregister(self, name: str) -> None:
        """Remove a name; do nothing if it isn't registered."""
        self._things.pop(name, None)

    @property
    def names(self) -> list[str]:
        """The registered names, sorted."""
        return sorted(self._things)

    def find(self, name: object, variable: str, beside: Mapping[str, T] | None = None) -> T:
        """Return the object with a name, ignoring case.

        Args:
            name: the variable's value.
            variable: name of the variable, for the error.
            beside: objects that take precedence over registered ones, such as the tools that a module was built with.

        Raises:
            ValidationError: no object has that name; lists those that exist.
        """
        candidates = {**self._things, **(beside or {})}
        if isinstance(name, str):
            if name in candidates:
                return candidates[name]
            folded = {known_as.casefold(): thing for known_as, thing in candidates.items()}
            if name.casefold() in folded:
                return folded[name.casefold()]
        hint = suggest_name(str(name), candidates)
        raise ValidationError(
            variable, abbreviate(name), f"it must name a registered {self.kind}: {join_names(candidates)}{hint}"
        )


Function = Callable[..., Any]

TOOLS: NamedRegistry[Function] = NamedRegistry("tool")
REWARDS: NamedRegistry[Function] = NamedRegistry("reward function")
REDUCERS: NamedRegistry[Function] = NamedRegistry("reduce function", majority=dspy.majority)
METRICS: NamedRegistry[Function] = NamedRegistry(
    "metric",
    answer_exact_match=dspy.evaluate.answer_exact_match,
    answer_passage_match=dspy.evaluate.answer_passage_match,
)
# No unsafe interpreter is registered by default: register `dspy.LocalInterpreter` to use it.
INTERPRETERS: NamedRegistry[Function] = NamedRegistry("interpreter", sandbox=SANDBOX)
ADAPTERS: NamedRegistry[dspy.Adapter] = NamedRegistry(
    "adapter",
    chat=dspy.ChatAdapter(),
    json=dspy.JSONAdapter(),
    xml=dspy.XMLAdapter(),
    ChatAdapter=dspy.ChatAdapter(),
    JSONAdapter=dspy.JSONAdapter(),
    XMLAdapter=dspy.XMLAdapter(),
)

register_tool = TOOLS.register
register_reward = REWARDS.register
register_interpreter = INTERPRETERS.register

"""Things that a variable names, since it can't hold them: tools, interpreters, reward functions, adapters.

Only code registers; a variable only chooses among what is registered here or what the module was built with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import dspy

from snakepit_bridge.dspy_integration.bounds import abbreviate
from snakepit_bridge.exceptions import ValidationError, closest, known

T = TypeVar("T")


class NamedRegistry(Generic[T]):
    """The things of one kind, by name, for this process.

    Args:
        kind: what they are, for errors.
        **first: those that are there from the start.
    """

    def __init__(self, kind: str, **first: T) -> None:
        self.kind = kind
        self._things: dict[str, T] = dict(first)

    def register(self, thing: T, name: str | None = None) -> T:
        """Let variables name a thing, and return it, so that it serves as a decorator too.

        Raises:
            ValueError: the name is empty or stands for something else already.
        """
        called = name or str(getattr(thing, "name", None) or getattr(thing, "__name__", ""))
        if not called:
            raise ValueError(f"This {self.kind} has no name of its own; give one.")
        if self._things.setdefault(called, thing) is not thing:
            raise ValueError(f"Another {self.kind} is called '{called}' already; choose another name.")
        return thing

    def forget(self, name: str) -> None:
        """Take a name away again; without effect if it isn't there."""
        self._things.pop(name, None)

    @property
    def names(self) -> list[str]:
        """The names that a variable may say, sorted."""
        return sorted(self._things)

    def find(self, name: object, variable: str, beside: Mapping[str, T] | None = None) -> T:
        """Return the thing of a name, whatever its case.

        Args:
            name: the variable's value.
            variable: who says it, for the error.
            beside: things that go before the registered ones, such as the tools that a module was built with.

        Raises:
            ValidationError: nothing has that name; names what there is.
        """
        there = {**self._things, **(beside or {})}
        if isinstance(name, str):
            if name in there:
                return there[name]
            folded = {known_as.casefold(): thing for known_as, thing in there.items()}
            if name.casefold() in folded:
                return folded[name.casefold()]
        hint = closest(str(name), there)
        raise ValidationError(
            variable, abbreviate(name), f"it must name a registered {self.kind}: {known(there)}{hint}"
        )


class _Sandbox:
    """Makes DSPy's sandboxed interpreter, also where ``dspy.configure`` names another default."""

    # RLM tells the model what its interpreter's factory says here.
    execution_instructions: str = getattr(dspy.PythonInterpreter, "execution_instructions", "")

    def __call__(self) -> Any:
        return dspy.PythonInterpreter()


Function = Callable[..., Any]

TOOLS: NamedRegistry[Function] = NamedRegistry("tool")
REWARDS: NamedRegistry[Function] = NamedRegistry("reward function")
REDUCERS: NamedRegistry[Function] = NamedRegistry("reduce function", majority=dspy.majority)
# Nothing unsafe is there by itself: whoever wants `dspy.LocalInterpreter` registers it.
INTERPRETERS: NamedRegistry[Function] = NamedRegistry("interpreter", sandbox=_Sandbox())
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

"""The chat adapter of bound programs: DSPy's own, with the constant parts of a signature's prompt cached.

DSPy formats the system message for each call, with a pydantic schema for each field, and rebuilds a signature's fields
at each access; that is a fifth of a call's cost. A bound program's signatures never change, so it is done once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast
from weakref import WeakKeyDictionary

import dspy
from dspy.utils.exceptions import AdapterParseError


@dataclass(frozen=True, slots=True)
class _CachedPrompt:
    """The cached parts of a signature's prompt.

    Attributes:
        instructions: the signature's instructions when they were cached.
        system: the system message.
        reminder: the output requirements at the end of a request.
        inputs: its input fields.
        output_fields: its output fields; the parser reads nothing else of a signature, so it gets this object.
    """

    instructions: str
    system: str
    reminder: str
    inputs: tuple[str, ...]
    output_fields: Mapping[str, Any]


class ChatAdapter(dspy.ChatAdapter):
    """A :class:`dspy.ChatAdapter` with the same prompts; stream listeners know the format by the class's name."""

    def __init__(self) -> None:
        super().__init__()
        self._prompts: WeakKeyDictionary[type[dspy.Signature], _CachedPrompt] = WeakKeyDictionary()

    def format_system_message(self, signature: type[dspy.Signature]) -> str:
        """Return the system message for a signature."""
        return self._get_prompt(signature).system

    def user_message_output_requirements(self, signature: type[dspy.Signature]) -> str:
        """Return the reminder at the end of a request."""
        return self._get_prompt(signature).reminder

    def format_user_message_content(
        self,
        signature: type[dspy.Signature],
        inputs: dict[str, Any],
        prefix: str = "",
        suffix: str = "",
        main_request: bool = False,
    ) -> Any:
        """Return the user message; text inputs are formatted without a schema."""
        if not all(type(value) is str for value in inputs.values()):
            return super().format_user_message_content(signature, inputs, prefix, suffix, main_request)
        known = self._get_prompt(signature)
        parts = [prefix, *(f"[[ ## {name} ## ]]\n{inputs[name]}" for name in known.inputs if name in inputs)]
        if main_request:
            parts.append(known.reminder)
        return "\n\n".join([*parts, suffix]).strip()

    def parse(self, signature: type[dspy.Signature], completion: str) -> dict[str, Any]:
        """Return the output fields of an answer.

        Raises:
            AdapterParseError: a field is missing.
        """
        try:
            return super().parse(cast(Any, self._get_prompt(signature)), completion)
        except AdapterParseError:
            # Parse again, for an error that names the signature itself.
            return super().parse(signature, completion)

    def _get_prompt(self, signature: type[dspy.Signature]) -> _CachedPrompt:
        known, instructions = self._prompts.get(signature), signature.instructions
        if known is None or known.instructions != instructions:
            known = self._prompts[signature] = _CachedPrompt(
                instructions,
                super().format_system_message(signature),
                super().user_message_output_requirements(signature),
                tuple(signature.input_fields),
                dict(signature.output_fields),
            )
        return known


SHARED_ADAPTER = ChatAdapter()
"""The adapter of all programs of a process: it holds no state of a call."""

"""The chat adapter of bound programs: DSPy's own, which remembers what is the same in every prompt of a signature.

DSPy writes the system message anew for each call, with a pydantic schema for each field; that is a fifth of what a call
costs. A bound program's signatures never change, so it is written once.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import dspy


class ChatAdapter(dspy.ChatAdapter):
    """What :class:`dspy.ChatAdapter` is, prompt for prompt. By the same name DSPy's listeners know its format."""

    def __init__(self) -> None:
        super().__init__()
        # By signature: the instructions that it had, and the texts that were made with them.
        self._said: WeakKeyDictionary[type[dspy.Signature], tuple[str, str, str]] = WeakKeyDictionary()

    def format_system_message(self, signature: type[dspy.Signature]) -> str:
        """Returns the system message for a signature."""
        return self._texts(signature)[1]

    def user_message_output_requirements(self, signature: type[dspy.Signature]) -> str:
        """Returns the reminder at the end of a request."""
        return self._texts(signature)[2]

    def format_user_message_content(
        self,
        signature: type[dspy.Signature],
        inputs: dict[str, Any],
        prefix: str = "",
        suffix: str = "",
        main_request: bool = False,
    ) -> Any:
        """Returns the request; text among its inputs needs no schema to be written."""
        fields = signature.input_fields
        if not all(type(value) is str for value in inputs.values()):
            return super().format_user_message_content(signature, inputs, prefix, suffix, main_request)
        parts = [prefix, *(f"[[ ## {name} ## ]]\n{inputs[name]}" for name in fields if name in inputs)]
        if main_request:
            parts.append(self.user_message_output_requirements(signature))
        return "\n\n".join([*parts, suffix]).strip()

    def _texts(self, signature: type[dspy.Signature]) -> tuple[str, str, str]:
        said, instructions = self._said.get(signature), signature.instructions
        if said is None or said[0] != instructions:
            system = super().format_system_message(signature)
            reminder = super().user_message_output_requirements(signature)
            said = self._said[signature] = (instructions, system, reminder)
        return said


SHARED = ChatAdapter()
"""It keeps nothing of a call, so all programs of a process use this one."""

"""The chat adapter of bound programs: DSPy's own, with the constant parts of a signature's prompt cached.

DSPy formats the system message for each call, with a pydantic schema for each field, and rebuilds a signature's fields
at each access; that is a fifth of a call's cost. A bound program's signatures never change, so it is done once.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast, get_origin
from weakref import WeakKeyDictionary

import dspy
from dspy.utils.exceptions import AdapterParseError
from pydantic import TypeAdapter

from snakepit_bridge.dspy_integration.compat import repair_json


@dataclass(frozen=True, slots=True)
class _CachedPrompt:
    """The cached parts of a signature's prompt.

    Attributes:
        instructions: the signature's instructions when they were cached.
        system: the system message.
        reminder: the output requirements at the end of a request.
        inputs: its input fields.
        output_fields: its output fields, as texts where ``validators`` has them; the parser reads nothing else of a
            signature, so it gets this object.
        validators: the validators of fields whose values DSPy passes to pydantic alone.
    """

    instructions: str
    system: str
    reminder: str
    inputs: tuple[str, ...]
    output_fields: Mapping[str, Any]
    validators: Mapping[str, TypeAdapter[Any]]


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
        known = self._get_prompt(signature)
        try:
            fields = super().parse(cast(Any, known), completion)
            return fields | {name: _read(fields[name], known.validators[name]) for name in known.validators}
        except (AdapterParseError, ValueError):
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
                {name: _as_text(field) for name, field in signature.output_fields.items()},
                {name: _validator(field) for name, field in signature.output_fields.items() if _is_plain(field)},
            )
        return known


# Types whose values the parser passes to pydantic alone.
_PLAIN_TYPES = (bool, dict, float, int, list, set, tuple)


def _is_plain(field: Any) -> bool:
    return (get_origin(field.annotation) or field.annotation) in _PLAIN_TYPES


def _validator(field: Any) -> TypeAdapter[Any]:
    return TypeAdapter(field.annotation)


def _as_text(field: Any) -> Any:
    """Return an output field that the parser leaves as text, if the field's type is plain; else the field itself."""
    if not _is_plain(field):
        return field
    text = copy.copy(field)
    text.annotation = str
    return text


def _read(value: Any, validator: TypeAdapter[Any]) -> Any:
    """Return the value of a text as DSPy's ``parse_value`` does, which builds a validator for each; or a default.

    Raises:
        ValueError: the text isn't of the field's type.
    """
    if not isinstance(value, str):
        return value
    candidate = repair_json(value)
    if candidate == "" and value:
        try:
            candidate = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            candidate = value
    return validator.validate_python(candidate)


SHARED_ADAPTER = ChatAdapter()
"""The adapter of all programs of a process: it holds no state of a call."""

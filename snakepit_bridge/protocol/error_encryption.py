"""Stored errors with encryption: the class stays readable, for counts and for Celery; what it says is encrypted."""

from __future__ import annotations

from typing import Any, cast

from snakepit_bridge.encryption.cipher import Cipher, is_encrypted
from snakepit_bridge.protocol.json_values import dumps, loads

_ERROR = "error"
_ARGUMENTS = "exc_message"


def encrypt_error(cipher: Cipher, task_id: str, error: Any, traceback: Any) -> tuple[Any, Any]:
    """Return an error in Celery's JSON form and its traceback, with what they say encrypted.

    Args:
        cipher: the fleet's.
        task_id: the task that it ended.
        error: ``exc_type``, ``exc_module`` and ``exc_message``; anything else is returned unchanged.
        traceback: the traceback's text, which is encrypted with it.
    """
    if not isinstance(error, dict) or _ARGUMENTS not in error:
        return error, None
    form = cast("dict[str, Any]", error)
    sealed = cipher.encrypt_text(_ERROR, (task_id,), dumps([form[_ARGUMENTS], traceback]).encode())
    return {**form, _ARGUMENTS: [sealed]}, None


def decrypt_error(cipher: Cipher, task_id: str, error: Any) -> Any:
    """Return a stored error in Celery's JSON form.

    Raises:
        DecryptionError: it can't be decrypted.
    """
    if not isinstance(error, dict):
        return error
    form = cast("dict[str, Any]", error)
    match form.get(_ARGUMENTS):
        case [str(text)] if is_encrypted(text):
            arguments, _ = loads(cipher.decrypt_text(text, (task_id,)))
            return {**form, _ARGUMENTS: arguments}
        case _:
            return form

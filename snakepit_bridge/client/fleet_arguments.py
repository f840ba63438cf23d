"""The arguments of ``Fleet``: what each of them is, and the refusal of what it can't be."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from numbers import Integral, Real
from typing import Any, cast

from celery import Celery

from snakepit_bridge.encryption.cipher import EncryptionOptions
from snakepit_bridge.encryption.keys import KeyRing
from snakepit_bridge.exceptions import ConfigurationError
from snakepit_bridge.protocol.json_values import ValueBounds


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Refuse arguments of ``Fleet`` of a type that they can't have.

    Args:
        arguments: by name; a None where nothing was given.

    Raises:
        ConfigurationError: names the first such argument, the type that was found, and what to give.
    """
    for name, value in arguments.items():
        check, form, example = _FORMS[name]
        if not check(value):
            # Its value may hold a password.
            raise ConfigurationError(f"{name} of a Fleet is {form}; got {_describe(value)}. Give {name}={example}.")


def _describe(value: object) -> str:
    return "None" if value is None else f"a value of type {type(value).__name__}"


def _is(kind: type, *, optional: bool = False) -> Callable[[object], bool]:
    return lambda value: isinstance(value, kind) or (optional and value is None)


def _is_seconds(value: object) -> bool:
    return not isinstance(value, bool) and isinstance(value, Real) and float(value) >= 0  # which NaN isn't


def _is_count(value: object) -> bool:
    return not isinstance(value, bool) and isinstance(value, Integral) and int(value) >= 0


def _are_names(value: object) -> bool:
    # The letters of a text would be taken for packages.
    if isinstance(value, str) or not isinstance(value, Iterable):
        return False
    if not isinstance(value, Collection):  # a generator, which can be read once
        return True
    return all(isinstance(name, str) for name in cast("Collection[Any]", value))


_FORMS: Mapping[str, tuple[Callable[[object], bool], str, str]] = {
    "redis_url": (_is(str, optional=True), "the URL of a Redis, a text", "'redis://localhost:6379/0'"),
    "broker_url": (_is(str, optional=True), "the URL of a RabbitMQ, a text", "'amqp://localhost//', or leave it out"),
    "app": (_is(Celery, optional=True), "a Celery app", "your app, or leave it out"),
    "namespace": (_is(str), "a text", "'dspex', or leave it out"),
    "queue": (_is(str, optional=True), "the name of a queue, a text", "'predictions', or leave it out"),
    "wait_s": (_is_seconds, "a number of seconds", "600.0"),
    "timeout_s": (_is_seconds, "a number of seconds", "5.0"),
    "result_expires_s": (_is_seconds, "a number of seconds", "86400"),
    "allowed_packages": (_are_names, "a list of names", "['my_package']"),
    "bridge": (_is(str, optional=True), "an Elixir server's address, a text", "'localhost:50051', or leave it out"),
    "payload_bytes": (_is_count, "a number of bytes", "262144"),
    "bounds": (_is(ValueBounds), "a ValueBounds", "ValueBounds(), or leave it out"),
    "encryption": (_is(EncryptionOptions), "an EncryptionOptions", "EncryptionOptions(…), or leave it out"),
    "durability": (_is(str), "a text", "'primary', 'replicated' or 'fsynced'"),
    "signing_keys": (_is(KeyRing, optional=True), "a KeyRing", "a KeyRing, or leave it out"),
}  # fmt: skip

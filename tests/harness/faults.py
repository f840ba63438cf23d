"""The faults that a worker of ``tests.harness.faulty_app`` can be made to meet: their kinds, and the steps of a task.

Kept apart from that app, which patches the fleet's own functions in whichever process imports it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from celery.exceptions import SoftTimeLimitExceeded
from kombu.exceptions import OperationalError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, ResponseError

from snakepit_bridge.exceptions import BridgeError, InputError, StoreUnavailableError


class Mute(Exception):
    """Can't be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    def __repr__(self) -> str:
        raise RuntimeError("no text either")


class Unpickled(Exception):
    """Can't be pickled, nor made again from its arguments."""

    def __init__(self, first: object, second: object) -> None:
        super().__init__("one argument only")
        self.made_of = (first, second, lambda: None)

    def __reduce__(self) -> Any:
        raise TypeError("it can't be pickled")


class Argless(Exception):
    """Has arguments that fail when they are read."""

    @property
    def args(self) -> Any:  # type: ignore[override]
        raise LookupError("no arguments")

    @args.setter
    def args(self, value: object) -> None: ...  # pyright: ignore[reportIncompatibleVariableOverride]


class Rooted(Exception):
    """Lets nobody set anything on it."""

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{name} can't be set")


class Rude(BaseException):
    """Is no ``Exception``."""


KINDS: dict[str, Callable[[], BaseException]] = {
    "BridgeError": lambda: BridgeError("a plain one"),
    "InputError": lambda: InputError("qa", "question", "it is odd"),
    "ValueError": lambda: ValueError("odd"),
    "unencodable": lambda: ValueError(object(), {1, 2}, b"\xff"),
    "half a character": lambda: ValueError("half \ud83d"),
    "long": lambda: ValueError("x" * 100_000),
    "mute": Mute,
    "unpickled": lambda: Unpickled(1, 2),
    "argless": Argless,
    "rooted": Rooted,
    "group": lambda: ExceptionGroup("several", [ValueError("a"), LookupError("b")]),
    "MemoryError": MemoryError,
    "RecursionError": lambda: RecursionError("maximum recursion depth exceeded"),
    "StopIteration": StopIteration,
    "StopAsyncIteration": StopAsyncIteration,
    "TimeoutError": TimeoutError,
    "OSError": lambda: OSError(24, "Too many open files"),
    "OperationalError": lambda: OperationalError("the broker is away"),
    "RedisConnectionError": lambda: RedisConnectionError("away"),
    "OutOfMemoryError": lambda: OutOfMemoryError("command not allowed when used memory > 'maxmemory'."),
    "ResponseError": lambda: ResponseError("WRONGTYPE"),
    "StoreUnavailableError": lambda: StoreUnavailableError("redis://nowhere", "it is away"),
    "SoftTimeLimitExceeded": SoftTimeLimitExceeded,
    "CancelledError": asyncio.CancelledError,
    "GeneratorExit": GeneratorExit,
    "KeyboardInterrupt": KeyboardInterrupt,
    "SystemExit": lambda: SystemExit(3),
    "rude": Rude,
}

# Each step by the functions that fail there before they do anything, as module:name; none where Celery has a signal.
STEPS: dict[str, list[str]] = {
    "reading the request": ["tasks.predict:parse_request", "tasks.predict_batch:parse_request"],
    "reading the delivery": ["tasks.predict:parse_delivery", "tasks.predict_batch:parse_delivery"],
    "looking for an end": ["tasks.runtime:Runtime.fetch_result", "tasks.runtime:Runtime.find_finished"],
    "preparing": ["tasks.predict:prepare", "tasks.batch:prepare"],
    "serving a snapshot": ["tasks.preparation:_prepare_once"],
    "handing code over": ["tasks.predict:move_to_code_queue", "tasks.batch:move_to_code_queue"],
    "fetching inputs": ["tasks.prediction:fetch_payloads"],
    "taking inputs": ["tasks.prediction:select_inputs"],
    "predicting": ["tasks.predict:run", "tasks.batch:run"],
    "calling the program": ["tasks.prediction:_call_program"],
    "encoding outputs": ["tasks.prediction:encode_outputs"],
    "storing beside": ["tasks.predict:encode_for_storage", "tasks.batch:encode_for_storage"],
    "storing an input's result": ["tasks.batch:ResultCommitter.commit_result"],
    "storing an input's error": ["tasks.batch:ResultCommitter.commit_error"],
    "encoding an end": ["workers.result_backend:CommitBackend._script_arguments"],
    "committing": ["workers.result_backend:CommitBackend._commit_pipelined"],
    "sending again": ["tasks.requeue:InputRequeuer._send"],
    "before the task": [],
    "after the task": [],
}

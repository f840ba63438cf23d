"""What does encryption cost a prediction, with keys and without?

Microseconds of CPU, medians of several rounds, for what a client and a worker do to one prediction's values:

    inputs    its inputs, encoded for the message and read from it
    result    its result, encoded for the backend and read from there
    journal   one answer of an LM, encoded for the journal
    snapshot  twenty variables of a revision, decoded by a process that hasn't seen them

Each as ``off_us``, without keys, and ``on_us``. Nothing is sent to Redis.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

from snakepit_bridge.delivery.payloads import Payloads
from snakepit_bridge.encryption.cipher import PLAIN, Cipher, EncryptionOptions
from snakepit_bridge.encryption.keys import KeyRing, generate_key
from snakepit_bridge.protocol.messages import Result
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.snapshots.stored_variables import StoredVariables
from snakepit_bridge.variables import Variable

_ROUNDS, _REPEATS = 9, 400
_TEXT = "Air scatters blue light more than red. " * 20
_INPUTS = {"question": _TEXT, "context": [_TEXT] * 3}


def run() -> dict[str, Any]:
    """Return the figures by step."""
    ring = KeyRing.parse(f"{generate_key('bench')} {generate_key('digests')}")
    ciphers = {"off_us": PLAIN, "on_us": EncryptionOptions(ring).cipher("dspex")}
    figures: dict[str, dict[str, float]] = {}
    for name, cipher in ciphers.items():
        for step, work in _steps(cipher).items():
            figures.setdefault(step, {})[name] = _measure(work)
    return figures


def _steps(cipher: Cipher) -> dict[str, Callable[[], object]]:
    payloads = Payloads(RedisConnection("redis://127.0.0.1:9"), "dspex", cipher=cipher)
    result = Result({"answer": _TEXT}, {"task_id": "t", "variables": {"temperature": 0.2}}, _INPUTS)
    stored = StoredVariables(cipher)
    variables = {f"v{number}": Variable.declare(f"v{number}", _TEXT[:100]) for number in range(20)}
    encoded = {name: stored.encode("s", name, variable) for name, variable in variables.items()}

    def carry_result() -> None:
        message = _finish(payloads.encode_result(result, 60.0))
        _finish(payloads.load_result(Result.decode(message), "t"))

    return {
        "inputs": lambda: payloads.decrypt_inputs(payloads.encrypt_inputs(_INPUTS, "t"), "t", "qa"),
        "result": carry_result,
        "journal": lambda: cipher.encrypt("journal", ("t", "name"), _TEXT.encode()),
        "snapshot": lambda: [stored.decode("s", name, value) for name, value in encoded.items()],
    }


def _finish(work: Any) -> Any:
    """Return the result of a coroutine that waits for nothing."""
    try:
        work.send(None)
    except StopIteration as ended:
        return ended.value
    raise AssertionError("it waits for Redis")


def _measure(work: Callable[[], object]) -> float:
    work()
    rounds: list[float] = []
    for _ in range(_ROUNDS):
        began = time.process_time()
        for _ in range(_REPEATS):
            work()
        rounds.append((time.process_time() - began) / _REPEATS * 1e6)
    return round(median(rounds), 1)

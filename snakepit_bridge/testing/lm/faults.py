"""How the LM server misbehaves on request: late, failing, hanging, dropped and malformed answers."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any, Literal, get_args

Kind = Literal["status", "close", "malformed", "hang", "raw", "cut"]
_KINDS: tuple[str, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True)
class Fault:
    """What befalls the next requests.

    Attributes:
        kind: ``status`` answers with an error, ``malformed`` with text that no adapter can parse, ``hang`` never
            answers, ``close`` drops the connection in the middle of the answer, ``raw`` answers word for word with
            ``status``, ``body`` and ``content_type``, and ``cut`` with the answer itself as far as ``cut`` says.
        times: how many requests; None is all until the faults are cleared.
        status: HTTP status of the error.
        body: its body, JSON or text; an error body in OpenAI's form if it isn't given.
        retry_after_s: value of its Retry-After header, seconds.
        containing: only requests whose last user message holds this text.
        content_type: of a ``raw`` answer.
        cut: bytes of a ``raw`` or a ``cut`` answer's body after which the connection breaks; None sends all of it.
        clean: whether a cut answer looks as if it had ended there.
        skip: requests that are answered as usual before the first that this befalls.
    """

    kind: Kind = "status"
    times: int | None = 1
    status: int = 503
    body: Any = None
    retry_after_s: float | None = None
    containing: str = ""
    content_type: str = "application/json"
    cut: int | None = None
    clean: bool = False
    skip: int = 0

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise ValueError(f"a fault's kind is one of {', '.join(_KINDS)}; got {self.kind!r}")
        if self.times is not None and self.times < 1:
            raise ValueError(f"a fault's times is at least 1, or null for all; got {self.times!r}")
        if self.kind == "cut" and self.cut is None:
            raise ValueError("a fault of kind 'cut' says after how many bytes: cut=100")


class Faults:
    """The faults in force, shared by the server's thread and whoever sets them.

    Args:
        latency_s: seconds before each answer.
        jitter_s: up to that many seconds more, drawn from a seeded generator.
    """

    def __init__(self, latency_s: float = 0.0, jitter_s: float = 0.0) -> None:
        self._initial = (latency_s, jitter_s)
        self._latency_s, self._jitter_s = self._initial
        self._pending: list[Fault] = []
        self._piece: tuple[int | None, float] = (None, 0.0)
        self._random = random.Random(0)
        self._lock = Lock()

    def delay(self, latency_s: float, jitter_s: float = 0.0) -> None:
        """Set the seconds before each answer, and up to how many more at random."""
        self._latency_s, self._jitter_s = float(latency_s), float(jitter_s)

    def pace(self, characters: int | None, pause_s: float = 0.0) -> None:
        """Set how streamed answers come: so many characters a piece (None: eight pieces), a pause before each."""
        self._piece = (characters, float(pause_s))

    @property
    def piece(self) -> tuple[int | None, float]:
        """Characters of a streamed piece, and seconds before each."""
        return self._piece

    def add(self, fault: Fault) -> None:
        """Put a fault behind those that are pending."""
        with self._lock:
            self._pending.append(fault)

    def clear(self) -> None:
        """End all faults and goes back to the latency that the server started with, and to unpaced streams."""
        with self._lock:
            self._pending.clear()
        self._latency_s, self._jitter_s = self._initial
        self._piece = (None, 0.0)

    def next_delay_s(self) -> float:
        """Return the seconds that the next answer waits."""
        return self._latency_s + (self._random.uniform(0, self._jitter_s) if self._jitter_s else 0.0)

    def take(self, user: str) -> Fault | None:
        """Return the first pending fault for a request with this user message, and counts it."""
        if not self._pending:
            return None
        with self._lock:
            for place, fault in enumerate(self._pending):
                if fault.containing in user:
                    self._pending[place : place + 1] = _left(fault)
                    return None if fault.skip else fault
        return None

    def configure(self, settings: Mapping[str, Any]) -> None:
        """Apply the body of POST /faults: ``latency_s``, ``jitter_s``, ``clear`` and ``fail`` (a fault or a list).

        Raises:
            TypeError, ValueError: a key or a value that there isn't; nothing was changed then.
        """
        unknown = settings.keys() - {"latency_s", "jitter_s", "clear", "fail"}
        if unknown:
            raise ValueError(f"unknown: {', '.join(sorted(unknown))}; known are clear, fail, jitter_s, latency_s")
        wanted = settings.get("fail", [])
        faults = [Fault(**entry) for entry in (wanted if isinstance(wanted, list) else [wanted])]
        delay = (float(settings.get("latency_s", self._latency_s)), float(settings.get("jitter_s", self._jitter_s)))
        if settings.get("clear"):
            self.clear()
        if settings.keys() & {"latency_s", "jitter_s"}:
            self.delay(*delay)
        for fault in faults:
            self.add(fault)

    def as_json(self) -> dict[str, Any]:
        """Return what is in force, as the answer to POST /faults shows it."""
        with self._lock:
            pending = [{"kind": fault.kind, "times": fault.times} for fault in self._pending]
        return {"latency_s": self._latency_s, "jitter_s": self._jitter_s, "pending": pending}


def _left(fault: Fault) -> list[Fault]:
    if fault.skip:
        return [replace(fault, skip=fault.skip - 1)]
    if fault.times is None:
        return [fault]
    return [replace(fault, times=fault.times - 1)] if fault.times > 1 else []

"""What the LM server received: the evidence that a variable reached the request, and assertions that show it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from threading import Condition
from typing import Any, Self, TextIO

from snakepit_bridge.testing.lm.prompts import AskedQuestion, read_ask

_ABSENT = "(absent)"


@dataclass(frozen=True)
class Recorded:
    """One request as it arrived, and how it was answered.

    Attributes:
        index: its place in the order of arrival, from 0.
        received_at: unix seconds.
        answered_at: unix seconds; None while it is unanswered.
        authorised: whether an Authorization header came along. The key itself is kept nowhere.
        status: HTTP status of the answer; None while there is none, 499 if the client left first, 0 if the server
            dropped the connection.
        body: the JSON body.
    """

    index: int
    received_at: float
    authorised: bool
    body: Mapping[str, Any] = field(repr=False)
    answered_at: float | None = None
    status: int | None = None

    @cached_property
    def ask(self) -> AskedQuestion:
        """The question that the body holds, with the signature read back from the prompt."""
        return read_ask(self.body)

    @property
    def model(self) -> str:
        """The model asked for."""
        return str(self.body.get("model", ""))

    @property
    def temperature(self) -> float | None:
        """The temperature sent, if any."""
        return self.body.get("temperature")

    @property
    def max_tokens(self) -> int | None:
        """The token limit sent, under its old name or under ``max_completion_tokens``, which DSPy's own engine uses."""
        return self.body.get("max_tokens", self.body.get("max_completion_tokens"))

    @property
    def top_p(self) -> float | None:
        """The top_p sent, if any."""
        return self.body.get("top_p")

    @property
    def system(self) -> str:
        """The system prompt."""
        return self.ask.system

    @property
    def inputs(self) -> Mapping[str, str]:
        """The input fields' texts."""
        return self.ask.inputs

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the output fields asked for."""
        return self.ask.output_names

    @property
    def instructions(self) -> str:
        """The signature's instructions."""
        return self.ask.instructions

    def sent(self, name: str) -> Any:
        """Return a property of this record or, failing that, a key of the body; ``"(absent)"`` where there is none."""
        value = getattr(self, name) if name in _SHOWN else self.body.get(name)
        return _ABSENT if value is None else value

    def as_json(self, *, brief: bool = False) -> dict[str, Any]:
        """Return the record as GET /requests gives it; brief leaves out the body and the system prompt."""
        shown = {name: getattr(self, name) for name in _SHOWN if not (brief and name == "system")}
        return shown if brief else shown | {"body": self.body}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Return the record that a server wrote, whole and not brief."""
        return cls(
            data["index"], data["received_at"], data["authorised"], data["body"], data["answered_at"], data["status"]
        )


_SHOWN = (
    "index", "received_at", "answered_at", "authorised", "status", "model", "temperature", "max_tokens", "top_p",
    "instructions", "inputs", "outputs", "system",
)  # fmt: skip


class RequestLog:
    """The requests in order of arrival, shared by the server's thread and its readers.

    Args:
        keep: the oldest are forgotten beyond this many; indexes go on.
        file: each request is also written there as a JSON line, once it is answered.
    """

    def __init__(self, keep: int, file: Path | None = None) -> None:
        self._keep = keep
        self._file = file
        self._out: TextIO | None = None
        self._next = 0
        self._records: dict[int, Recorded] = {}
        self._changed = Condition()

    def arrive(self, body: Mapping[str, Any], *, authorised: bool, at: float) -> Recorded:
        """Record a request that was just received, at a time in unix seconds."""
        with self._changed:
            record = Recorded(self._next, at, authorised, body)
            self._next += 1
            self._records[record.index] = record
            if len(self._records) > self._keep:
                del self._records[next(iter(self._records))]
            self._changed.notify_all()
        return record

    def answer(self, record: Recorded, status: int) -> None:
        """Record how a request ended; one that was cleared or forgotten meanwhile stays so."""
        answered = replace(record, answered_at=time.time(), status=status)
        with self._changed:
            if record.index in self._records:
                self._records[record.index] = answered
            self._write(answered)
            self._changed.notify_all()

    def _write(self, record: Recorded) -> None:
        if self._file is None:
            return
        if self._out is None:
            self._out = self._file.open("a", encoding="utf-8", buffering=1)
        self._out.write(json.dumps(record.as_json()) + "\n")

    def since(self, index: int = 0) -> list[Recorded]:
        """Return the records from an index on."""
        with self._changed:
            return [record for record in self._records.values() if record.index >= index]

    def clear(self) -> None:
        """Forget the records; indexes go on, so that a reader's place stays valid."""
        with self._changed:
            self._records.clear()

    def wait_for(self, enough: Callable[[list[Recorded]], bool], timeout_s: float) -> bool:
        """Wait until the records satisfy a condition; False if they did not in time."""
        with self._changed:
            return self._changed.wait_for(lambda: enough(list(self._records.values())), timeout_s)

    def close(self) -> None:
        """Close the file, if there is one."""
        with self._changed:
            if self._out is not None:
                self._out.close()
                self._out = None


def assert_sent(records: Sequence[Recorded], expected: Mapping[str, Any], *, every: bool = False) -> None:
    """Assert that a request (or every request) carried these values; the message shows what was there instead.

    Args:
        records: the requests.
        expected: by a name of ``Recorded`` or a key of the body; a callable is asked about the value instead.
        every: all requests must fit, and there must be one.
    """
    fits = [all(_fits(record.sent(name), value) for name, value in expected.items()) for record in records]
    if fits and (all(fits) if every else any(fits)):
        return
    wanted = ", ".join(f"{name}={value!r}" for name, value in expected.items())
    raise AssertionError(f"expected {'every' if every else 'a'} request with {wanted}; {describe(records, expected)}")


def _fits(found: Any, expected: Any) -> bool:
    return bool(expected(found)) if callable(expected) else found == expected


def describe(records: Sequence[Recorded], names: Mapping[str, Any], limit: int = 20) -> str:
    """Return the named values of each request, one line each."""
    if not records:
        return "the server received no request"
    lines = [f"  #{r.index} " + ", ".join(f"{name}={r.sent(name)!r}" for name in names) for r in records[:limit]]
    more = [f"  and {len(records) - limit} more"] if len(records) > limit else []
    return "\n".join([f"the server received {len(records)}:", *lines, *more])

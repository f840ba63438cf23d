"""What strangers do to a fleet, one act at a time: each submits something and says which task ids were accepted."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

from celery import chain

from snakepit_bridge.client import Fleet
from snakepit_bridge.exceptions import BridgeError
from snakepit_bridge.redis.outages import is_outage
from snakepit_bridge.testing import Fault, RecordingLM

CANARY_QUESTION = "canary-question-"
"""Stands in every question: no log may hold it."""

PACKAGE = "benchmarks.strangers.modules"
_MODULES = ("Blocks", "Keeps", "Threads", "Raises", "Nonsense")
_BATCH = 20
_IMPATIENT_S = 4.0

FAULTS: Mapping[str, Fault] = {
    **{f"[status {code}]": Fault("status", None, status=code) for code in (400, 401, 404, 500, 503, 529)},
    "[status 429]": Fault("status", None, status=429, retry_after_s=0.1),
    "[malformed]": Fault("malformed", None),
    "[close]": Fault("close", None),
    "[hang]": Fault("hang", None),
    "[html]": Fault("raw", None, status=200, body="<html>busy</html>", content_type="text/html"),
    "[empty]": Fault("raw", None, status=200, body="", content_type="application/json"),
    "[error in 200]": Fault("raw", None, status=200, body='{"error": {"code": 529, "message": "overloaded"}}'),
    "[no choices]": Fault("raw", None, status=200, body='{"choices": []}'),
    "[cut]": Fault("cut", None, cut=40),
}
"""What the LM answers to a question with such a mark."""


def prepare(fleet: Fleet, lm: RecordingLM) -> None:
    """Register the programs and have the LM misbehave where it is asked to."""
    fleet.register("qa", {"module": "Predict", "signature": "question -> answer"}, lm="good")
    fleet.register("any", {"module": "Predict", "signature": "question, data -> answer"}, lm="good")
    fleet.register("bad", {"module": "Predict", "signature": "question -> answer"}, lm="bad")
    for name in _MODULES:
        fleet.register(name.lower(), {"module": f"{PACKAGE}:{name}"}, lm="good")
    fleet.session("limited").blocking.set_variables({"dspex.limits.concurrency": 2})
    for mark, fault in FAULTS.items():
        lm.faults.add(replace(fault, containing=mark))


@dataclass(frozen=True, slots=True)
class Act:
    """One act.

    Attributes:
        name: of its kind.
        submit: does it, and returns the ids of the tasks that were accepted.
    """

    name: str
    submit: Callable[[], list[str]]

    def attempt(self) -> dict[str, str]:
        """Return the tasks that were accepted, each with the act's name; none, if it was refused by a named error."""
        try:
            return dict.fromkeys(self.submit(), self.name)
        except (BridgeError, ValueError):
            return {}
        except Exception as exc:
            if is_outage(exc):  # a canvas is sent by Celery itself, which names no outage
                return {}
            raise


@dataclass(frozen=True, slots=True)
class Acts:
    """Draws acts from a generator of chance.

    Attributes:
        fleet: what is acted upon.
        chance: the generator; the same seed draws the same acts.
    """

    fleet: Fleet
    chance: random.Random

    def draw(self) -> Act:
        """Return an act."""
        kinds: list[tuple[Callable[[], Callable[[], list[str]]], int]] = [
            (self._honest, 25), (self._batch, 4), (self._unpublished, 6), (self._unknown, 4), (self._wrong_field, 4),
            (self._odd_json, 10), (self._provider, 12), (self._module, 16), (self._cancelled, 5), (self._twice, 5),
            (self._streamed, 4), (self._limited, 3), (self._chained, 2),
        ]  # fmt: skip
        [make] = self.chance.choices([kind for kind, _ in kinds], [weight for _, weight in kinds])
        return Act(make.__name__.removeprefix("_"), make())

    def _question(self) -> str:
        return f"{CANARY_QUESTION}{self.chance.randrange(10**9)}"

    def _single(self, program: str, inputs: dict[str, Any], **options: Any) -> Callable[[], list[str]]:
        return lambda: [self.fleet.submit(program, inputs, **options).id]

    def _honest(self) -> Callable[[], list[str]]:
        return self._single("qa", {"question": self._question()}, priority=self.chance.randrange(10))

    def _batch(self) -> Callable[[], list[str]]:
        programs = ("qa", "bad", "keeps", "raises", "nobody")
        program, inputs = self.chance.choice(programs), [{"question": self._question()} for _ in range(_BATCH)]
        return lambda: [handle.id for handle in self.fleet.submit_batch(program, inputs)]

    def _unpublished(self) -> Callable[[], list[str]]:
        return self._single("qa", {"question": self._question()}, session=f"nobody-{self.chance.randrange(5)}")

    def _unknown(self) -> Callable[[], list[str]]:
        return self._single(f"nobody-{self.chance.randrange(5)}", {"question": self._question()})

    def _wrong_field(self) -> Callable[[], list[str]]:
        return self._single("qa", {"wrong": self._question()})

    def _odd_json(self) -> Callable[[], list[str]]:
        return self._single("any", {"question": self._question(), "data": odd_value(self.chance)})

    def _provider(self) -> Callable[[], list[str]]:
        mark = self.chance.choice(list(FAULTS))
        return self._single("bad", {"question": f"{self._question()} {mark}"}, deadline=_IMPATIENT_S)

    def _module(self) -> Callable[[], list[str]]:
        return self._single(self.chance.choice(_MODULES).lower(), {"question": self._question()})

    def _cancelled(self) -> Callable[[], list[str]]:
        question = self._question()

        def act() -> list[str]:
            handle = self.fleet.submit("blocks", {"question": question})
            handle.cancel()
            return [handle.id]

        return act

    def _twice(self) -> Callable[[], list[str]]:
        key, question = f"key-{self.chance.randrange(10**9)}", self._question()

        def act() -> list[str]:
            first, second = (self.fleet.submit("qa", {"question": question}, idempotency_key=key).id for _ in range(2))
            return list({first, second})

        return act

    def _streamed(self) -> Callable[[], list[str]]:
        return self._single("qa", {"question": self._question()}, stream=True)

    def _limited(self) -> Callable[[], list[str]]:
        return self._single("qa", {"question": self._question()}, session="limited")

    def _chained(self) -> Callable[[], list[str]]:
        question, id = self._question(), str(uuid4())

        def act() -> list[str]:
            first = self.fleet.signature("qa", {"question": question})
            sent: Any = chain(first, self.fleet.signature("qa", take={"question": "answer"})).apply_async(task_id=id)
            return [sent.id, sent.parent.id]

        return act


_KEYS = ("__type__", "__value__", "__class__", "$ref", "payload", "v", "outputs", "answer", "", "é", "a.b", "\x00")


def odd_value(chance: random.Random, depth: int = 0) -> Any:
    """Return some JSON value, with keys that mean something to somebody."""
    if depth < 4 and chance.random() < 0.6:
        if chance.random() < 0.3:
            return [odd_value(chance, depth + 1) for _ in range(chance.randrange(4))]
        return {chance.choice(_KEYS): odd_value(chance, depth + 1) for _ in range(chance.randrange(4))}
    texts = ("datetime", "2026-01-01T00:00:00", "aGk=", "[[ ## answer ## ]]", "\u2028", "😀", "x" * 1_000)
    return chance.choice([None, True, 0, -1, 10**30, 1e308, 0.1, *texts])

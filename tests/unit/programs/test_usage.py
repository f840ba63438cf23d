"""Usage: every LM call of a prediction is counted once, wherever the program makes it."""

from __future__ import annotations

import asyncio
from typing import Any

import dspy
import pytest
from pydantic import SecretStr

from snakepit_bridge.lm.profiles import LMProfile, LMProfiles
from snakepit_bridge.programs.bound import BoundPrograms
from snakepit_bridge.programs.build import serialize_module
from snakepit_bridge.programs.imports import AllowedImports
from snakepit_bridge.programs.registry import Program
from snakepit_bridge.programs.spec import digest
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.snapshots.snapshot import Snapshot
from snakepit_bridge.testing import RecordingLM
from tests.unit.programs.usage_sample import WAYS, Asks

ALLOWED = AllowedImports(("tests.unit.programs.usage_sample",))


def bound(lm: RecordingLM, module: Any) -> Any:
    profiles = LMProfiles([LMProfile("demo", "openai/demo", lm.url, SecretStr("k"))])
    spec = serialize_module(module, program="qa")
    snapshot = Snapshot("s", Token(1, 1), {}, confirmed_at=0.0)
    return BoundPrograms(profiles, ALLOWED).bind(Program("qa", 1, digest(spec.encode()), spec), snapshot)


def counted(lm: RecordingLM, module: Any, text: str) -> dict[str, Any]:
    async def ask() -> Any:
        return await bound(lm, module).acall(question=text)

    return asyncio.run(ask()).get_lm_usage()


@pytest.mark.parametrize("kind", WAYS, ids=lambda kind: kind.__name__)
def test_every_call_is_counted_once(kind: type[Asks]) -> None:
    with RecordingLM() as lm:
        [single] = counted(lm, dspy.Predict("question -> answer"), "alone").values()
        before = len(lm.requests)
        [all_of_them] = counted(lm, kind(), "alone").values()
    calls = len(lm.requests) - before
    assert calls == WAYS[kind]
    assert all_of_them["completion_tokens"] >= calls
    assert all_of_them["prompt_tokens"] >= calls * (single["prompt_tokens"] - 1)
    assert all_of_them["prompt_tokens"] <= calls * (single["prompt_tokens"] + 3)


def test_predictions_at_the_same_time_are_counted_apart() -> None:
    kinds = [*WAYS] * 2

    async def both(lm: RecordingLM) -> list[Any]:
        return await asyncio.gather(*(bound(lm, kind()).acall(question="same") for kind in kinds))

    with RecordingLM() as lm:
        predictions = asyncio.run(both(lm))
    totals = [sum(used["prompt_tokens"] for used in prediction.get_lm_usage().values()) for prediction in predictions]
    each = dict(zip(kinds, totals, strict=False))
    assert totals == [each[kind] for kind in kinds], "the second of a kind counts what the first does"
    assert each[InNested] > each[InTwo]


InNested, InTwo = [kind for kind in WAYS if kind.__name__ in ("InNestedParallel", "InTrack")]

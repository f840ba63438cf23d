"""What only shows, counts or traces a prediction can't end it, whichever part of it raises whatever.

Each side channel of a prediction is made to raise in its turn, streamed or not, with shared answers and without.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy.utils.callback import BaseCallback

import tasks.streaming
from config.settings import FleetSettings
from snakepit_bridge.exceptions import StoreUnavailableError
from snakepit_bridge.programs.build import serialize_module
from snakepit_bridge.protocol.messages import PredictionRequest
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.testing import RecordingLM
from tasks.prediction import run_prediction
from tasks.rate_limits.admission import FleetAdmission
from tasks.requests import Delivery
from tasks.response_cache.store import AnswerStore
from tasks.revisions import RevisionBinder
from tasks.runtime import Runtime
from tests.harness.stage import echo, fresh
from workers.runtime import build_runtime

CHANNELS: list[tuple[type[Any], str]] = [
    (tasks.streaming.ChunkWriter, "put"),
    (tasks.streaming.ChunkWriter, "_entry"),
    (RedisConnection, "send_each"),
    (FleetAdmission, "settle"),
    (FleetAdmission, "give_back"),
    (FleetAdmission, "pause"),
    (AnswerStore, "save"),
    (AnswerStore, "release"),
    (RevisionBinder, "_report"),
    *((vars(tasks.streaming)["_Sink"], name) for name in ("on_module_start", "on_adapter_parse_end")),
    *((vars(tasks.streaming)["_Answer"], name) for name in ("_put", "_end")),
]
RAISED: list[Callable[[], Exception]] = [
    lambda: StoreUnavailableError("redis://host", "gone"),
    lambda: UnicodeEncodeError("utf-8", "\ud83d", 0, 1, "surrogates not allowed"),
    lambda: RuntimeError("a bug"),
    lambda: asyncio.InvalidStateError("torn"),
]


class Raising(BaseCallback):
    """A callback of somebody's own that fails wherever it is called."""

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("on_"):
            raise RuntimeError("a callback")
        return super().__getattribute__(name)


@pytest.fixture
async def runtime(redis_url: str, tmp_path: Path) -> AsyncIterator[tuple[Runtime, RecordingLM]]:
    with RecordingLM(echo) as lm:
        profiles = tmp_path / "lm.toml"
        profiles.write_text(
            f'[profiles.demo]\nmodel = "openai/demo"\napi_base = "{lm.url}"\napi_key_env = "PATH"\n'
            "retry = { backoff_s = 0.01 }\nlimits = { concurrency = 50 }\n",
            encoding="utf-8",
        )
        settings = FleetSettings.model_validate({"redis_url": redis_url, "lm_profiles": profiles})
        built = build_runtime(settings)
        for name, cache in (("plain", None), ("cached", {"ttl_s": 60})):
            spec = serialize_module(dspy.ChainOfThought("question -> answer"), program=name, cache=cache)
            await built.registry.register(name, spec)
        yield built, lm
        await built.aclose()


def break_down(monkeypatch: pytest.MonkeyPatch, owner: type[Any], name: str, make: Callable[[], Exception]) -> None:
    usual = getattr(owner, name)

    def fail(*_: Any, **__: Any) -> Any:
        raise make()

    async def afail(*_: Any, **__: Any) -> Any:
        raise make()

    assert callable(usual), f"{owner.__name__} has no {name} any more"
    monkeypatch.setattr(owner, name, afail if inspect.iscoroutinefunction(usual) else fail)


@pytest.mark.parametrize("make", RAISED, ids=lambda make: type(make()).__name__)
async def test_no_side_channel_that_raises_costs_the_answer(
    runtime: tuple[Runtime, RecordingLM],
    make: Callable[[], Exception],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    built, lm = runtime
    # For so long would pieces wait for Redis to come back.
    monkeypatch.setattr(tasks.streaming, "_WRITE_TIMEOUT_S", 0.05)
    for owner, name in CHANNELS:
        for program in ("plain", "cached"):
            for stream in (True, False):
                question = fresh("q")
                lm.fail(1, status=503, retry_after_s=0, containing=question)
                with monkeypatch.context() as broken, caplog.at_level(logging.WARNING):
                    break_down(broken, owner, name, make)
                    delivery = Delivery(fresh("task"), "worker@host", 1, 0.0)
                    request = PredictionRequest(program, {"question": question}, stream=stream)
                    with dspy.context(callbacks=[Raising()]):
                        result = await run_prediction(built, request, delivery)
                where = f"{owner.__name__}.{name}, {program}, stream={stream}"
                assert result.outputs["answer"] == f"answer of {question}", where

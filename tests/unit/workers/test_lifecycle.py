"""What a worker process loads before the fork, and what it prepares after it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from celery.concurrency import get_implementation
from celery.signals import worker_init, worker_process_init

from tests.harness.preloaded import run_preloaded
from tests.harness.waiting import PATIENCE_S
from tests.harness.worker_settings import offline_settings
from workers import lifecycle
from workers.app import FleetApp

ROOT = Path(__file__).parents[3]


# ---------------------------------------------------------------- DSPy


CACHES = """
import os
os.environ.pop("LITELLM_LOCAL_MODEL_COST_MAP", None)
from celery.signals import {signal}
import workers.lifecycle
{signal}.send(sender=None)
import dspy
print(dspy.cache.enable_disk_cache, dspy.cache.enable_memory_cache, os.environ["LITELLM_LOCAL_MODEL_COST_MAP"])
"""


@pytest.mark.parametrize("signal", ["worker_init", "worker_process_init"])
def test_a_worker_answers_nothing_from_a_cache_and_looks_nothing_up(signal: str) -> None:
    ran = run_preloaded([sys.executable, "-c", CACHES.format(signal=signal)], cwd=ROOT)
    assert ran.stdout.split() == ["False", "False", "True"], ran.stderr


def test_dspy_is_loaded_before_the_fork_and_prepared_after_it() -> None:
    assert lifecycle._before_fork in [ref() for _, ref in worker_init.receivers]
    assert lifecycle._after_fork in [ref() for _, ref in worker_process_init.receivers]


def test_a_forked_process_prepares_dspy_without_a_warning() -> None:
    script = (
        "import logging, workers.lifecycle as lifecycle; logging.basicConfig();"
        "lifecycle._before_fork(); lifecycle.load_dspy()"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, "")


def test_an_operators_own_word_on_the_cost_map_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "False")
    lifecycle.load_dspy()
    assert os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] == "False"


# ---------------------------------------------------------------- programs that execute code


@pytest.mark.parametrize(
    ("pool", "queues", "shares"),
    [
        ("workers.pool:AsyncioPool", ["predictions"], True),
        ("threads", ["predictions"], True),
        ("prefork", ["predictions"], False),
        ("solo", ["predictions"], False),
        ("threads", ["predictions", "predictions.code"], False),
    ],
)
def test_a_worker_whose_tasks_share_a_process_hands_code_on_unless_it_was_told_to_take_it(
    pool: str, queues: list[str], shares: bool
) -> None:
    app = FleetApp(offline_settings())
    app.amqp.queues.select(queues)
    assert lifecycle.shares_process(SimpleNamespace(app=app, pool_cls=get_implementation(pool))) is shares
    app.slot.shares_process = shares
    assert app.runtime.shares_process is shares

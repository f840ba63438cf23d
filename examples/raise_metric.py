"""Raise a metric: find the demonstrations with which a small model tells good reviews from bad ones.

python examples/raise_metric.py --lm-url http://127.0.0.1:8080/v1
    on any server with OpenAI's API; docs/how-to/optimize.md has one for a model of 135 million parameters
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any
from uuid import uuid4

import dspy
from rich.console import Console
from rich.table import Table

from snakepit_bridge.client import Fleet
from snakepit_bridge.client.evaluation import EvaluationResult
from snakepit_bridge.exceptions import BridgeError
from workers.dev.demo.parts import redis_server, worker_processes
from workers.lifecycle import load_dspy

PROGRAM = "mood"
SIGNATURE = "review -> mood: Literal['positive', 'negative']"
REVIEWS = Path(__file__).parent / "reviews.jsonl"
OPTIMIZER = "BootstrapFewShotWithRandomSearch"
# Each try counts, however many of its answers can't be read; the first three tries are DSPy's own.
OPTIONS = {"max_labeled_demos": 8, "max_bootstrapped_demos": 2, "num_candidate_programs": 5, "max_errors": 1_000}
_PROFILE = """\
default = "local"

[profiles.local]
model = "openai/{model}"
api_base = "{url}"
api_key_env = "RAISE_METRIC_KEY"
parameters = {{ temperature = 0.0, max_tokens = 40 }}
limits = {{ timeout_s = 120 }}
"""


def is_right(example: Any, prediction: Any, trace: Any = None) -> bool:
    """Return whether the mood is the expected one."""
    return bool(prediction.mood == example.mood)


def read_reviews() -> tuple[list[dspy.Example], list[dspy.Example], list[dspy.Example]]:
    """Return what demonstrations are chosen from, what they are tried on, and what only the result is measured on."""
    lines = REVIEWS.read_text(encoding="utf-8").splitlines()
    examples = [dspy.Example(**json.loads(line)).with_inputs("review") for line in lines]
    return examples[0::3], examples[1::3], examples[2::3]


def raise_metric(fleet: Fleet, console: Console) -> None:
    """Optimize the program on a fleet whose workers run, and print its score before and after.

    Args:
        fleet: the fleet.
        console: prints the table.
    """
    fleet.register(PROGRAM, dspy.Predict(SIGNATURE))
    trainset, valset, testset = read_reviews()
    before = fleet.evaluate(PROGRAM, testset, is_right)
    found = fleet.optimize(PROGRAM, trainset, is_right, optimizer=OPTIMIZER, options=OPTIONS, valset=valset)
    version = 1 if found.registered is None else found.registered.version
    after = fleet.evaluate(f"{PROGRAM}:{version}", testset, is_right)
    table = Table("version", "demonstrations", "right", "unreadable answers", title="Reviews that no try has seen")
    table.add_row("1", "0", *_describe(before))
    demos = sum(len(predictor.demos) for predictor in found.module.predictors())
    table.add_row(str(version), str(demos), *_describe(after))
    console.print(table)
    console.print(f"{found.predictions} predictions for {len(found.trials)} tries")


def _describe(result: EvaluationResult) -> tuple[str, str]:
    total = len(result.results)
    return f"{result.score:g} % of {total}", str(len(result.errors))


def main() -> None:
    """Start a fleet on the language model that the arguments name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lm-url", required=True, help="of a server with OpenAI's API, such as http://HOST:PORT/v1")
    parser.add_argument("--model", default="local", help="what the server calls the model, if it serves several")
    parser.add_argument("--redis-url", help="the Redis to use; without it an embedded server is started")
    given = parser.parse_args()
    load_dspy()
    namespace = f"dspex-metric-{uuid4().hex[:8]}"
    try:
        with (
            tempfile.TemporaryDirectory(prefix="dspex-metric-") as scratch,
            redis_server(given.redis_url, Path(scratch)) as url,
        ):
            profiles = Path(scratch) / "profiles.toml"
            profiles.write_text(_PROFILE.format(model=given.model, url=given.lm_url), encoding="utf-8")
            settings = {"DSPEX_REDIS_URL": url, "DSPEX_BROKER_URL": "", "DSPEX_NAMESPACE": namespace}
            settings |= {
                "DSPEX_QUEUE": namespace,
                "DSPEX_LM_PROFILES": str(profiles),
                "RAISE_METRIC_KEY": "none-needed",
            }
            fleet = Fleet(url, namespace=namespace, queue=namespace)
            with worker_processes(fleet, 1, "asyncio", settings, Path(scratch), name="metric"):
                raise_metric(fleet, Console())
    except BridgeError as problem:
        sys.exit(str(problem))


if __name__ == "__main__":
    main()

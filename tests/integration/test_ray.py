"""A program in Ray, on a cluster of two nodes: rows stay there, and the fleet's variables and limits hold."""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import json
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import dspy
import pytest
from redis import Redis

from snakepit_bridge.ray import FleetProgram
from tests.harness.stage import Stage, fresh, stage

if importlib.util.find_spec("ray") is None:
    pytest.skip("Ray isn't installed; CI's job `ray` runs this with deploy/ray.lock", allow_module_level=True)

ROOT = Path(__file__).parents[2]
_PROFILE = """
[profiles.narrow]
model = "openai/narrow"
api_base = "{url}"
api_key_env = "STAGE_LM_KEY"
limits = {{ concurrency = 1 }}
"""


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stage]:
    with stage(tmp_path_factory.mktemp("stage"), worker=False, more_profiles=_PROFILE) as play:
        play.fleet.register("qa", dspy.Predict("question -> answer"), bindings={"temperature": "warmth"})
        play.fleet.register("narrow", dspy.Predict("question -> answer"), lm="narrow")
        yield play


@pytest.fixture(scope="module")
def nodes(play: Stage) -> Generator[list[str]]:
    """Ray on two nodes of this machine; yields their ids."""
    ray: Any = importlib.import_module("ray")
    clusters: Any = importlib.import_module("ray.cluster_utils")
    options = {"num_cpus": 1, "object_store_memory": 100 * 2**20, "include_dashboard": False}
    cluster = clusters.Cluster(initialize_head=True, head_node_args=options)
    cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20)
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**play.settings, "DSPEX_REDIS_URL": play.url, "PYTHONPATH": paths}
    ray.init(address=cluster.address, runtime_env={"env_vars": environment}, log_to_driver=False)
    try:
        yield [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    finally:
        ray.shutdown()
        cluster.shutdown()


def predict(rows: list[dict[str, Any]], program: str, *, actors: int = 2, **options: Any) -> list[dict[str, Any]]:
    data: Any = importlib.import_module("ray.data")
    dataset = data.from_items(rows, override_num_blocks=4)
    found = dataset.map_batches(
        FleetProgram, fn_constructor_args=(program,), fn_constructor_kwargs=options, concurrency=actors, batch_size=5
    )
    return sorted(found.take_all(), key=lambda row: row["number"])


@pytest.mark.timeout(400)
def test_rows_are_predicted_on_two_nodes_under_one_revision_and_never_touch_redis(
    play: Stage, nodes: list[str]
) -> None:
    assert len(nodes) == 2
    session, question = fresh("session"), fresh("question")
    variables = play.fleet.session(session).blocking
    pinned = variables.set_variables({"warmth": 0.25})
    variables.set_variables({"warmth": 0.75})
    rows = [{"number": number, "question": f"{question} {number}"} for number in range(20)]
    found = predict(rows, "qa:1", session=session, exactly=str(pinned))
    assert [row["answer"] for row in found] == [f"answer of {question} {number}" for number in range(20)]
    assert {(row["token"], row["program"], row["version"], row["error"]) for row in found} == {
        (str(pinned), "qa", 1, "")
    }
    assert {json.loads(row["provenance"])["variables"]["warmth"] for row in found} == {0.25}
    assert {sent.body["temperature"] for sent in play.requests_with(question)} == {0.25}
    assert all(float(row["cost_usd"]) > 0 for row in found)
    pids = {json.loads(row["provenance"])["pid"] for row in found}
    assert len(pids) == 2, "both actors predicted"
    with Redis.from_url(play.url) as client:
        stored: Any = client.keys("*")
        values: Any = {key: client.get(key) for key in stored if client.type(key) == b"string"}
        kept = [key for key, value in values.items() if question.encode() in value]
    assert kept == []
    assert [key for key in stored if key.startswith(b"celery-task-meta-")] == []


@pytest.mark.timeout(400)
def test_the_fleets_limits_hold_over_all_actors_and_a_row_fails_alone(play: Stage, nodes: list[str]) -> None:
    assert nodes
    question = fresh("question")
    rows: list[dict[str, Any]] = [{"number": number, "question": f"{question} {number}"} for number in range(8)]
    play.lm.faults.delay(0.1)
    try:
        found = predict(rows, "narrow", inputs={"question": "question"})
    finally:
        play.lm.faults.delay(0.0)
    assert {row["error"] for row in found} == {""}
    sent = sorted((each.received_at, each.answered_at or 0.0) for each in play.requests_with(question))
    assert len(sent) == 8
    assert all(later[0] >= earlier[1] - 0.02 for earlier, later in itertools.pairwise(sent)), "one at a time"
    failed = predict([{"number": 1, "question": f"{question} 9"}], "missing", actors=1, inputs={"question": "question"})
    assert failed[0]["error"].startswith("ProgramNotFoundError")

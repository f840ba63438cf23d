"""``fleet.datasets``: from examples or a file to DSPy's examples in another process, blocking and awaited."""

from __future__ import annotations

from pathlib import Path

import dspy
import pytest

from snakepit_bridge.client import Fleet
from snakepit_bridge.exceptions import DatasetError, DatasetNotFoundError
from snakepit_bridge.process.home_loop import run_blocking


@pytest.fixture
def fleet(redis_url: str) -> Fleet:
    return Fleet(redis_url)


def test_examples_are_added_loaded_compared_and_removed(fleet: Fleet, redis_url: str) -> None:
    examples = [dspy.Example(question="1+1?", answer="2").with_inputs("question")]
    assert str(fleet.datasets.add("golden", examples, author="ana")) == "golden:1"
    assert fleet.datasets.add("golden", examples).version == 1
    more = [*examples, {"question": "2+2?", "answer": "4"}]
    with pytest.raises(DatasetError, match="its inputs are not marked, and those of the first example 'question'"):
        fleet.datasets.add("golden", more)
    assert fleet.datasets.add("golden", more, inputs=["question"]).version == 2

    other = Fleet(redis_url)
    assert list(other.datasets.get("golden:1").examples) == examples
    assert [str(each.latest) for each in other.datasets.list()] == ["golden:2"]
    assert [version.author for version in other.datasets.versions("golden")] == ["ana", ""]
    diff = other.datasets.diff("golden:1", "golden")
    assert (len(diff.added), diff.unchanged) == (1, 1)
    assert [str(version) for version in other.datasets.remove("golden")] == ["golden:1", "golden:2"]
    with pytest.raises(DatasetNotFoundError):
        other.datasets.get("golden")
    run_blocking(other.connection.aclose())
    run_blocking(fleet.connection.aclose())


async def test_a_file_is_added_by_a_caller_that_awaits(fleet: Fleet, tmp_path: Path) -> None:
    path = tmp_path / "golden.jsonl"
    path.write_text('{"$inputs": ["question"]}\n{"question": "1+1?", "answer": "2"}\n')
    datasets = fleet.datasets.aio
    added = await datasets.add("golden", path)
    assert (added.inputs, (await datasets.find("golden")).source) == (("question",), "golden.jsonl")
    assert (await datasets.get("golden")).digest == added.digest

"""A diff pairs examples of the same inputs, and counts equal ones as often as they occur."""

from __future__ import annotations

from typing import Any

from snakepit_bridge.datasets.dataset import Dataset
from snakepit_bridge.datasets.diff import diff_datasets


def dataset(*rows: Any, inputs: tuple[str, ...] = ("q",)) -> Dataset:
    return Dataset.build("golden", rows, inputs=inputs)


def test_equal_datasets_do_not_differ_whatever_their_order() -> None:
    diff = diff_datasets(dataset({"q": 1}, {"q": 2}), dataset({"q": 2}, {"q": 1}))
    assert not diff
    assert diff.unchanged == 2


def test_examples_are_added_removed_or_changed() -> None:
    before = dataset({"q": 1, "a": 1}, {"q": 2, "a": 2}, {"q": 3, "a": 3})
    after = dataset({"q": 1, "a": 1}, {"q": 2, "a": "two", "b": 0}, {"q": 4, "a": 4})
    diff = diff_datasets(before, after)
    assert (diff.added, diff.removed, diff.unchanged) == (({"q": 4, "a": 4},), ({"q": 3, "a": 3},), 1)
    (changed,) = diff.changed
    assert (changed.before, changed.fields) == ({"q": 2, "a": 2}, ["a", "b"])
    assert diff.as_dict()["changed"] == [{"before": changed.before, "after": changed.after}]


def test_an_example_counts_as_often_as_it_occurs() -> None:
    diff = diff_datasets(dataset({"q": 1}, {"q": 1}), dataset({"q": 1}))
    assert (len(diff.removed), diff.unchanged, diff.changed, diff.added) == (1, 1, (), ())


def test_other_inputs_are_a_difference_by_themselves() -> None:
    row = {"q": 1, "a": 1}
    diff = diff_datasets(dataset(row), dataset(row, inputs=("q", "a")))
    assert diff
    assert (diff.unchanged, diff.as_dict()["inputs"]) == (1, {"before": ["q"], "after": ["q", "a"]})

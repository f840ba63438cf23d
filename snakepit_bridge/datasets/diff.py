"""The difference between two datasets, by the digests of their examples, whatever their order."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from snakepit_bridge.datasets.dataset import Dataset
from snakepit_bridge.datasets.rows import Row
from snakepit_bridge.protocol.json_values import dumps


@dataclass(frozen=True, slots=True)
class ChangedExample:
    """An example of the same inputs and other fields.

    Attributes:
        before, after: its rows.
    """

    before: Row
    after: Row

    @property
    def fields(self) -> list[str]:
        """The fields that differ, by name."""
        names = sorted({*self.before, *self.after})
        return [name for name in names if _part(self.before, name) != _part(self.after, name)]


@dataclass(frozen=True, slots=True)
class DatasetDiff:
    """What distinguishes two datasets.

    Attributes:
        before, after: the input fields of both.
        added: rows of the second that the first lacks, and ``removed`` the other way round.
        changed: examples whose inputs are the same and whose other fields differ.
        unchanged: how many examples are the same.
    """

    before: tuple[str, ...]
    after: tuple[str, ...]
    added: tuple[Row, ...]
    removed: tuple[Row, ...]
    changed: tuple[ChangedExample, ...]
    unchanged: int

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed or set(self.before) != set(self.after))

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        changed = [{"before": dict(each.before), "after": dict(each.after)} for each in self.changed]
        return {
            "inputs": {"before": list(self.before), "after": list(self.after)},
            "added": [dict(row) for row in self.added],
            "removed": [dict(row) for row in self.removed],
            "changed": changed,
            "unchanged": self.unchanged,
        }


def diff_datasets(before: Dataset, after: Dataset) -> DatasetDiff:
    """Return what distinguishes two datasets; equal rows are counted as often as they occur."""
    added, unchanged = _subtract(after, before.example_digests)
    removed, _ = _subtract(before, after.example_digests)
    inputs = before.inputs if set(before.inputs) == set(after.inputs) else ()
    left = _by_inputs(removed, inputs)
    changed: list[ChangedExample] = []
    new: list[Row] = []
    for row in added:
        earlier = left.get(_digest_inputs(row, inputs), []) if inputs else []
        if earlier:
            changed.append(ChangedExample(earlier.pop(0), row))
        else:
            new.append(row)
    gone = {id(row) for row in removed} - {id(change.before) for change in changed}
    kept = tuple(row for row in removed if id(row) in gone)
    return DatasetDiff(before.inputs, after.inputs, tuple(new), kept, tuple(changed), unchanged)


def _subtract(dataset: Dataset, digests: Iterable[str]) -> tuple[list[Row], int]:
    """Return the rows whose digests aren't among these, and how many others there are."""
    counts = defaultdict[str, int](int)
    for digest in digests:
        counts[digest] += 1
    rows: list[Row] = []
    for row, digest in zip(dataset.rows, dataset.example_digests, strict=True):
        if counts[digest]:
            counts[digest] -= 1
        else:
            rows.append(row)
    return rows, len(dataset) - len(rows)


def _by_inputs(rows: Iterable[Row], inputs: tuple[str, ...]) -> dict[str, list[Row]]:
    groups = defaultdict[str, list[Row]](list)
    for row in rows:
        groups[_digest_inputs(row, inputs)].append(row)
    return groups


def _digest_inputs(row: Row, inputs: tuple[str, ...]) -> str:
    return hashlib.sha256(dumps([row.get(name) for name in sorted(inputs)]).encode()).hexdigest()


def _part(row: Row, name: str) -> str:
    return dumps([row[name]] if name in row else [])

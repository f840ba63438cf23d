"""BulkSource: the file that a bulk run reads, and the lines that it predicts."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

from snakepit_bridge.datasets.row_files import FileRow, RowFormat, find_format, open_rows
from snakepit_bridge.exceptions import BulkError
from snakepit_bridge.variables.codec import parse

if TYPE_CHECKING:
    from snakepit_bridge.programs.spec import ProgramSpec

# The same lines each time, so that a sample can be resumed and compared.
_SAMPLE_SEED = 0


@dataclass(frozen=True, slots=True)
class BulkLine:
    """One line of the input.

    Attributes:
        number: a line of the file, counted from 1, blank ones included; a row of a Parquet file.
        identity: ``{"line": …}`` and, where the line has one, ``{"id": …}``: what the output repeats.
        inputs: input field to value; None where the line can't be read.
        problem: why it can't.
    """

    number: int
    identity: Mapping[str, Any]
    inputs: Mapping[str, Any] | None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class InputColumns:
    """Which columns of a file are a program's inputs.

    Attributes:
        names: those that are; None for all that the file has.
        parsed: those among them whose text in a CSV file is JSON if it can be read as such.
        required: those that the file must have.
    """

    names: tuple[str, ...] | None = None
    parsed: frozenset[str] = frozenset()
    required: tuple[str, ...] = ()

    @classmethod
    def of(cls, spec: ProgramSpec) -> Self:
        """Return the columns that a program takes: of a class of one's own all, since its signature doesn't tell."""
        if spec.signature is None or ":" in str(spec.module):
            return cls()
        fields = [each for each in spec.signature.fields if each.direction == "input"]
        return cls(
            tuple(each.name for each in fields),
            frozenset(each.name for each in fields if each.type != "str"),
            tuple(each.name for each in fields if not each.has_default),
        )


@dataclass(frozen=True, slots=True)
class BulkSource:
    """A file of inputs.

    Attributes:
        path: of a ``.jsonl``, ``.csv`` or ``.parquet`` file.
        columns: its columns that are inputs, if it has columns.
        id_column: the column that the output repeats as ``id``.
    """

    path: Path
    columns: InputColumns = InputColumns()
    id_column: str | None = None

    @property
    def format(self) -> RowFormat:
        """The file's format."""
        return find_format(self.path)

    def check(self) -> None:
        """Check whether the file has the columns that it needs.

        Raises:
            BulkError: it lacks one.
            DatasetError: it can't be read.
            ConfigurationError: it is a Parquet file, and pyarrow isn't installed.
        """
        found = self.format.columns(self.path)
        if found is None:
            return
        wanted = (*self.columns.required, *((self.id_column,) if self.id_column else ()))
        if lacking := [name for name in wanted if name not in found]:
            problem = f"it lacks the column {lacking[0]!r}; it has {', '.join(map(repr, found))}"
            raise BulkError(f"input {self.path}", problem)

    def count(self) -> int:
        """Return how many lines it has."""
        return self.format.count(self.path)

    def digest(self) -> str:
        """Return the digest of its content.

        Raises:
            DatasetError: it can't be read.
        """
        with open_rows(self.path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def lines(self, after: int = 0) -> Iterator[BulkLine]:
        """Yield the lines that come after a number.

        Raises:
            DatasetError: the file can't be read.
        """
        for row in self.format.read(self.path, after):
            yield self._to_line(row)

    def _to_line(self, row: FileRow) -> BulkLine:
        identity: dict[str, Any] = {"line": row.number}
        if row.problem:
            return BulkLine(row.number, identity, None, row.problem)
        if not isinstance(row.value, dict):
            problem = f"it must be an object of inputs, not {type(row.value).__name__}"
            return BulkLine(row.number, identity, None, problem)
        found = cast("dict[str, Any]", row.value)
        if (
            self.format.name == "jsonl"
            and isinstance(found.get("inputs"), dict)
            and not found.keys() - {"id", "inputs"}
        ):
            return BulkLine(row.number, identity | ({"id": found["id"]} if "id" in found else {}), found["inputs"])
        if self.id_column is not None:
            if self.id_column not in found:
                return BulkLine(row.number, identity, None, f"it lacks {self.id_column!r}, its id")
            identity["id"] = found[self.id_column]
        return BulkLine(row.number, identity, self._select_inputs(found))

    def _select_inputs(self, found: Mapping[str, Any]) -> dict[str, Any]:
        names = self.columns.names
        if self.format.name == "jsonl" or names is None:
            inputs = {name: value for name, value in found.items() if name != self.id_column}
        else:
            inputs = {name: found[name] for name in names if name in found}
        if self.format.name == "csv":
            return {name: _parse(text) if name in self.columns.parsed else text for name, text in inputs.items()}
        return inputs


def draw_sample(lines: Iterator[BulkLine], total: int, count: int | None) -> Iterator[BulkLine]:
    """Yield a random sample of some lines, in their order and always the same; all of them if ``count`` is None.

    Args:
        lines: all lines.
        total: how many they are.
        count: how many to draw.
    """
    if count is None or count >= total:
        yield from lines
        return
    places = set(random.Random(_SAMPLE_SEED).sample(range(total), count))
    for place, line in enumerate(lines):
        if place in places:
            yield line


def _parse(text: str) -> Any:
    try:
        return parse(text)
    except ValueError:
        return text

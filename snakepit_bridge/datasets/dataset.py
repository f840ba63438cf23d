"""A dataset: a list of examples with their input fields, under a name and a version, and identified by its content."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

from snakepit_bridge.datasets.rows import Row, decode_row, digest_row, encode_row, find_inputs, to_example, to_row
from snakepit_bridge.exceptions import DatasetError
from snakepit_bridge.variables.codec import encode_canonical, shorten_repr

if TYPE_CHECKING:
    import dspy

MAX_ROWS, MAX_BYTES = 100_000, 64 * 1024 * 1024
"""The most rows of a dataset, and the most bytes of all their lines together."""

NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}"
"""The pattern of datasets' names."""

_NAME = re.compile(NAME_PATTERN)


@dataclass(frozen=True)
class Dataset:
    """Examples in order, with their input fields.

    Use :meth:`build` for new ones. ``fleet.datasets`` stores and loads datasets.

    Attributes:
        name: of the dataset.
        version: under this name, from 1; 0 if it isn't stored.
        inputs: the names of the input fields.
        rows: the examples as mappings of field to JSON value, inputs first and then by name. Images, dates and the
            like are in the form in which a request has them, so that a row's values can be submitted.
        lines: the same as they are stored.
    """

    name: str
    version: int
    inputs: tuple[str, ...]
    rows: tuple[Row, ...] = field(repr=False)
    lines: tuple[bytes, ...] = field(repr=False)

    @classmethod
    def build(cls, name: str, examples: Iterable[object], *, inputs: Sequence[str] | None = None) -> Self:
        """Return a dataset of these examples, which isn't stored.

        Args:
            name: of the dataset: letters, digits, ``_``, ``.`` and ``-``.
            examples: mappings of field to value, or instances of ``dspy.Example``.
            inputs: the input fields, of which every example has all; one may lack ``context?``. An empty list where the
                program has no inputs; None for those that the examples mark by ``with_inputs``.

        Raises:
            DatasetError: the name, a field, a value, the inputs or the size can't be; it names the example.
        """
        placed = ((f"example {number} of '{name}'", example) for number, example in enumerate(examples, 1))
        return cls.of_examples(name, placed, inputs=inputs)

    @classmethod
    def of_examples(
        cls, name: str, placed: Iterable[tuple[str, object]], *, inputs: Sequence[str] | None = None
    ) -> Self:
        """Return a dataset of examples, each with the place that it comes from; the rest as :meth:`build`.

        Raises:
            DatasetError: the name, a field, a value, the inputs or the size can't be; it names the example.
        """
        check_name(name)
        rows: list[tuple[str, Row]] = []
        marked = _MarkedInputs()
        for place, example in placed:
            if len(rows) >= MAX_ROWS:
                raise DatasetError(place, f"a dataset has {MAX_ROWS} examples at most; split it")
            rows.append((place, to_row(example, place)))
            if inputs is None:
                marked.check(place, example)
        return cls.of_rows(name, rows, marked.fields if inputs is None else inputs)

    @classmethod
    def of_rows(cls, name: str, rows: Sequence[tuple[str, Row]], inputs: Sequence[str] | None) -> Self:
        """Return a dataset of rows, each with the place that it comes from; the rest as :meth:`build`.

        Raises:
            DatasetError: the name, the inputs or the size can't be.
        """
        check_name(name)
        if not rows:
            raise DatasetError(f"dataset '{name}'", "it has no examples")
        fields = _check_inputs(name, rows, inputs)
        lines = tuple(encode_row(row, place) for place, row in rows)
        if (size := sum(map(len, lines))) > MAX_BYTES:
            problem = f"its examples have {size} bytes as JSON, and {MAX_BYTES} is the most; split it"
            raise DatasetError(f"dataset '{name}'", problem)
        return cls(name, 0, fields, tuple(_order(row, fields) for _, row in rows), lines)

    @classmethod
    def decode(cls, name: str, version: int, inputs: Sequence[str], lines: Sequence[bytes]) -> Self:
        """Return a stored dataset."""
        fields = tuple(inputs)
        return cls(name, version, fields, tuple(_order(decode_row(line), fields) for line in lines), tuple(lines))

    def __len__(self) -> int:
        return len(self.rows)

    def __str__(self) -> str:
        return f"{self.name}:{self.version}" if self.version else self.name

    @cached_property
    def example_digests(self) -> tuple[str, ...]:
        """The digest of each row's fields and values; equal rows have equal digests."""
        return tuple(map(digest_row, self.lines))

    @cached_property
    def digest(self) -> str:
        """The digest of the input fields and of all rows in their order."""
        return _digest(self.inputs, self.example_digests)

    @cached_property
    def examples(self) -> tuple[dspy.Example, ...]:
        """The examples for DSPy, with their inputs marked; loads DSPy."""
        return tuple(to_example(row, self.inputs) for row in self.rows)

    def inputs_of(self, index: int) -> dict[str, Any]:
        """Return the input fields of a row, as a prediction takes them."""
        row = self.rows[index]
        return {name: row[name] for name in self.inputs if name in row}

    @property
    def optional_inputs(self) -> list[str]:
        """The input fields that some rows lack."""
        return [name for name in self.inputs if any(name not in row for row in self.rows)]

    @property
    def fields(self) -> list[str]:
        """The fields that rows have: the inputs, and then the others by name."""
        others = {name for row in self.rows for name in row} - set(self.inputs)
        return [*self.inputs, *sorted(others)]


def digest_content(inputs: Iterable[str], lines: Iterable[bytes]) -> str:
    """Return the digest of a dataset from its lines."""
    return _digest(inputs, map(digest_row, lines))


def _digest(inputs: Iterable[str], example_digests: Iterable[str]) -> str:
    content = {"inputs": sorted(inputs), "examples": list(example_digests)}
    return hashlib.sha256(encode_canonical(content)).hexdigest()


def _order(row: Row, inputs: Sequence[str]) -> dict[str, Any]:
    """Return a row with its inputs first, and then its other fields by name."""
    return {name: row[name] for name in (*inputs, *sorted(row.keys() - set(inputs))) if name in row}


def check_name(name: object) -> str:
    """Return the name if a dataset can have it.

    Raises:
        DatasetError: it can't be a name.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        problem = "a name is 1 to 100 letters, digits, '_', '.' and '-', and begins with a letter or a digit"
        raise DatasetError(f"dataset {shorten_repr(name)}", problem)
    return name


class _MarkedInputs:
    """The input fields that examples mark by ``with_inputs``, which are the same for all of them."""

    def __init__(self) -> None:
        self.fields: tuple[str, ...] | None = None
        self._is_first = True

    def check(self, place: str, example: object) -> None:
        """Note the fields of the first example, and check that another one has the same.

        Raises:
            DatasetError: it has others.
        """
        found = find_inputs(example)
        if self._is_first:
            self.fields, self._is_first = found, False
        elif _to_set(found) != _to_set(self.fields):
            first, own = (("not marked" if each is None else _list(each)) for each in (self.fields, found))
            problem = f"its inputs are {own}, and those of the first example {first}; give inputs=…"
            raise DatasetError(place, problem)


def _check_inputs(name: str, rows: Sequence[tuple[str, Row]], inputs: Sequence[str] | None) -> tuple[str, ...]:
    if isinstance(inputs, str) or inputs is None:
        problem = (
            f"its inputs aren't marked; name the input fields, such as 'question', of {_list(rows[0][1])}, or none "
            f"for a program without inputs"
        )
        raise DatasetError(f"dataset '{name}'", problem)
    known = {name for _, row in rows for name in row}
    optional = {field[:-1] for field in inputs if field.endswith("?") and field not in known}
    fields = tuple(dict.fromkeys(field if field in known else field.removesuffix("?") for field in inputs))
    for place, row in rows:
        if missing := [field for field in fields if field not in row and (field not in optional or field not in known)]:
            raise DatasetError(place, f"it lacks the input field {_list(missing)}; it has {_list(sorted(row))}")
    return fields


def _to_set(fields: Iterable[str] | None) -> set[str] | None:
    return None if fields is None else set(fields)


def _list(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in list(names)[:20]) or "none"

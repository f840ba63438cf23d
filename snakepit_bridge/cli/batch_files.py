"""A batch's two files of JSON lines. The output is in the input's order, so that it is a resumable prefix of it."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self, cast

from snakepit_bridge.cli.output import dump_json
from snakepit_bridge.exceptions import BridgeError
from snakepit_bridge.variables.codec import parse


@dataclass(frozen=True, slots=True)
class BatchLine:
    """One line of the input.

    Attributes:
        number: counted from 1, blank lines included.
        named: ``{"line": …}`` and, where the line has one, ``{"id": …}``: what the output repeats.
        inputs: input field to value; None where the line can't be read.
        problem: why it can't.
        record: what the output says of it already, where that is to stay.
    """

    number: int
    identity: dict[str, Any]
    inputs: dict[str, Any] | None
    problem: str = ""
    record: dict[str, Any] | None = None

    @classmethod
    def parse(cls, number: int, raw: bytes) -> Self:
        """Read an inputs object, or ``{"id": …, "inputs": {…}}``: with any other key it is an object of inputs."""
        named: dict[str, Any] = {"line": number}
        try:
            parsed = parse(raw)
        except (ValueError, RecursionError) as exc:
            return cls(number, named, None, f"it isn't JSON: {exc}")
        if not isinstance(parsed, dict):
            return cls(number, named, None, f"it must be an object of inputs, not {type(parsed).__name__}")
        found = cast(dict[str, Any], parsed)
        if not isinstance(found.get("inputs"), dict) or found.keys() - {"id", "inputs"}:
            return cls(number, named, found)
        return cls(number, named | ({"id": found["id"]} if "id" in found else {}), found["inputs"])


def count_lines(path: Path) -> int:
    """Return how many lines there are to do.

    Raises:
        BridgeError: the file can't be read.
    """
    with open_file(path, "rb") as file:
        return sum(1 for raw in file if raw.strip())


def read_lines(path: Path) -> Iterator[BatchLine]:
    """Yield the lines that aren't blank.

    Raises:
        BridgeError: the file can't be read.
    """
    with open_file(path, "rb") as file:
        for number, raw in enumerate(file, 1):
            if raw.strip():
                yield BatchLine.parse(number, raw.strip())


class BatchOutput:
    """The output file: what an earlier run left in it, and then one record after the other.

    Attributes:
        done: records in it.
        failed: those of them that hold an error.
    """

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self._file = file
        self.done = 0
        self.failed = 0

    def skip_done(self, lines: Iterator[BatchLine]) -> None:
        """Take the lines that are in the output already from the input.

        Raises:
            BridgeError: the output is of another input, or no batch's at all.
        """
        end = 0
        for raw in self._file:
            if not raw.endswith(b"\n"):
                break  # a run was killed while it wrote this
            self._count(self.match_record(raw, next(lines, None), self.done + 1))
            end += len(raw)
        self._file.truncate(end)
        self._file.seek(end)

    def match_record(self, raw: bytes, line: BatchLine | None, number: int) -> dict[str, Any]:
        """Return a record that answers a line of the input.

        Args:
            raw: the record, as it stands in the output.
            line: the line of the input in its place, if there is one.
            number: its place, counted from 1.

        Raises:
            BridgeError: it doesn't.
        """
        record = self.read_record(raw, number)
        if line is None or line.identity != {name: record.get(name) for name in line.identity}:
            raise self._mismatch_error(f"its line {number} isn't an answer to this input")
        return record

    def write(self, line: BatchLine, result: dict[str, Any]) -> None:
        """Append a line's record, so that it survives the end of this process, whatever ends it."""
        record = line.identity | result
        # JSON can escape half a surrogate pair, UTF-8 can't hold it.
        self._file.write((dump_json(record) + "\n").encode(errors="backslashreplace"))
        self._file.flush()
        self._count(record)

    def _count(self, record: dict[str, Any]) -> None:
        self.done += 1
        self.failed += "error" in record

    def read_record(self, raw: bytes, number: int) -> dict[str, Any]:
        """Return a record of the output.

        Raises:
            BridgeError: it is none.
        """
        try:
            record = parse(raw)
        except ValueError:
            raise self._mismatch_error(f"its line {number} isn't JSON") from None
        if not isinstance(record, dict) or "line" not in record:
            raise self._mismatch_error(f"its line {number} isn't a batch record")
        return cast(dict[str, Any], record)

    def _mismatch_error(self, why: str) -> BridgeError:
        return BridgeError(f"The output {self._path} can't be resumed: {why}. Name another file, or remove it.")


@contextmanager
def open_output(path: Path, source: Path) -> Generator[BatchOutput]:
    """Open the output of an input, and make it if it isn't there.

    Raises:
        BridgeError: it can't be written, or is the input itself.
    """
    if path.exists() and path.samefile(source):
        raise BridgeError(f"The output {path} is the input itself; name another file.")
    try:
        path.touch()
    except OSError as exc:
        raise BridgeError(f"The output {path} can't be written: {exc.strerror}. Check its path.") from None
    with open_file(path, "r+b") as file:
        yield BatchOutput(path, file)


@contextmanager
def open_file(path: Path, mode: str) -> Generator[BinaryIO]:
    """Open a file of bytes.

    Raises:
        BridgeError: it can't be opened.
    """
    try:
        file = cast(BinaryIO, path.open(mode))
    except OSError as exc:
        raise BridgeError(f"The file {path} can't be opened: {exc.strerror}. Check its path.") from None
    with file:
        yield file

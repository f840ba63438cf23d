"""Checkpoint: what a bulk run has written durably, in a file beside its output.

It is a SQLite database, so that each step is whole or not at all, whatever ends the process. The output holds finished
lines in the order of the input; lines that ended before an earlier one wait in the checkpoint.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Self, cast

from snakepit_bridge.exceptions import BulkError

_VERSION = 1
_TABLES = """
CREATE TABLE IF NOT EXISTS run (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS waiting (line INTEGER PRIMARY KEY, record BLOB NOT NULL);
"""


@dataclass(frozen=True, slots=True)
class BulkSettings:
    """What has to be the same whenever a run is resumed.

    Attributes:
        run_id: names the run in the idempotency keys of its lines.
        digest: of the input's content, ``total`` its lines, and ``sample`` how many of them are drawn; None for all.
        program: reference of the program.
        options: what else the predictions are submitted with, as text.
    """

    run_id: str
    digest: str
    total: int
    sample: int | None
    program: str
    options: Mapping[str, str]

    @property
    def lines(self) -> int:
        """How many lines the run has."""
        return self.total if self.sample is None else min(self.sample, self.total)

    def find_difference(self, other: Self) -> str | None:
        """Return how a run that is asked for differs from this one; None if it is the same."""
        if self.digest != other.digest:
            return "it is of another input"
        for name in ("program", "sample"):
            if (was := getattr(self, name)) != (now := getattr(other, name)):
                return f"its {name} is {was}, and not {now}"
        for name in sorted({*self.options, *other.options}):
            if (was := self.options.get(name)) != (now := other.options.get(name)):
                return f"its {name} is {was or 'the default'}, and not {now or 'the default'}"
        return None


@dataclass(frozen=True, slots=True)
class BulkState:
    """How far a run has come.

    Attributes:
        line: the last line that is in the output, whose end is at ``offset`` bytes.
        done: lines that have ended, those that wait in the checkpoint included; ``failed`` of them with an error.
        cost_usd: what they have cost together, and ``priced`` for how many of them that is known.
        unpriced: how many were answered without a known price.
        errors: class of error to the lines that ended with it, and ``examples`` the first of each.
        round: how often the failed lines have been tried again, and ``retrying`` whether they are now.
        finished: whether no line is left.
    """

    line: int = 0
    offset: int = 0
    done: int = 0
    failed: int = 0
    cost_usd: Decimal = Decimal(0)
    priced: int = 0
    unpriced: int = 0
    errors: Mapping[str, int] = field(default_factory=dict[str, int])
    examples: Mapping[str, str] = field(default_factory=dict[str, str])
    round: int = 0
    retrying: bool = False
    finished: bool = False

    def encode(self) -> str:
        """Return the state as JSON."""
        return json.dumps({**asdict(self), "cost_usd": str(self.cost_usd)})

    @classmethod
    def decode(cls, text: str) -> Self:
        """Return the state of its JSON form."""
        found: dict[str, Any] = json.loads(text)
        found["cost_usd"] = Decimal(found["cost_usd"])
        return cls(**found)


class Checkpoint:
    """The checkpoint of one run. One process at a time has it open.

    Args:
        path: of the file, which is created if it isn't there.

    Raises:
        BulkError: another process has it open, or it is no checkpoint.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._database = sqlite3.connect(path, timeout=0.0, isolation_level=None)
        except sqlite3.Error as exc:
            raise self._error(exc) from None
        try:
            # Exclusive from the first read on: the lock ends with the process, however that ends.
            self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = FULL")
            self._database.executescript(_TABLES)
        except sqlite3.Error as exc:
            self._database.close()
            raise self._error(exc) from None

    def load(self) -> tuple[BulkSettings, BulkState] | None:
        """Return the run that it is of; None if it is new.

        Raises:
            BulkError: another version of this library wrote it.
        """
        rows = cast("list[tuple[str, str]]", self._database.execute("SELECT name, value FROM run").fetchall())
        found = dict(rows)
        if not found:
            return None
        if found.get("version") != str(_VERSION):
            problem = f"it has version {found.get('version')}, and this library reads {_VERSION}; name another output"
            raise BulkError(f"checkpoint {self._path}", problem)
        return BulkSettings(**json.loads(found["settings"])), BulkState.decode(found["state"])

    def start(self, settings: BulkSettings) -> None:
        """Store the settings of a new run."""
        with self._transaction():
            self._put("version", str(_VERSION))
            self._put("settings", json.dumps(asdict(settings)))
            self._put("state", BulkState().encode())

    def save(self, state: BulkState, waiting: Iterable[tuple[int, bytes]] = ()) -> None:
        """Store how far the run has come, and records that wait; those up to the state's line are dropped."""
        with self._transaction():
            self._database.executemany("INSERT OR REPLACE INTO waiting VALUES (?, ?)", waiting)
            self._database.execute("DELETE FROM waiting WHERE line <= ?", (state.line,))
            self._put("state", state.encode())

    def read_waiting(self, below: int) -> Iterator[tuple[int, bytes]]:
        """Yield the records that wait of lines below a number, in the order of their lines."""
        rows = self._database.execute("SELECT line, record FROM waiting WHERE line < ? ORDER BY line", (below,))
        yield from cast("Iterator[tuple[int, bytes]]", rows)

    def count_waiting(self) -> int:
        """Return how many records wait."""
        return int(self._database.execute("SELECT COUNT(*) FROM waiting").fetchone()[0])

    def has_waiting(self, line: int) -> bool:
        """Return whether a line's record waits."""
        return self._database.execute("SELECT 1 FROM waiting WHERE line = ?", (line,)).fetchone() is not None

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _put(self, name: str, value: str) -> None:
        self._database.execute("INSERT OR REPLACE INTO run VALUES (?, ?)", (name, value))

    @contextmanager
    def _transaction(self) -> Generator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")

    def _error(self, exc: sqlite3.Error) -> BulkError:
        if "locked" in str(exc):
            return BulkError(f"checkpoint {self._path}", "another process runs it; wait for its end, or end it")
        return BulkError(f"checkpoint {self._path}", f"it can't be used ({exc}); check the path, or remove it")

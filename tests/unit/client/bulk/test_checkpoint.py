"""A checkpoint: one process at a time, and nothing half done."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from snakepit_bridge.client.bulk.checkpoint import BulkSettings, BulkState, Checkpoint
from snakepit_bridge.client.bulk.records import RecordFile
from snakepit_bridge.exceptions import BulkError

SETTINGS = BulkSettings("run", "digest", 10, None, "qa", {"session": "s"})


def test_state_and_settings_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "out.checkpoint"
    first = Checkpoint(path)
    assert first.load() is None
    first.start(SETTINGS)
    state = BulkState(
        4, 100, 5, 1, Decimal("0.1"), 4, 0, {"LMAnswerError": 1}, {"LMAnswerError": "line 2: no number"}, 2, True
    )
    first.save(state, [(6, b"six"), (8, b"eight")])
    first.close()
    again = Checkpoint(path)
    assert again.load() == (SETTINGS, state)
    assert list(again.read_waiting(8)) == [(6, b"six")]
    assert (again.has_waiting(8), again.has_waiting(7), again.count_waiting()) == (True, False, 2)
    again.save(replace(state, line=6))
    assert again.count_waiting() == 1
    again.close()


def test_a_run_is_written_by_one_process_at_a_time(tmp_path: Path) -> None:
    first = Checkpoint(tmp_path / "out.checkpoint")
    with pytest.raises(BulkError, match="another process runs it"):
        Checkpoint(tmp_path / "out.checkpoint")
    first.close()
    Checkpoint(tmp_path / "out.checkpoint").close()


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "out.checkpoint"
    path.write_bytes(b"no database" * 100)
    with pytest.raises(BulkError, match="it can't be used"):
        Checkpoint(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"digest": "other"}, "it is of another input"),
        ({"program": "qb"}, "its program is qa, and not qb"),
        ({"sample": 5}, "its sample is None, and not 5"),
        ({"options": {"session": "t"}}, "its session is s, and not t"),
        ({"options": {"session": "s", "exactly": "5.1"}}, "its exactly is the default, and not 5.1"),
    ],
)
def test_a_difference_is_named(changes: dict[str, object], message: str) -> None:
    assert SETTINGS.find_difference(replace(SETTINGS, run_id="other")) is None
    assert SETTINGS.find_difference(replace(SETTINGS, **changes)) == message


def test_an_output_that_was_shortened_is_refused(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "out.checkpoint")
    checkpoint.start(SETTINGS)
    (tmp_path / "out.jsonl").write_bytes(b"short")
    with pytest.raises(BulkError, match="it has 5 bytes, and its run had written 50"):
        RecordFile(tmp_path / "out.jsonl", checkpoint, BulkState(line=3, offset=50))
    checkpoint.close()

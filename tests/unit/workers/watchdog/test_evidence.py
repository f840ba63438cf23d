"""Whose code a process hangs in: read from stacks, and only said where all of them agree."""

from __future__ import annotations

import pytest

from snakepit_bridge.process.frames import call_marked
from workers.watchdog.evidence import Culprit, Sample, find_culprit, is_progressing

STACK = """\
Stack (most recent call first):
  File "/usr/lib/python3.11/re/__init__.py", line 166 in match
  File "/srv/acme/rules.py", line 26 in check
  File "/srv/fleet/tasks/frames.py", line 20 in prediction input-1
  File "/srv/fleet/tasks/prediction.py", line 9 in _call
  File "/srv/fleet/tasks/frames.py", line 20 in prediction input-1
  File "/srv/fleet/tasks/frames.py", line 20 in prediction batch-1
  File "/usr/lib/python3.11/asyncio/events.py", line 80 in _run
"""


def test_a_stack_names_the_prediction_and_the_line_of_its_own_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.watchdog.evidence._STDLIB", "/usr/lib/python3.11")
    assert Sample.parse(STACK) == Sample(("batch-1", "input-1"), "check (/srv/acme/rules.py, line 26)")


@pytest.mark.parametrize("stack", ["", "no stack", "Stack (most recent call first):\n  <no Python frame>\n"])
def test_a_stack_without_frames_names_nobody(stack: str) -> None:
    assert Sample.parse(stack) == Sample()


def test_agreeing_looks_name_a_culprit() -> None:
    sample = Sample(("batch", "input"), "check")
    assert find_culprit([sample] * 3) == Culprit("batch", "input", "check")
    assert find_culprit([Sample(("other",)), sample, sample, sample]) == Culprit("batch", "input", "check")


@pytest.mark.parametrize(
    "samples",
    [
        [],
        [Sample(("a",))] * 2,
        [Sample()] * 5,
        [Sample(("a",)), Sample(("a",)), Sample(("b",))],
        [Sample(("a",)), Sample(), Sample(("a",))],
    ],
)
def test_nobody_is_accused_on_less(samples: list[Sample]) -> None:
    assert find_culprit(samples) is None


def test_a_loop_that_gets_on_is_told_from_one_that_hangs() -> None:
    assert is_progressing([Sample(("a",)), Sample(("b",)), Sample(("a",))])
    assert not is_progressing([Sample(("a",))] * 3)
    assert not is_progressing([Sample(), Sample(("a",)), Sample(("a",))])


def test_no_function_of_somebody_elses_can_accuse() -> None:
    def prediction_input_1() -> str:
        return "fine"

    assert call_marked("x y", prediction_input_1) == "fine"
    assert Sample.parse('  File "/srv/a.py", line 1 in prediction_input_1\n').predictions == ()

"""Stack samples that identify the prediction in whose code a process hangs.

A signal handler in C writes the stack of the thread that the signal was sent to, whatever the thread is doing. Below
each prediction's code is a frame with the prediction's id (``snakepit_bridge.process.frames``).
"""

from __future__ import annotations

import re
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from snakepit_bridge.process.frame_names import PREFIX

_FRAME = re.compile(r'^  File "(?P<file>.*)", line (?P<line>\d+) in (?P<name>.*)$', re.MULTILINE)
_STDLIB = sysconfig.get_paths()["stdlib"]
_ENOUGH = 3


@dataclass(frozen=True, slots=True)
class Sample:
    """One stack sample of a thread.

    Attributes:
        predictions: the predictions whose code it runs, outermost first: a batch before its input.
        place: the location in the code, for people; empty if unknown.
    """

    predictions: tuple[str, ...] = ()
    place: str = ""

    @classmethod
    def parse(cls, stack: str) -> Self:
        """Parse a stack as ``faulthandler`` writes it, innermost frame first."""
        frames = [(found["file"], found["line"], found["name"]) for found in _FRAME.finditer(stack)]
        names = [name.removeprefix(PREFIX) for _, _, name in frames if name.startswith(PREFIX)]
        # The same prediction marks its frames more than once.
        predictions = tuple(dict.fromkeys(reversed(names)))
        called = [frame for frame in frames if not frame[2].startswith(PREFIX)]
        own = [frame for frame in called if not frame[0].startswith(_STDLIB) and "site-packages" not in frame[0]]
        shown = (own or called)[:1]
        return cls(predictions, *(f"{name} ({file}, line {line})" for file, line, name in shown))


@dataclass(frozen=True, slots=True)
class Culprit:
    """The prediction in whose code a process hangs.

    Attributes:
        message: the id of the task whose message it came in.
        prediction: the prediction's own task id, which differs from ``message`` in a batch.
        place: where it hangs, for people.
    """

    message: str
    prediction: str
    place: str


def find_culprit(samples: Iterable[Sample]) -> Culprit | None:
    """Return the culprit if the last samples all agree, otherwise None."""
    last = list(samples)[-_ENOUGH:]
    if len(last) < _ENOUGH or len({sample.predictions for sample in last}) != 1 or not last[-1].predictions:
        return None
    predictions = last[-1].predictions
    return Culprit(predictions[0], predictions[-1], last[-1].place)


def is_progressing(samples: Iterable[Sample]) -> bool:
    """Check whether the last samples show different predictions: the loop is slow but doesn't hang."""
    return len({sample.predictions for sample in list(samples)[-_ENOUGH:]} - {()}) > 1

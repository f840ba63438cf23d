"""Evidence: whose code a process hangs in, as its stacks tell.

A stack is written by a signal handler in C, in the thread that the signal was sent to, whatever that does. Below each
prediction's code stands a frame that bears its id (``snakepit_bridge.process.frames``).
"""

from __future__ import annotations

import re
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from snakepit_bridge.process.frames import PREFIX

_FRAME = re.compile(r'^  File "(?P<file>.*)", line (?P<line>\d+) in (?P<name>.*)$', re.MULTILINE)
_STDLIB = sysconfig.get_paths()["stdlib"]
_ENOUGH = 3


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at a thread.

    Attributes:
        predictions: whose code it runs, the outermost first: an input of a batch stands within its batch.
        place: where it is, in words; empty if that can't be told.
    """

    predictions: tuple[str, ...] = ()
    place: str = ""

    @classmethod
    def parse(cls, stack: str) -> Self:
        """Reads a stack as ``faulthandler`` writes it, the innermost frame first."""
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
        message: the task whose message it came in.
        prediction: its own task; the message's, unless that is a batch.
        place: where it hangs, in words.
    """

    message: str
    prediction: str
    place: str


def find_culprit(samples: Iterable[Sample]) -> Culprit | None:
    """Returns whose code it is if all of the last samples say the same, None if that can't be told."""
    last = list(samples)[-_ENOUGH:]
    if len(last) < _ENOUGH or len({one.predictions for one in last}) != 1 or not last[-1].predictions:
        return None
    whose = last[-1].predictions
    return Culprit(whose[0], whose[-1], last[-1].place)


def is_progressing(samples: Iterable[Sample]) -> bool:
    """Tells whether the last samples show the code of one prediction after another: that is slow, and doesn't hang."""
    return len({one.predictions for one in list(samples)[-_ENOUGH:]} - {()}) > 1

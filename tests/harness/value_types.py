"""Types of a user's own package, for fields of programs and for values."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum

import dspy
import pydantic


class Colour(enum.Enum):
    """A plain enum."""

    RED = "red"
    BLUE = "blue"


@dataclasses.dataclass
class Part:
    """A dataclass, whose fields aren't in the order of their names."""

    weight: decimal.Decimal
    lasts: datetime.timedelta
    at: datetime.date = datetime.date(2026, 1, 2)


class Ticket(pydantic.BaseModel):
    """A model, whose fields aren't in the order of their names."""

    title: str
    colour: Colour = Colour.RED
    parts: list[Part] = []
    also: dict[str, int] = {}


class Stamp(dspy.Type):
    """A type of DSPy's kind of one's own."""

    text: str

    def format(self) -> str:
        """Return what a prompt shows."""
        return f"<stamp {self.text}>"

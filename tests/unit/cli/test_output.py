"""What reaches a terminal: text that can't steer it, JSON that any reader takes."""

from __future__ import annotations

import json
import math

import pytest

from snakepit_bridge.cli import output as shown


def test_an_answer_cannot_steer_the_terminal() -> None:
    assert shown.printable("red \x1b[31m, ring \x07") == "red \\x1b[31m, ring \\x07"
    assert shown.printable("two\nlines\tand ünïcode 漢字") == "two\nlines\tand ünïcode 漢字"


def test_a_message_of_several_lines_becomes_one() -> None:
    assert shown.line("what\n  happened\r\n\x1b[2J") == "what happened \\x1b[2J"


def test_numbers_that_json_does_not_have_are_quoted() -> None:
    text = shown.as_json({"a": math.nan, "b": [math.inf, (1.5, -math.inf)]})
    assert json.loads(text, parse_constant=pytest.fail) == {"a": "NaN", "b": ["Infinity", [1.5, "-Infinity"]]}


def test_a_long_value_is_cut_and_says_how_long_it_was() -> None:
    assert shown.cell("x" * 101) == "x" * 100 + "… (101 characters)"


def test_markup_in_an_answer_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    shown.say("[bold]no[/bold] :smile:")
    shown.table(("a",), [("[red]x[/red]",)])
    said = capsys.readouterr().out
    assert "[bold]no[/bold] :smile:" in said
    assert "[red]x[/red]" in said

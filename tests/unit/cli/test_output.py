"""What reaches a terminal: text that can't steer it, JSON that any reader takes."""

from __future__ import annotations

import json
import math

import pytest

from snakepit_bridge.cli import output as shown


def test_an_answer_cannot_steer_the_terminal() -> None:
    assert shown.escape_control_chars("red \x1b[31m, ring \x07") == "red \\x1b[31m, ring \\x07"
    assert shown.escape_control_chars("two\nlines\tand ünïcode 漢字") == "two\nlines\tand ünïcode 漢字"


def test_a_message_of_several_lines_becomes_one() -> None:
    assert shown.to_one_line("what\n  happened\r\n\x1b[2J") == "what happened \\x1b[2J"


def test_numbers_that_json_does_not_have_are_quoted() -> None:
    text = shown.dump_json({"a": math.nan, "b": [math.inf, (1.5, -math.inf)]})
    assert json.loads(text, parse_constant=pytest.fail) == {"a": "NaN", "b": ["Infinity", [1.5, "-Infinity"]]}


def test_a_long_value_is_cut_and_says_how_long_it_was() -> None:
    assert shown.to_cell("x" * 101) == "x" * 100 + "… (101 characters)"


def test_markup_in_an_answer_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    shown.echo("[bold]no[/bold] :smile:")
    shown.print_table(("a",), [("[red]x[/red]",)])
    output = capsys.readouterr().out
    assert "[bold]no[/bold] :smile:" in output
    assert "[red]x[/red]" in output

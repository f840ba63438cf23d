"""Tokens: one text form, and an order that is the order of publishing."""

from __future__ import annotations

import json

import pytest

from snakepit_bridge.protocol.token import Token


@pytest.mark.parametrize("token", [Token(0, 0), Token(1, 1), Token(1764000000000000, 7), Token(10**18, 10**18)])
def test_a_token_survives_its_text_form(token: Token) -> None:
    assert Token.parse(str(token)) == token


def test_a_token_is_written_as_epoch_dot_revision() -> None:
    assert str(Token(12, 3)) == "12.3"
    assert f"{Token(12, 3)}" == "12.3"
    assert Token.parse("12.3") == Token(epoch=12, revision=3)


@pytest.mark.parametrize(
    "text", ["", "7", "7.", ".7", "a.b", "1.2.3", "-1.2", "1.-2", "1,2", " 1.2", "1.2\n", "1e3.2", "9" * 20 + ".1"]
)
def test_an_invalid_token_is_rejected_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"reads epoch\.revision, like 1764000000000000\.7; got"):
        Token.parse(text)


def test_tokens_compare_in_publish_order_across_epochs() -> None:
    shuffled = [Token(2, 4), Token(1, 10), Token(1, 1), Token(2, 3), Token(1, 2)]
    assert sorted(shuffled) == [Token(1, 1), Token(1, 2), Token(1, 10), Token(2, 3), Token(2, 4)]
    # As texts they would not: 1.10 sorts before 1.2.
    assert Token.parse("1.10") > Token.parse("1.2")


def test_tokens_are_hashable_values() -> None:
    assert {Token(1, 2), Token(1, 2)} == {Token(1, 2)}
    assert json.dumps(Token(1, 2)) == "[1, 2]", "in messages it goes as text, never as it is"

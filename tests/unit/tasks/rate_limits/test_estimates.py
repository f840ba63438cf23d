"""Estimates begin with the text's length and become what a program really uses."""

from __future__ import annotations

import pytest

from tasks.rate_limits.estimates import Estimates
from tasks.rate_limits.protocol import Estimate, Used


def test_at_first_the_length_of_the_text_is_all_there_is() -> None:
    estimates = Estimates()
    assert estimates.predict_tokens("qa", Estimate(4_000)) == (1_000, 300)
    given, _ = estimates.predict_tokens("qa", Estimate(4_000, "inputs"))
    assert given == 1_200, "a prompt has more in it than the inputs"


def test_no_more_output_is_expected_than_the_call_allows() -> None:
    assert Estimates().predict_tokens("qa", Estimate(400, max_output_tokens=50))[1] == 50


def test_what_a_program_uses_is_learned_by_program_and_basis() -> None:
    estimates = Estimates()
    estimates.learn("qa", Estimate(400, "inputs"), Used(900, 120))
    assert estimates.predict_tokens("qa", Estimate(400, "inputs")) == (900, 120)
    assert estimates.predict_tokens("qa", Estimate(400)) == (100, 300)
    assert estimates.predict_tokens("other", Estimate(400, "inputs"))[1] == 300


def test_a_longer_text_than_usual_is_expected_to_take_more() -> None:
    estimates = Estimates()
    estimates.learn("qa", Estimate(400), Used(900, 120))
    assert estimates.predict_tokens("qa", Estimate(4_400))[0] == 1_900
    assert estimates.predict_tokens("qa", Estimate(0))[0] == 800


def test_it_follows_a_program_that_changes() -> None:
    estimates = Estimates()
    for _ in range(30):
        estimates.learn("qa", Estimate(400), Used(100, 10))
    for _ in range(30):
        estimates.learn("qa", Estimate(400), Used(1_000, 100))
    given, answered = estimates.predict_tokens("qa", Estimate(400))
    assert given == pytest.approx(1_000, rel=0.01)
    assert answered == pytest.approx(100, rel=0.01)


def test_it_remembers_only_so_many_programs() -> None:
    estimates = Estimates()
    for number in range(5_000):
        estimates.learn(f"p{number}", Estimate(4), Used(7, 7))
    assert estimates.predict_tokens("p0", Estimate(4)) == (1, 300)
    assert estimates.predict_tokens("p4999", Estimate(4)) == (7, 7)

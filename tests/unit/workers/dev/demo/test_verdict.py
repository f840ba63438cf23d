"""The verdict: each kind of defect, put into a demo that went well, is counted as what it is and as nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from snakepit_bridge.protocol.token import Token
from tests.unit.workers.dev.demo.sample import Played, answer, failed, lost, played, request_of, token
from workers.dev.demo.verdict import Verdict, judge


def verdict(demo: Played) -> Verdict:
    return judge(demo.answers, demo.revisions, demo.log)


def counts(demo: Played) -> tuple[int, int | None, int]:
    found = verdict(demo)
    assert found.holds == ((found.lost, found.torn, found.stale) == (0, 0, 0) and found.answered > 0)
    return found.lost, found.torn, found.stale


def test_a_demo_in_which_all_went_well_holds() -> None:
    assert counts(played()) == (0, 0, 0)
    assert verdict(played()).holds


@pytest.mark.parametrize("index", range(3))
def test_a_question_without_a_result_is_lost(index: int) -> None:
    demo = played()
    assert counts(demo.with_answer(index, lost(demo.answers[index].question.program))) == (1, 0, 0)


@pytest.mark.parametrize("index", range(3))
def test_a_question_that_ended_in_a_named_error_has_failed_and_is_not_lost(index: int) -> None:
    demo = played()
    changed = demo.with_answer(index, failed(demo.answers[index].question.program))
    assert counts(changed) == (0, 0, 0)
    assert (verdict(changed).failed, verdict(changed).answered) == (1, 2)


def test_a_demo_without_a_single_answer_does_not_hold() -> None:
    demo = played()
    everything = replace(demo, answers=tuple(failed(given.question.program) for given in demo.answers))
    assert counts(everything) == (0, 0, 0)


@pytest.mark.parametrize(
    ("index", "changes"),
    [
        (0, {"llm_temperature": 0.7}),
        (0, {"house_style": "Another style."}),
        (1, {"llm_temperature": 0.0}),
        (1, {"llm_temperature": None}),
        (1, {"house_style": "Answer briefly."}),
        (2, {"llm_temperature": 0.0}),
        (2, {"house_style": "Answer from the text alone."}),
        (2, {"reasoning_strategy": "Predict"}),
    ],
)
def test_a_request_with_a_value_of_another_revision_is_torn(index: int, changes: dict[str, Any]) -> None:
    demo = played()
    program, under = demo.answers[index].question.program, demo.revisions[index]
    assert counts(demo.with_request(index, request_of(program, under, index, **changes))) == (0, 1, 0)


def test_a_module_that_steps_where_it_should_not_is_torn() -> None:
    demo = played()
    plain = demo.revisions[0]
    demo = demo.with_answer(2, answer("math", plain)).with_request(2, request_of("math", plain, 2))
    assert counts(demo) == (0, 0, 0)
    stepped = request_of("math", plain, 2, reasoning_strategy="ChainOfThought")
    assert counts(demo.with_request(2, stepped)) == (0, 1, 0)


def test_one_torn_request_among_good_ones_is_enough() -> None:
    demo = played()
    twice = (*demo.log, request_of("classify", demo.revisions[0], 3))
    assert counts(replace(demo, log=twice)) == (0, 0, 0), "a prediction that was made twice, alike, is whole"
    torn = (*demo.log, request_of("classify", demo.revisions[1], 3))
    assert counts(replace(demo, log=torn)) == (0, 1, 0)


def test_an_answer_that_the_lm_was_never_asked_for_is_torn() -> None:
    demo = played()
    assert counts(replace(demo, log=demo.log[1:])) == (0, 1, 0)
    assert counts(replace(demo, log=())) == (0, 3, 0)


def test_an_answer_under_a_revision_that_nobody_published_is_torn() -> None:
    demo = played()
    foreign = replace(demo.revisions[0], token=Token(100, 99))
    assert counts(demo.with_answer(0, answer("classify", foreign))) == (0, 1, 0)


def test_an_answer_under_an_older_revision_than_the_acknowledged_one_is_stale() -> None:
    demo = played()
    late = answer("classify", demo.revisions[0], acknowledged=token(2))
    assert counts(demo.with_answer(0, late)) == (0, 0, 1)


def test_an_answer_under_a_newer_revision_than_the_acknowledged_one_is_fresh() -> None:
    demo = played()
    assert counts(demo.with_answer(1, answer("extract", demo.revisions[1], acknowledged=token(1)))) == (0, 0, 0)


def test_an_older_epoch_is_stale_whatever_its_revision() -> None:
    demo = played()
    assert counts(demo.with_answer(0, answer("classify", demo.revisions[0], acknowledged=Token(101, 0)))) == (0, 0, 1)


def test_defects_are_counted_each_for_itself() -> None:
    demo = played().with_answer(0, lost("classify"))
    demo = demo.with_answer(1, answer("extract", demo.revisions[1], acknowledged=token(3)))
    demo = demo.with_request(2, request_of("math", demo.revisions[2], 2, llm_temperature=2.0))
    assert counts(demo) == (1, 1, 1)


def test_without_a_log_tearing_is_unseen_and_not_denied() -> None:
    demo = played()
    found = judge(demo.answers, demo.revisions, None)
    assert (found.lost, found.torn, found.stale) == (0, None, 0)
    assert found.holds
    assert not judge((*demo.answers[1:], lost("math")), demo.revisions, None).holds


# ---------------------------------------------------------------- the rows


def test_a_row_tells_what_happened_under_its_revision() -> None:
    demo = played()
    rows = verdict(demo).rows
    assert [row.number for row in rows] == [1, 2, 3]
    assert [row.revision for row in rows] == list(demo.revisions)
    assert [row.predictions for row in rows] == [1, 1, 1]
    assert [row.modules for row in rows] == [("Predict",), ("Predict",), ("ChainOfThought",)]
    assert [row.temperatures for row in rows] == [(0.0,), (0.7,), (0.7,)]
    assert [row.accuracy for row in rows] == [1.0, 1.0, 1.0]


def test_the_temperatures_are_those_that_the_lm_received() -> None:
    demo = played()
    row = verdict(demo.with_request(0, request_of("classify", demo.revisions[0], llm_temperature=1.5))).rows[0]
    assert row.temperatures == (1.5,)


def test_without_a_log_the_temperatures_are_those_of_the_provenance() -> None:
    demo = played()
    assert [row.temperatures for row in judge(demo.answers, demo.revisions, None).rows] == [(0.0,), (0.7,), (0.7,)]


def test_a_revision_that_no_prediction_ran_under_has_an_empty_row() -> None:
    demo = played()
    row = verdict(replace(demo, answers=demo.answers[1:])).rows[0]
    assert (row.predictions, row.modules, row.temperatures) == (0, (), ())
    assert (row.p50_ms, row.p95_ms, row.accuracy) == (0.0, 0.0, 0.0)


def test_percentiles_are_in_milliseconds_and_of_the_revisions_own_answers() -> None:
    demo = played()
    first = demo.revisions[0]
    many = tuple(answer("classify", first, seconds=n / 100) for n in range(101))
    row = judge((*many, *demo.answers[1:]), demo.revisions, demo.log).rows[0]
    assert (row.predictions, row.p50_ms, row.p95_ms) == (101, pytest.approx(500), pytest.approx(950))
    first_row = judge(demo.answers, demo.revisions, demo.log).rows[0]
    assert first_row.p50_ms == first_row.p95_ms == pytest.approx(200)


def test_accuracy_is_the_share_of_right_answers() -> None:
    demo = played()
    wrong = answer("classify", demo.revisions[0])
    assert wrong.prediction is not None
    wrong.prediction.label = "negative"
    found = judge((*demo.answers, wrong), demo.revisions, demo.log)
    assert found.rows[0].accuracy == 0.5
    assert found.holds, "a wrong answer is the LM's own affair"

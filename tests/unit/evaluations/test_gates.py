"""Gates: their grammar, and when a candidate passes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snakepit_bridge.evaluations.gates import Gate, Operator
from snakepit_bridge.exceptions import GateError

OFFSETS = st.decimals(0, 100, places=6, allow_nan=False).map(float)
OPERATORS: list[Operator] = [">=", ">", "<=", "<"]
NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,20}", fullmatch=True)
DATASETS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,20}([@:][A-Za-z0-9_.-]{1,10})?", fullmatch=True)
GATES = st.one_of(
    st.builds(Gate, NAMES, DATASETS, st.sampled_from(OPERATORS), OFFSETS),
    st.builds(
        Gate,
        NAMES,
        DATASETS,
        st.sampled_from(OPERATORS),
        st.one_of(OFFSETS, OFFSETS.map(lambda x: 0 - x)),
        st.just(True),
    ),
)


@given(GATES)
def test_a_gate_is_read_back_from_its_text(gate: Gate) -> None:
    assert Gate.parse(str(gate)) == gate


@given(GATES, st.sampled_from(["", " ", "  "]))
def test_spaces_do_not_matter(gate: Gate, space: str) -> None:
    text = str(gate).replace(" ", space).replace("(", f"{space}({space}").replace(")", f"{space}){space}")
    assert Gate.parse(f"{space}{text}{space}") == gate


@given(st.text(max_size=60))
def test_any_other_text_is_refused_by_the_one_error(text: str) -> None:
    try:
        gate = Gate.parse(text)
    except GateError:
        return
    assert Gate.parse(str(gate)) == gate


@pytest.mark.parametrize(
    ("text", "gate"),
    [
        ("exact(golden) >= 0.8", Gate("exact", "golden", ">=", 0.8)),
        ("exact(golden:3)>80%", Gate("exact", "golden:3", ">", 0.8)),
        ("exact(golden) >= baseline - 0.02", Gate("exact", "golden", ">=", -0.02, True)),
        ("exact(golden) >= baseline-2%", Gate("exact", "golden", ">=", -0.02, True)),
        ("harm(golden@prod) < baseline + .1", Gate("harm", "golden@prod", "<", 0.1, True)),
        ("exact(golden) >= baseline", Gate("exact", "golden", ">=", 0.0, True)),
    ],
)
def test_bounds_are_numbers_percentages_or_relative_to_the_baseline(text: str, gate: Gate) -> None:
    assert Gate.parse(text) == gate


@pytest.mark.parametrize(
    "text",
    ["", "exact >= 0.8", "exact(golden) == 1", "exact(golden) >= best", "exact(golden) >= 0.8 or 1", "a.b(c) > 1"],
)
def test_a_text_of_another_form_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(GateError, match=r"can't be checked.*Write it as 'exact\(golden\) >= 0.8'"):
        Gate.parse(text)


@given(st.integers(0, 100), st.integers(0, 100))
def test_a_bound_that_is_met_exactly_is_met_whatever_floats_make_of_it(hundredths: int, less: int) -> None:
    gate = Gate.parse(f"exact(golden) >= baseline - {less / 100}")
    assert gate.check((hundredths - less) / 100, hundredths / 100).passed
    assert not gate.check((hundredths - less) / 100 - 1e-6, hundredths / 100).passed


@given(GATES, st.floats(0, 1), st.floats(0, 1))
def test_an_outcome_says_what_was_compared(gate: Gate, candidate: float, baseline: float) -> None:
    outcome = gate.check(candidate, baseline)
    assert outcome.bound == (baseline + gate.offset if gate.is_relative else gate.offset)
    assert outcome.as_dict()["gate"] == str(gate)
    assert (outcome.baseline is None) == (not gate.is_relative)


def test_a_relative_gate_needs_a_baseline() -> None:
    with pytest.raises(GateError, match="there is no baseline"):
        Gate.parse("exact(golden) >= baseline").check(0.5)

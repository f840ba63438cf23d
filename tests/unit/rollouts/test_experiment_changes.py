"""Which experiments may run together on a target, and how one ends."""

from __future__ import annotations

from typing import Any

import pytest

from snakepit_bridge.exceptions import ExperimentError, ExperimentNotFoundError, RolloutOverlapError
from snakepit_bridge.rollouts.experiment_changes import (
    MAX_EXPERIMENTS,
    ExperimentEvent,
    add_experiment,
    end_experiment,
    start_experiment,
)
from snakepit_bridge.rollouts.experiments import Experiment, ExperimentPlan, ExperimentState

TARGET = "session:shop"


def experiment(name: str, from_share: float = 0, to_share: float = 1, **changed: Any) -> Experiment:
    arms = [{"name": each, "weight": 0.5, "revision": "1.1"} for each in "ab"]
    plan = {"name": name, "from_share": from_share, "to_share": to_share, "arms": arms} | changed
    return start_experiment(ExperimentPlan.parse(plan))


def test_each_start_has_an_id_of_its_own() -> None:
    first, second = experiment("tone"), experiment("tone")
    assert first.id != second.id
    assert first.state is ExperimentState.RUNNING


def test_ranges_that_only_meet_run_together() -> None:
    first, second = experiment("first", 0.2, 0.5), experiment("second", 0.5, 0.9)
    running = add_experiment(add_experiment((), first, TARGET), second, TARGET)
    assert running == (first, second)
    assert add_experiment(running, third := experiment("third", 0, 0.2), TARGET) == (first, second, third)


@pytest.mark.parametrize(
    ("name", "from_share", "to_share"),
    [("other", 0.4, 0.6), ("other", 0, 1), ("other", 0.2, 0.5), ("other", 0.499999, 0.5), ("first", 0.5, 0.6)],
)
def test_what_overlaps_is_refused_by_name(name: str, from_share: float, to_share: float) -> None:
    first = experiment("first", 0.2, 0.5)
    with pytest.raises(RolloutOverlapError, match=r"session:shop is staged by experiment 'first'") as refused:
        add_experiment((first,), experiment(name, from_share, to_share), TARGET)
    if name == "first":
        assert str(refused.value).endswith("Give this one another name.")
    else:
        assert "on the requests from 0.2 to 0.5 already" in str(refused.value)
        assert str(refused.value).endswith("Free is 0 to 0.2 and 0.5 to 1, such as --from 0 --share 0.2.")


def test_where_nothing_is_free_one_has_to_end() -> None:
    with pytest.raises(RolloutOverlapError, match=r"No requests are free: end an experiment by"):
        add_experiment((experiment("first", 0, 1),), experiment("second", 0.2, 0.5), TARGET)


def test_a_target_has_a_maximum_of_experiments() -> None:
    running: tuple[Experiment, ...] = ()
    for number in range(MAX_EXPERIMENTS):
        running = add_experiment(running, experiment(f"e{number}", number / 40, (number + 1) / 40), TARGET)
    with pytest.raises(ExperimentError, match=f"{MAX_EXPERIMENTS} run on session:shop, which is the maximum"):
        add_experiment(running, experiment("more", 0.9, 1), TARGET)


def test_their_text_has_a_maximum() -> None:
    segment = {"enum": ["x" * 4_000]}
    running = tuple(experiment(f"e{number}", number / 40, (number + 1) / 40, segment=segment) for number in range(15))
    assert add_experiment(running[:-1], running[-1], TARGET) == running
    with pytest.raises(ExperimentError, match="the maximum is 65536"):
        add_experiment(running, experiment("more", 0.9, 1, segment=segment), TARGET)


def test_a_decision_ends_an_experiment_with_a_winner() -> None:
    first, second = experiment("first", 0, 0.5), experiment("second", 0.5, 1)
    rest, ended = end_experiment((first, second), "first", TARGET, winner="b")
    assert rest == (second,)
    assert (ended.id, ended.state, ended.winner) == (first.id, ExperimentState.DECIDED, "b")


def test_a_stop_ends_it_without_one() -> None:
    rest, ended = end_experiment((experiment("first"),), "first", TARGET)
    assert rest == ()
    assert (ended.state, ended.winner) == (ExperimentState.STOPPED, "")


def test_what_does_not_run_can_not_end() -> None:
    running = (experiment("first"),)
    with pytest.raises(
        ExperimentNotFoundError, match=r"No experiment 'frist' runs on session:shop. Did you mean 'first'"
    ):
        end_experiment(running, "frist", TARGET)
    with pytest.raises(ExperimentError, match="'z' is none of its arms"):
        end_experiment(running, "first", TARGET, winner="z")


def test_an_event_is_read_as_it_was_written() -> None:
    ended = end_experiment((experiment("first"),), "first", TARGET, winner="b")[1]
    event = ExperimentEvent("decided", ended, "ann", "clear")
    fields = {"kind": "decided", "experiment": event.encode_experiment(), "author": "ann", "reason": "clear", "at": "5"}
    read = ExperimentEvent.decode(b"7-0", {name.encode(): value.encode() for name, value in fields.items()})
    assert read == ExperimentEvent("decided", ended, "ann", "clear", 5e-6, "7-0")

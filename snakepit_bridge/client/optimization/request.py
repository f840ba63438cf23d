"""What is optimized, and on what, and the check of its examples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import dspy

from snakepit_bridge.client.optimization.budget import Budget
from snakepit_bridge.client.optimization.optimizers import OptimizerSpec
from snakepit_bridge.client.options import check_priority
from snakepit_bridge.exceptions import OptimizationError
from snakepit_bridge.programs.registry import Program


@dataclass(frozen=True, slots=True)
class OptimizationRequest:
    """What is optimized, and on what.

    Attributes:
        program: the program that it begins with.
        trainset, valset: examples with inputs; None for no validation set.
        metric: scores a prediction.
        optimizer: finds better programs.
        budget: where it ends.
        session: whose variables the predictions run under.
        in_flight: predictions at a time.
        priority: of the predictions, 0 to 9.
        run_id: names the run; a run that is started again under its id goes on where it was.
        wait_s: seconds to wait for one prediction.
        token: the session's revision; the one that it has at the start if empty.
        trainset_name, valset_name: what they are called in the record; the number of the examples if empty.
        metric_name: what the metric is called there.
    """

    program: Program
    trainset: Sequence[Any]
    metric: Callable[..., Any]
    optimizer: OptimizerSpec
    valset: Sequence[Any] | None = None
    budget: Budget = field(default_factory=Budget)
    session: str = "default"
    in_flight: int = 100
    priority: int = 0
    run_id: str = ""
    wait_s: float = 600.0
    token: str = ""
    trainset_name: str = ""
    valset_name: str = ""
    metric_name: str = ""

    def __post_init__(self) -> None:
        # Optimizers take what a submit refuses for examples that failed, and go on.
        try:
            check_priority(self.priority)
        except ValueError as exc:
            raise OptimizationError("priority", str(exc)) from None


def check_examples(request: OptimizationRequest) -> None:
    """Refuse a training or validation set by which the program can't be optimized.

    Raises:
        OptimizationError: it is empty, an example's inputs aren't marked, or they aren't the program's.
    """
    if not request.trainset:
        raise OptimizationError("trainset", "it is empty")
    for name, examples in (("trainset", request.trainset), ("valset", request.valset or ())):
        for number, example in enumerate(examples):
            # A program without inputs has examples that mark none: `example.with_inputs()`.
            if not isinstance(example, dspy.Example) or getattr(example, "_input_keys", None) is None:
                raise OptimizationError(
                    f"{name}[{number}]", "it must be a dspy.Example whose inputs are marked: example.with_inputs(…)"
                )
    _check_inputs(request)


def _check_inputs(request: OptimizationRequest) -> None:
    """Refuse examples that lack an input of the program, or have another one."""
    signature = request.program.spec.signature
    if signature is None:
        return
    fields = [field for field in signature.fields if field.direction == "input"]
    known, required = {field.name for field in fields}, {field.name for field in fields if not field.has_default}
    for name, examples in (("trainset", request.trainset), ("valset", request.valset or ())):
        for number, example in enumerate(examples):
            found: Mapping[str, Any] = example.inputs().toDict()
            if not required <= set(found) <= known:
                raise OptimizationError(
                    f"{name}[{number}]",
                    f"its inputs are {_list_names(found)}, and the program's are {_list_names(known)}",
                )


def _list_names(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"

"""What does it cost to have a program ready, from nothing, again, and under a changed value?

Microseconds of CPU per module type, medians of several rounds:

    cold_us        a spec that this process has never seen, to a bound program
    warm_us        the same program under the same values: the lookup that every prediction makes
    rebind_us      the same program under a changed value: a structural clone with the value applied
    deepcopy_us    DSPy's own ``deepcopy`` of the module, which a rebind replaces
    load_state_us  DSPy's own ``load_state`` into a new module, which a rehydration replaces

Stderr tells how much the process grew over many rebinds with values that all differ, once the cache was full. No LM is
called.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any, cast

import dspy
import psutil
from pydantic import SecretStr

from snakepit_bridge.dspy_integration import ChainOfThoughtWithHint, Ensemble
from snakepit_bridge.lm.profiles import LMProfile, LMProfiles
from snakepit_bridge.programs.bound import BoundPrograms
from snakepit_bridge.programs.build import serialize_module
from snakepit_bridge.programs.imports import AllowedImports
from snakepit_bridge.programs.registry import Program
from snakepit_bridge.programs.spec import ProgramSpec, digest
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.snapshots.snapshot import Snapshot
from snakepit_bridge.variables import Variable

SIGNATURE = "question, context: list[str] -> answer: float, label: Literal['sure', 'unsure']"


def look_up(word: str) -> str:
    """Look a word up."""
    return word


def count(items: list[str]) -> int:
    """Count items."""
    return len(items)


def reward(inputs: dict[str, Any], prediction: Any) -> float:
    """Reward any answer."""
    return 1.0


class Pipeline(dspy.Module):
    """Five predictors, as an application's own composite has them."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = [dspy.Predict(SIGNATURE) for _ in range(5)]

    def forward(self, **inputs: Any) -> Any:
        return [step(**inputs) for step in self.steps][-1]


def _best(kind: Any) -> Any:
    return kind(dspy.ChainOfThought(SIGNATURE), N=3, reward_fn=reward, threshold=1.0)


MODULES: dict[str, Callable[[], Any]] = {
    "Predict": lambda: dspy.Predict(SIGNATURE),
    "ChainOfThought": lambda: dspy.ChainOfThought(SIGNATURE),
    "ChainOfThoughtWithHint": lambda: ChainOfThoughtWithHint(SIGNATURE),
    "ReAct": lambda: dspy.ReAct(cast(Any, SIGNATURE), tools=[look_up, count]),
    "ReActV2": lambda: dspy.ReActV2(cast(Any, SIGNATURE), tools=[look_up, count]),
    "ProgramOfThought": lambda: dspy.ProgramOfThought(SIGNATURE),
    "CodeAct": lambda: dspy.CodeAct(SIGNATURE, tools=[look_up, count]),
    "MultiChainComparison": lambda: dspy.MultiChainComparison(SIGNATURE),
    "BestOfN": lambda: _best(dspy.BestOfN),
    "Refine": lambda: _best(dspy.Refine),
    "RLM": lambda: dspy.RLM(SIGNATURE, tools=[look_up]),
    "Flex": lambda: dspy.Flex(SIGNATURE, tools=[look_up]),
    "Ensemble": lambda: Ensemble([dspy.Predict(SIGNATURE), dspy.ChainOfThought(SIGNATURE)], reduce_fn=dspy.majority),
    "Pipeline": Pipeline,
}

_ROUNDS = 7
_REBINDS = 100_000


def run() -> dict[str, Any]:
    """Return the figures of each module type."""
    figures = {name: _figures(build) for name, build in MODULES.items()}
    sys.stderr.write(f"rehydrate: grew by {_growth_kb()} kB over {_REBINDS} rebinds\n")
    return figures


def _figures(build: Callable[[], Any]) -> dict[str, float]:
    module = build()
    program = _program(module)
    values = iter(range(1, 1_000_000))
    ready = _programs()
    ready.bind(program, _snapshot(0))
    same = _snapshot(0)
    state = module.dump_state()
    return {
        "cold_us": _us(lambda _: _programs().bind(program, same), 5),
        "warm_us": _us(lambda _: ready.bind(program, same), 2_000),
        "rebind_us": _us(lambda snapshot: ready.bind(program, snapshot), 200, lambda: _snapshot(next(values))),
        "deepcopy_us": _us(lambda _: module.deepcopy(), 100),
        "load_state_us": _us(lambda fresh: fresh.load_state(state), 5, build),
    }


def _us(act: Callable[[Any], Any], count: int, prepare: Callable[[], Any] = lambda: None) -> float:
    """CPU microseconds of one act; what it acts on is made beforehand, and the first round isn't counted."""
    rounds: list[float] = []
    for _ in range(_ROUNDS + 1):
        things = [prepare() for _ in range(count)]
        gc.collect()
        began = time.process_time_ns()
        for thing in things:
            act(thing)
        rounds.append((time.process_time_ns() - began) / count / 1_000)
    return round(median(rounds[1:]), 2)


def _growth_kb() -> int:
    """Kilobytes that the process grows by between a full cache and the end of many more rebinds."""
    ready, program = _programs(), _program(dspy.ChainOfThought("question -> answer"))
    process = psutil.Process()
    for number in range(_REBINDS // 10):
        ready.bind(program, _snapshot(number))
    gc.collect()
    before = process.memory_info().rss
    for number in range(_REBINDS // 10, _REBINDS):
        ready.bind(program, _snapshot(number))
    gc.collect()
    return (process.memory_info().rss - before) // 1024


def _programs() -> BoundPrograms:
    profile = LMProfile("bench", "openai/bench", "http://127.0.0.1:1/v1", SecretStr("none-needed"))
    return BoundPrograms(LMProfiles([profile]), AllowedImports((__name__,)))


def _program(module: Any) -> Program:
    spec = serialize_module(module, program="bench", bindings={"temperature": "temperature"})
    encoded = spec.encode()
    return Program("bench", 1, digest(encoded), ProgramSpec.parse(encoded, program="bench"))


def _snapshot(number: int) -> Snapshot:
    """Return a session with a temperature of its own for each number."""
    value = Variable.declare("temperature", number / _REBINDS)
    return Snapshot("bench", Token(1, number + 1), {"temperature": value}, confirmed_at=0.0)

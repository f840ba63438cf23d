"""Prints by how many bytes a process grows that binds a program to ever new values; its argument is how often."""

from __future__ import annotations

import gc
import sys
import tracemalloc

import dspy
from pydantic import SecretStr

from snakepit_bridge.lm.profiles import LMProfile, LMProfiles
from snakepit_bridge.programs import bound
from snakepit_bridge.programs.build import serialize_module
from snakepit_bridge.programs.imports import AllowedImports
from snakepit_bridge.programs.registry import Program
from snakepit_bridge.programs.spec import digest
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.snapshots.snapshot import Snapshot
from snakepit_bridge.variables import Variable


def grown(rebinds: int) -> int:
    """Return the growth after the cache is full."""
    bound._MAX_BOUND = 64
    profiles = LMProfiles([LMProfile("fast", "openai/demo", "http://127.0.0.1:1/v1", SecretStr("k"))])
    known = bound.BoundPrograms(profiles, AllowedImports(()))
    spec = serialize_module(dspy.ChainOfThought("question -> answer"), program="qa", bindings={"seed": "n"})
    program = Program("qa", 1, digest(spec.encode()), spec)

    def rebind(numbers: range) -> None:
        for n in numbers:
            known.bind(program, Snapshot("s", Token(1, 1), {"n": Variable.declare("n", n)}, confirmed_at=0.0))
        gc.collect()

    rebind(range(1_000))
    tracemalloc.start()
    rebind(range(1_000, 1_200))
    before, _ = tracemalloc.get_traced_memory()
    rebind(range(1_200, 1_200 + rebinds))
    return tracemalloc.get_traced_memory()[0] - before


if __name__ == "__main__":
    print(grown(int(sys.argv[1])))

"""The module classes of the installed DSPy that a type checker can't see as classes.

DSPy decorates them as experimental, and exports KNN and Parallel lazily; at run time each is the class itself.
"""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from typing import Any, cast

import dspy
from dspy.predict.knn import KNN as _KNN
from dspy.predict.parallel import Parallel as _Parallel

ReActV2 = cast(type[Any], dspy.ReActV2)
RLM = cast(type[Any], dspy.RLM)
Flex = cast(type[Any], dspy.Flex)
Parallel = cast(type[Any], _Parallel)
KNN = cast(type[Any], _KNN)

_EXTRAS = {
    "deno": "ProgramOfThought, CodeAct, RLM and Flex can't run the code that an LM writes in their sandbox",
    "numpy": "KNN can't compare examples",
    "optuna": "the optimizer MIPROv2 can't search",
}


def missing() -> dict[str, str]:
    """Return which of DSPy's extras aren't installed here, with what can't be done without each and the remedy."""
    return {
        extra: f"{without}; pip install 'dspy[{extra}]'"
        for extra, without in _EXTRAS.items()
        if find_spec(extra) is None and not (extra == "deno" and shutil.which("deno"))
    }

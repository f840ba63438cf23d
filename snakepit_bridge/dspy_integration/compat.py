"""What is private to DSPy 3.4 and used all the same: everything that a release of DSPy may move, in one place.

DSPy gives no public way to exchange an agent's tools, a Flex's code or an interpreter once a module is built. What a
type checker can't see as classes is here too: DSPy decorates them as experimental, and exports KNN and Parallel lazily.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import os
import shutil
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast
from weakref import WeakSet

import dspy
from dspy.adapters import utils as _adapter_utils
from dspy.predict.flex.ctx import FlexContext
from dspy.predict.knn import KNN as _KNN
from dspy.predict.parallel import Parallel as _Parallel
from dspy.primitives import python_interpreter
from tqdm import tqdm

ReActV2 = cast(type[Any], dspy.ReActV2)
RLM = cast(type[Any], dspy.RLM)
Flex = cast(type[Any], dspy.Flex)
Parallel = cast(type[Any], _Parallel)
KNN = cast(type[Any], _KNN)

settings_module = cast(Any, importlib.import_module("dspy.dsp.utils.settings"))
"""DSPy's settings, whose defaults and overrides have no public name."""


def repair_json(text: str) -> Any:
    """Return the JSON value of an LM's text, mended where it can be, as DSPy's parser does; '' where it can't."""
    return cast(Any, _adapter_utils).json_repair.loads(text)


# ---------------------------------------------------------------- interpreters, tools


def find_deno() -> str:
    """Return the Deno that DSPy runs: that of the ``deno`` package, or one on the PATH."""
    return cast(Any, python_interpreter)._find_deno_executable()


def find_deno_cache(deno: str) -> str:
    """Return the folder in which a Deno keeps what it has loaded, without symbolic links; empty if it doesn't say."""
    cache = cast(Any, dspy.PythonInterpreter)._get_deno_dir(deno)
    return os.path.realpath(cache) if cache else ""


def find_sandbox_runner() -> str:
    """Return the script by which DSPy runs Python in Deno, without symbolic links."""
    return os.path.realpath(Path(python_interpreter.__file__).with_name("runner.js"))


def get_interpreter_factory(module: Any) -> Any:
    """Return what makes the interpreter of a module that runs code."""
    return module._interpreter_factory


def set_interpreter_factory(module: Any, factory: Any) -> None:
    """Give a copied module that runs code another interpreter."""
    module._interpreter_factory = factory
    if isinstance(module, Flex):
        module._rebuild_bridge()
        module._bridge.bind(module.module_src)


def validate_tool_arguments(tool: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a tool's call as DSPy checks and converts them."""
    return tool._validate_and_parse_args(**arguments)


def get_rlm_tools(rlm: Any) -> dict[str, Any]:
    """Return the tools that an RLM was built with, by name."""
    return rlm._user_tools


def set_rlm_tools(rlm: Any, tools: dict[str, Any]) -> None:
    """Give a copied RLM other tools, once it has checked that their names are free."""
    rlm._validate_namespace(tools)
    rlm._user_tools = tools


def build_rlm_signatures(rlm: Any) -> tuple[Any, Any]:
    """Return the signatures of an RLM's action and of its extraction, built anew; the RLM changes."""
    return rlm._build_signatures()


def build_code_act_instructions(code_act: Any) -> list[str]:
    """Return the lines of a CodeAct's instructions for its present tools."""
    return code_act._build_instructions(code_act.signature, code_act.tools)


# ---------------------------------------------------------------- Parallel


class _ForgivingWeakSet(WeakSet[Any]):
    """A set from which a missing item can be removed."""

    remove = WeakSet.discard


def tolerate_concurrent_progress_bars() -> None:
    """Let several ``dspy.Parallel`` run in this process at a time.

    Each forgets the progress bars of all others when it starts, upon which tqdm fails to remove its own.
    """
    bars = cast(Any, tqdm)
    if not isinstance(bars._instances, _ForgivingWeakSet):
        bars._instances = _ForgivingWeakSet(bars._instances)


# ---------------------------------------------------------------- KNNFewShot


def find_knn_few_shot(module: Any) -> tuple[Any, Any, Any] | None:
    """Return the optimizer, the student and the teacher of a module that DSPy's KNNFewShot compiled; None for others.

    It replaces the ``forward`` of a copy by a function that holds all three.
    """
    forward = getattr(vars(module).get("forward"), "__func__", None)
    if getattr(forward, "__code__", None) not in _FEW_SHOT_FORWARDS:
        return None
    held = inspect.getclosurevars(cast(Any, forward)).nonlocals
    return held["self"], held["student"], held["teacher"]


_FEW_SHOT_FORWARDS = frozenset(
    code
    for code in inspect.unwrap(dspy.KNNFewShot.compile).__code__.co_consts
    if getattr(code, "co_name", "") == "forward_pass"
)


# ---------------------------------------------------------------- Flex


def adopt_flex(copied: Any, original: Any) -> None:
    """Give a copied Flex its own bridge: it runs through one that knows its owner."""
    copied._bridge = copy.copy(original._bridge)
    copied._bridge._flex = copied


def rebuild_flex(flex: Any, signature: Any, tools: list[Any]) -> None:
    """Start a copied Flex, which must still run its baseline, from another signature or other tools."""
    flex._signature_cls = signature
    flex._flex_ctx = FlexContext(signature_cls=signature, tools=tools)
    flex._bind_code(flex._baseline_src())


def runs_baseline(flex: Any) -> bool:
    """Check whether a Flex runs what it was built with; an optimizer's code holds its own words and tools."""
    return flex.module_src == flex._baseline_src()


def get_flex_tools(flex: Any) -> dict[str, Any]:
    """Return a Flex's tools by the names that its code calls them by."""
    return flex._flex_ctx.context_names()


def list_flex_tools(flex: Any) -> list[Any]:
    """Return a Flex's tools as it was given them."""
    return list(flex._flex_ctx.tools)


def get_max_predictor_calls(flex: Any) -> int:
    """Return how many calls a Flex's code may make."""
    return flex._max_predictor_calls


def set_max_predictor_calls(flex: Any, value: int) -> None:
    """Set how many calls a copied Flex's code may make."""
    flex._bridge._max_predictor_calls = value
    flex._max_predictor_calls = value


# ---------------------------------------------------------------- extras

_EXTRAS = {
    "deno": "ProgramOfThought, CodeAct, RLM and Flex can't run the code that an LM writes in their sandbox",
    "numpy": "KNN and KNNFewShot can't compare examples",
    "optuna": "the optimizer MIPROv2 can't search",
}


def find_missing_extras() -> dict[str, str]:
    """Return which of DSPy's extras aren't installed here, with what can't be done without each and the remedy."""
    return {
        extra: f"{without}; pip install 'dspy[{extra}]'"
        for extra, without in _EXTRAS.items()
        if find_spec(extra) is None and not (extra == "deno" and shutil.which("deno"))
    }

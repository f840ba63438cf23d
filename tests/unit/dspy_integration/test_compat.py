"""DSPy as it is installed: its extras, and the private names that a release may move."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import operator
import shutil
from collections.abc import Callable
from typing import Any
from weakref import WeakSet

import dspy
import pytest
from dspy.lm15 import AsyncLMRouter, RouterConfig
from dspy.utils.parallelizer import ParallelExecutor
from tqdm import tqdm

from snakepit_bridge.dspy_integration import compat


def test_a_missing_extra_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compat, "find_spec", lambda name: None)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert set(compat.find_missing_extras()) == {"deno", "numpy", "optuna"}
    assert "pip install 'dspy[deno]'" in compat.find_missing_extras()["deno"]


def test_a_deno_of_the_system_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compat, "find_spec", importlib.util.find_spec)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    assert "deno" not in compat.find_missing_extras()


@pytest.mark.parametrize("kind", [compat.ReActV2, compat.RLM, compat.Flex, compat.KNN, compat.Parallel])
def test_they_are_classes(kind: Any) -> None:
    assert isinstance(kind, type)
    assert getattr(dspy, kind.__name__) is kind


MODULES = [
    "dspy._vendor.lm15.providers.base:HttpResponse",
    "dspy._vendor.lm15.registry:lookup",
    "dspy._vendor.lm15.serde:request_to_dict",
    "dspy._vendor.lm15.serde:response_from_dict",
    "dspy._vendor.lm15.serde:response_to_dict",
    "dspy._vendor.lm15.transports:StdlibAsyncTransport",
    "dspy._vendor.lm15.transports._async:_AsyncConnection",
    "dspy._vendor.lm15.transports._async:_AsyncConnectionPool",
    "dspy.clients.backend_selection:CLIENT_KEYS",
    "dspy.clients.backend_selection:select_backend",
    "dspy.clients.call_context:stream_emitted",
    "dspy.clients.engines.litellm_engine:AsyncLiteLLMEngine._arguments",
    "dspy.clients.engines.lm15_engine:validate_request",
    "dspy.dsp.utils.settings:DEFAULT_CONFIG",
    "dspy.dsp.utils.settings:Settings._ensure_configure_allowed",
    "dspy.dsp.utils.settings:main_thread_config",
    "dspy.dsp.utils.settings:thread_local_overrides",
    "dspy.predict.flex.ctx:FlexContext.context_names",
    "dspy.predict.knn:KNN",
    "dspy.predict.parallel:Parallel",
    "dspy.primitives.python_interpreter:PythonInterpreter._get_deno_dir",
    "dspy.primitives.python_interpreter:_find_deno_executable",
]


@pytest.mark.parametrize("path", MODULES)
def test_a_private_name_is_where_it_was(path: str) -> None:
    module, _, names = path.partition(":")
    assert operator.attrgetter(names)(importlib.import_module(module)) is not None


def search(query: str) -> str:
    """Search."""
    return query


INSTANCES: dict[str, tuple[Callable[[], Any], list[str]]] = {
    "CodeAct": (lambda: dspy.CodeAct("question -> answer", [search]), ["_build_instructions", "_interpreter_factory"]),
    "Flex": (
        lambda: compat.Flex("question -> answer", tools=[search]),
        [
            *("_baseline_src", "_bind_code", "_flex_ctx.tools", "_interpreter_factory", "_max_predictor_calls"),
            *("_rebuild_bridge", "_signature_cls", "_bridge._flex", "_bridge._max_predictor_calls", "_bridge.bind"),
        ],
    ),
    "ProgramOfThought": (lambda: dspy.ProgramOfThought("question -> answer"), ["_interpreter_factory"]),
    "RLM": (
        lambda: compat.RLM("question -> answer", tools=[search]),
        ["_build_signatures", "_interpreter_factory", "_user_tools", "_validate_namespace"],
    ),
    "Tool": (lambda: dspy.Tool(search), ["_validate_and_parse_args"]),
    "lm15 client": (
        lambda: AsyncLMRouter(RouterConfig(api_keys={"openai": "key"})).lm("openai:any"),
        ["_inner.parse_response"],
    ),
}


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, (_, names) in INSTANCES.items() for name in names])
def test_a_private_attribute_is_still_there(kind: str, name: str) -> None:
    build, _ = INSTANCES[kind]
    operator.attrgetter(name)(build())


def test_progress_bars_of_several_parallels_do_not_fail_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    bars: Any = tqdm
    monkeypatch.setattr(bars, "_instances", WeakSet())
    bar = bars.__new__(bars)
    bars._instances.clear()  # what another Parallel does when it starts
    with pytest.raises(KeyError):
        bar.__init__(total=1, disable=True)
    compat.tolerate_concurrent_progress_bars()
    bar = bars.__new__(bars)
    bars._instances.clear()
    bar.__init__(total=1, disable=True)
    assert "tqdm.tqdm._instances.clear()" in inspect.getsource(ParallelExecutor.execute), "DSPy has mended it"

"""DSPy's process-wide settings on a worker, where no program may change them for the others.

``dspy.configure`` at the import of a user's package, in a constructor or in a ``forward`` is usual in a script. On a
worker it would change the prompts of every other program. So there it applies to the code that configured it, while
that runs, and to nothing else; and each prediction starts from DSPy's own defaults.
"""

from __future__ import annotations

import copy
import logging
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, cast

import dspy
from dspy.dsp.utils.utils import dotdict

from snakepit_bridge.dspy_integration.compat import settings_module
from snakepit_bridge.dspy_integration.sandbox import SANDBOX
from snakepit_bridge.process.frames import unmarked

_log = logging.getLogger(__name__)

# Code that an LM has written runs under limits, in programs that name no interpreter of their own.
_OWN_DEFAULTS: dict[str, Any] = {"interpreter_factory": SANDBOX}

# A default that a program could change for the others; each prediction gets a copy.
_LISTS = tuple(name for name, value in settings_module.DEFAULT_CONFIG.items() if isinstance(value, list))

_dotdict = cast(type[dict[str, Any]], dotdict)


class _Protected(_dotdict):
    """DSPy's defaults. A write applies to the writer's own context instead."""

    def __setitem__(self, name: str, value: Any) -> None:
        overrides = settings_module.thread_local_overrides
        overrides.set(type(overrides.get())({**overrides.get(), name: value}))
        _warn_once(f"dspy.configure({name}=…)")

    def update(self, *args: Any, **kwargs: Any) -> None:
        for name, value in dict(*args, **kwargs).items():
            self[name] = value

    __setattr__ = __setitem__


def protect_settings() -> None:
    """Keep DSPy's settings and caches of this process as they are from now on, whatever configures them."""
    if isinstance(settings_module.main_thread_config, _Protected):
        return
    settings_module.main_thread_config = _Protected({**copy.deepcopy(settings_module.DEFAULT_CONFIG), **_OWN_DEFAULTS})
    # Any thread and any task may configure, since it only affects its own context.
    settings_module.Settings._ensure_configure_allowed = _allow_configure
    for home in (dspy, dspy.clients):
        if hasattr(home, "configure_cache"):
            setattr(home, "configure_cache", _ignore_cache)  # noqa: B010


def set_process_default(name: str, value: Any) -> None:
    """Set the default of a setting in a process whose settings are protected, for code outside of any prediction."""
    dict.__setitem__(settings_module.main_thread_config, name, value)


def are_protected() -> bool:
    """Check whether this process keeps DSPy's settings as they are."""
    return isinstance(settings_module.main_thread_config, _Protected)


@contextmanager
def default_settings() -> Generator[None]:
    """Run the block under DSPy's defaults and undo what it configures; do nothing in a user's own process."""
    if not are_protected():
        yield
        return
    overrides = settings_module.thread_local_overrides
    fresh: dict[str, Any] = type(overrides.get())(settings_module.DEFAULT_CONFIG, **_OWN_DEFAULTS)
    for name in _LISTS:
        fresh[name] = [*fresh[name]]
    token = overrides.set(fresh)
    try:
        yield
    finally:
        overrides.reset(token)


@contextmanager
def isolate_import(module_name: str) -> Generator[None]:
    """Run the import of a user's module within the block: what it configures applies to the import alone.

    A thread that it starts doesn't belong to the prediction that triggered the import.
    """
    with default_settings(), unmarked():
        yield


def _allow_configure(_: Any) -> None:
    return None


def _ignore_cache(*_: Any, **__: Any) -> None:
    """Keep DSPy's caches off: a cached answer could come from another revision than the provenance names."""
    _warn_once("dspy.configure_cache(…)")


_reported: set[tuple[str, str]] = set()


def _warn_once(what: str) -> None:
    """Log once for each caller that the call had no effect."""
    where = _find_caller()
    if (what, where) in _reported or len(_reported) > 1_000:
        return
    _reported.add((what, where))
    _log.warning(
        "%s in %s had no effect beyond itself: a worker runs each prediction under DSPy's defaults. "
        "Set it in the program's bindings, in its LM profile, or with dspy.context(…) in its forward.",
        what,
        where,
    )


def _find_caller() -> str:
    frame = sys._getframe(2)  # pyright: ignore[reportPrivateUsage]
    while frame.f_back is not None and frame.f_globals.get("__name__") in (settings_module.__name__, __name__):
        frame = frame.f_back
    return str(frame.f_globals.get("__name__", "?"))

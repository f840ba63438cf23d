"""Which code may be named by import path: that of the packages that an operator allows, as a spec is untrusted."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from snakepit_bridge.dspy_integration.process_settings import isolate_import
from snakepit_bridge.exceptions import ConfigurationError, ProgramSpecError, join_names


@dataclass(frozen=True, slots=True)
class AllowedImports:
    """The packages whose classes, tools, types and middleware may be named by import path.

    Attributes:
        packages: package or module names; each includes its submodules.
    """

    packages: tuple[str, ...] = ()

    def load(self, path: str, *, program: str, where: str) -> Any:
        """Return the object at an import path for a program.

        Raises:
            ProgramSpecError: the path is malformed, not allowed, or can't be imported.
        """
        try:
            return self.find(path)
        except ValueError as exc:
            raise ProgramSpecError(program, where, str(exc)) from exc.__cause__

    def find(self, path: str) -> Any:
        """Return the object at ``package.module:Name``, or at ``package.module.Name`` where a colon isn't possible.

        The object must be *defined* in an allowed package: what a module merely imports, such as ``os``, can't be
        reached through it.

        Raises:
            ValueError: the path is malformed, not allowed, or can't be imported.
        """
        module_name, attributes = _parse(path)
        found = self.load_module(module_name, path)
        try:
            for name in attributes:
                found = getattr(found, name)
            home: object = getattr(found, "__module__", None)
        except Exception as exc:  # a module's own __getattr__, or a proxy's, may import, and raise, anything
            raise _import_error(path, exc) from exc
        if not (isinstance(home, str) and self._allows(home)):
            raise ValueError(f"'{path}' is only imported there, it is defined elsewhere")
        return found

    def load_module(self, name: str, path: str = "") -> Any:
        """Import a module of an allowed package and return it.

        Args:
            name: its dotted name.
            path: the import path that it is part of, for the error.

        Raises:
            ValueError: the module isn't in an allowed package, or can't be imported.
        """
        if not self._allows(name):
            raise ValueError(
                f"'{path or name}' isn't in an allowed package ({join_names(self.packages)}); allow it in the settings"
                ": DSPEX_ALLOWED_PACKAGES of a worker, allowed_packages= of a client's Fleet"
            )
        try:
            with isolate_import(name):
                return importlib.import_module(name)
        except Exception as exc:
            # An allowed module runs its own code when it is first imported, which may raise anything.
            raise _import_error(path or name, exc) from exc

    def load_modules(self, names: Iterable[str]) -> None:
        """Import the modules that register the user's targets, tools and the like, as DSPEX_IMPORTS lists them.

        Raises:
            ConfigurationError: a module isn't in an allowed package, or can't be imported.
        """
        for name in names:
            try:
                self.load_module(name)
            except ValueError as exc:
                raise ConfigurationError(f"DSPEX_IMPORTS names a module that can't be used: {exc}.") from exc

    def _allows(self, module_name: str) -> bool:
        return any(module_name == package or module_name.startswith(f"{package}.") for package in self.packages)


def _parse(path: str) -> tuple[str, list[str]]:
    module_name, colon, rest = path.partition(":")
    if not colon:
        module_name, rest = split_at_class(path)
    names = rest.split(".")
    steps = [*module_name.split("."), *names]
    if len(path) > 300 or not all(step.isidentifier() and not step.startswith("_") for step in steps):
        raise ValueError(f"{path[:80]!r} isn't an import path of public names, like package.module:Name")
    return module_name, names


def _import_error(path: str, exc: Exception) -> ValueError:
    return ValueError(f"'{path}' can't be imported here: {type(exc).__name__}: {exc}")


def split_at_class(path: str) -> tuple[str, str]:
    """Split a dotted path before its first capitalised name, so that ``module.Outer.Inner`` is found."""
    names = path.split(".")
    first = next((i for i, name in enumerate(names) if name[:1].isupper()), len(names) - 1)
    return ".".join(names[:first]), ".".join(names[first:])


def import_path(thing: Any) -> str:
    """Return ``package.module:Name`` of a class or function, for a spec."""
    return f"{thing.__module__}:{thing.__qualname__}"

"""Server-side Lua scripts: each in a ``.lua`` file of its own, beside the code that runs it.

A script whose first line is ``-- needs: a, b`` is prefixed with the text of ``a.lua`` and ``b.lua``, since Redis
scripts can't import each other. A library of another package of this library is named by its path: ``redis/audit``.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

_NEEDS = re.compile(r"-- needs: (.+)")


@dataclass(frozen=True, slots=True)
class Script:
    """A server-side script. Run it with :meth:`RedisConnection.run` or :meth:`RedisConnection.execute_script`.

    Attributes:
        text: Lua source. It must be idempotent, since a lost reply makes the client send it again.
        sha: SHA-1 of the text, by which the server knows it (``EVALSHA``).
    """

    text: str
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sha", hashlib.sha1(self.text.encode()).hexdigest())


class ScriptPackage:
    """The Lua scripts of one Python package, by name: ``ScriptPackage("tasks.response_cache.lua")["claim"]``.

    Args:
        package: the package that contains the ``.lua`` files.
        libraries: Lua text of libraries that live elsewhere, by name.
    """

    def __init__(self, package: str, **libraries: str) -> None:
        self._package = package
        self._libraries = libraries
        self._scripts: dict[str, Script] = {}

    def __getitem__(self, name: str) -> Script:
        """Return the script of this name, with the libraries that it needs.

        Raises:
            FileNotFoundError: the package has no such script.
        """
        script = self._scripts.get(name)
        if script is None:
            script = self._scripts[name] = Script(source(self._package, name, **self._libraries))
        return script


def source(package: str, script: str, **libraries: str) -> str:
    """Return the full source of a script: each library that it needs, once, followed by the script itself.

    Args:
        package: the package that contains its file and those of its libraries.
        script: its name.
        libraries: Lua text of libraries that live elsewhere, by name.

    Raises:
        FileNotFoundError: there is no such script.
    """
    ordered = _ordered(package, script, libraries)
    return "\n".join(libraries[name] if name in libraries else _text(package, name) for name in ordered)


def _ordered(package: str, script: str, libraries: dict[str, str]) -> dict[str, None]:
    """Return the script and its libraries in the order of their texts."""
    needs = None if script in libraries else _NEEDS.match(_text(package, script))
    ordered: dict[str, None] = {}
    for name in needs[1].split(",") if needs else ():
        ordered |= _ordered(package, name.strip(), libraries)
    return ordered | {script: None}


@cache
def _text(package: str, script: str) -> str:
    folder, slash, name = script.rpartition("/")
    if slash:
        package, script = f"snakepit_bridge.{folder}", name
    return (files(package) / f"{script}.lua").read_text(encoding="utf-8")

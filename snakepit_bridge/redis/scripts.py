"""Server-side scripts: each in a ``.lua`` file of its own, beside the code that runs it, and put together here.

A script whose first line reads ``-- needs: a, b`` runs below the text of ``a.lua`` and ``b.lua``, since Redis gives
scripts no way to import one another.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

_NEEDS = re.compile(r"-- needs: (.+)")


def source(package: str, script: str, **handed_in: str) -> str:
    """Returns the whole text of a script: what it needs, each library once, and itself.

    Args:
        package: where its file stands, and those of what it needs.
        script: its name.
        handed_in: the texts of libraries that stand elsewhere, by name.

    Raises:
        FileNotFoundError: there is no such script.
    """
    ladder = _ladder(package, script, handed_in)
    return "\n".join(handed_in[name] if name in handed_in else _text(package, name) for name in ladder)


def _ladder(package: str, script: str, handed_in: dict[str, str]) -> dict[str, None]:
    """The script's libraries in the order in which they must stand, and the script."""
    needs = None if script in handed_in else _NEEDS.match(_text(package, script))
    ladder: dict[str, None] = {}
    for name in needs[1].split(",") if needs else ():
        ladder |= _ladder(package, name.strip(), handed_in)
    return ladder | {script: None}


@cache
def _text(package: str, script: str) -> str:
    return (files(package) / f"{script}.lua").read_text(encoding="utf-8")

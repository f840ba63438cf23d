"""The limits' server-side scripts, each in a ``.lua`` file of its own.

A script whose first line reads ``-- needs: a, b`` runs below the text of ``a.lua`` and ``b.lua``. ``claim_take`` is the
broker transport's own library; its text is handed in.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

_NEEDS = re.compile(r"-- needs: (.+)")


def source(script: str, **handed_in: str) -> str:
    """Returns the whole text of a script: what it needs, each library once, and itself.

    Raises:
        FileNotFoundError: there is no such script.
    """
    return "\n".join(handed_in[name] if name in handed_in else _text(name) for name in _ladder(script, handed_in))


def _ladder(script: str, handed_in: dict[str, str]) -> dict[str, None]:
    """The script's libraries in the order in which they must stand, and the script."""
    needs = None if script in handed_in else _NEEDS.match(_text(script))
    ladder: dict[str, None] = {}
    for name in needs[1].split(",") if needs else ():
        ladder |= _ladder(name.strip(), handed_in)
    return ladder | {script: None}


@cache
def _text(script: str) -> str:
    return (files(__name__) / f"{script}.lua").read_text(encoding="utf-8")

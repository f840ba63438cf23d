"""The store's server-side scripts: each in a ``.lua`` file of its own, put together here.

A script whose first line reads ``-- needs: a, b`` runs below the text of ``a.lua`` and ``b.lua``, since Redis gives
scripts no way to import one another.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

SCRIPTS = (
    "checks", "confirm", "confirm_all", "declare", "drop", "fence", "head", "heads", "history", "label", "labels",
    "prune", "publish", "read", "read_at", "retain", "rollback", "turn", "unlabel",
)  # fmt: skip

_NEEDS = re.compile(r"-- needs: (.+)")


@cache
def source(script: str) -> str:
    """Returns the whole text of a script, what it needs included.

    Raises:
        FileNotFoundError: there is no such script.
    """
    text = (files(__name__) / f"{script}.lua").read_text(encoding="utf-8")
    needs = _NEEDS.match(text)
    parts = [source(name.strip()) for name in needs[1].split(",")] if needs else []
    return "\n".join([*parts, text])

"""What a forked child must forget of its parent; on systems that don't fork there is nothing to forget."""

from __future__ import annotations

import os
from collections.abc import Callable


def after_fork_in_child(forget: Callable[[], None]) -> None:
    """Have a function called in each forked child; without effect where there is no fork, as on Windows."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=forget)

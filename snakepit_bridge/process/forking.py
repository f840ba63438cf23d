"""Registration of functions that reset a forked child's state."""

from __future__ import annotations

import os
from collections.abc import Callable


def after_fork_in_child(forget: Callable[[], None]) -> None:
    """Register a function to call in each forked child; no effect on systems without fork, such as Windows."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=forget)

"""The client's server-side scripts, and what theirs and the workers' have in common."""

from __future__ import annotations

from snakepit_bridge.redis import scripts
from snakepit_bridge.redis.connection import Script

ENDED = scripts.source(__name__, "ended")
"""Lua text that defines ``ended(stored)``, for scripts that must not change what a task ended with."""

CANCEL = Script(scripts.source(__name__, "cancel"))
ENQUEUE = Script(scripts.source(__name__, "enqueue"))

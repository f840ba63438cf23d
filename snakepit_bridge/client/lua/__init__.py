"""The client's server-side scripts, and what they have in common with the workers'."""

from __future__ import annotations

from snakepit_bridge.redis.scripts import ScriptPackage

SCRIPTS = ScriptPackage(__name__)

FINAL_STATE = SCRIPTS["final_state"].text
"""Lua text that defines ``final_state(stored)``, for scripts that must not change what a task ended with."""

"""The snapshot store's server-side scripts."""

from __future__ import annotations

from snakepit_bridge.redis.scripts import ScriptPackage

SCRIPTS = ScriptPackage(__name__)

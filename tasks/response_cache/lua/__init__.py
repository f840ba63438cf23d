"""The response cache's server-side scripts."""

from __future__ import annotations

from snakepit_bridge.redis.lease import LEASE_FUNCTIONS
from snakepit_bridge.redis.scripts import ScriptPackage

SCRIPTS = ScriptPackage(__name__, lease_functions=LEASE_FUNCTIONS)

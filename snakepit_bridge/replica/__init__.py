"""The replica: the snapshots that one process holds, so that a task needs no round trip to know its variables."""

from __future__ import annotations

from snakepit_bridge.replica.replica import Replica
from snakepit_bridge.replica.terms import FAIL, Outage, Served, Terms

__all__ = ["FAIL", "Outage", "Replica", "Served", "Terms"]

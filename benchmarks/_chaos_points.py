"""What both sides of the chaos benchmark know: the task, its queue, and the points at which a worker can die."""

from __future__ import annotations

TASK = "chaos.work"
QUEUE = "chaos"
CALLS = 3
"""LM calls of each task."""
POINTS = ("claimed", "called", "committed")

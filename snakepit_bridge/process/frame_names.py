"""How stack frames are named that show whose code runs. Apart from what names them, for a process without asyncio."""

from __future__ import annotations

PREFIX = "prediction "
"""Prefix of such frames' names; the space keeps it from being any function's real name."""

"""The fleet's own worker app, which records the entries into our files and tells them by remote control."""

from __future__ import annotations

from typing import Any

from celery.worker.control import inspect_command

from tests.harness.walk import EntryRecorder

recorder = EntryRecorder()  # before the app is imported, since its threads start with it

from workers.app import app  # noqa: E402

__all__ = ["app"]


@inspect_command()  # pyright: ignore[reportUntypedFunctionDecorator]
def entered_files(_: Any, starts: list[float]) -> list[str]:
    """Return the files that were entered between every two of these times."""
    return recorder.files_of_each(starts)

"""Chromium for the tests of pages."""

from __future__ import annotations

import shutil
from collections.abc import Generator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

from tests.harness import servers


@contextmanager
def run_chromium() -> Generator[Browser]:
    """Run Debian's Chromium; without it the test is skipped, and fails where CI=true.

    Its loop runs in this thread, which can run no other meanwhile: tests of coroutines come before or after it. A start
    takes two seconds of CPU time, so that the tests of a module share one, each with a context of its own.
    """
    binary = shutil.which("chromium")
    if binary is None:
        servers.missing("Chromium", "chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=binary, args=["--no-sandbox"])
        yield browser
        browser.close()

"""An outage is told once, and so is its end."""

from __future__ import annotations

import logging

import pytest

from tasks.outage_log import OutageLog


def test_an_outage_and_its_end_are_each_told_once(caplog: pytest.LogCaptureFixture) -> None:
    outage = OutageLog(logging.getLogger("of this test"), "Can't look")
    outage.recovered()
    assert caplog.messages == []
    outage.failed("no connection")
    outage.failed("no connection")
    outage.recovered()
    outage.recovered()
    assert caplog.messages == ["Can't look: no connection", "Recovered: Can't look"]
    outage.failed("no answer")
    assert caplog.messages[-1] == "Can't look: no answer"

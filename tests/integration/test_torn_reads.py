"""Nobody reads half a publish, goes back, or stays behind: processes that read while pairs are flipped."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from tests.harness.lines import LineProcess
from workers.dev.redis_server import EmbeddedRedis

JOB = "tests.integration.replica_process"
READERS = 4


def test_no_process_reads_half_a_publish() -> None:
    flip_while_reading(8_000, distinct=150)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_no_process_reads_half_a_publish_in_a_million_reads() -> None:
    flip_while_reading(1_000_000, distinct=1_000)


def flip_while_reading(reads: int, *, distinct: int) -> None:
    with EmbeddedRedis.start() as server, ExitStack() as processes:
        publisher = processes.enter_context(LineProcess(JOB, "flip", server.url))
        # The session has to be there before it is read.
        while not server.cli("EXISTS", "dspex:{s:s}:head"):
            pass
        readers = [
            processes.enter_context(LineProcess(JOB, "read", server.url, reads // READERS, distinct))
            for _ in range(READERS)
        ]
        assert [reader.hear() for reader in readers] == [{"full": True}] * READERS
        publisher.end_input()
        head = publisher.hear()
        for reader in readers:
            reader.tell(head["token"])
        reports = [reader.hear() for reader in readers]
    print(reports)
    for report in reports:
        assert (report["torn"], report["back"], report["token"]) == (0, 0, head["token"])
        # A replica that froze, or one that asks the store at each read, would pass without these.
        assert report["distinct"] >= distinct
        assert report["warm"] > report["reads"] / 2
    assert sum(report["reads"] for report in reports) >= reads

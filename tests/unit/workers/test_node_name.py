"""Workers that share a host have names of their own, which are free again once they have ended."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from workers.node_name import is_named, reserve_node_name

_RESERVE = "from workers.node_name import reserve_node_name as reserve; print(reserve('{}'), flush=True)"
# As the worker command does: another program takes the process over, and keeps the name.
_EXEC = "import os, sys; os.execv(sys.executable, [sys.executable, '-c', 'import sys; print(1); sys.stdin.read()'])"
ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


@contextmanager
def worker(namespace: str = "dspex") -> Generator[str]:
    """Reserve a name in another process, which another program then replaces; yield the name."""
    script = f"{_RESERVE.format(namespace)}; {_EXEC}"
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        name = process.stdout.readline().strip()
        assert process.stdout.readline().strip() == "1"
        try:
            yield name
        finally:
            process.kill()


def test_workers_on_a_host_have_names_of_their_own_and_a_killed_ones_is_free_again() -> None:
    with worker() as first:
        assert first == "celery@%h"
        with worker() as second, worker("other") as other:
            assert (second, other) == ("celery2@%h", "celery@%h")
        with worker() as after:
            assert after == "celery2@%h"


def test_without_a_folder_for_locks_the_name_holds_the_process_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/proc")
    assert reserve_node_name("dspex") == f"celery-{os.getpid()}@%h"


def test_what_another_user_left_in_its_place_is_passed_over(temporary_folder: Path) -> None:
    (temporary_folder / "dspex-fleet-dspex-1.lock").symlink_to(temporary_folder / "elsewhere")
    with worker() as name:
        assert name == "celery2@%h"
    assert not (temporary_folder / "elsewhere").exists()


@pytest.mark.parametrize("arguments", [["-n", "w1@%h"], ["-nw1@%h"], ["--hostname", "w1"], ["-E", "--hostname=w1"]])
def test_celerys_own_option_names_the_worker(arguments: list[str]) -> None:
    assert is_named(arguments)
    assert not is_named(["--without-gossip", "--no-execv", "-E", "n"])

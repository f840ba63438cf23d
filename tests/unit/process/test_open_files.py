"""How many files a process may have open, and what waits where none is left."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys

import pytest

from snakepit_bridge.process.open_files import OpenFiles, count_open_files, is_out_of_files
from tests.harness.waiting import PATIENCE_S


def no_file() -> OSError:
    return OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def wrapped(exc: BaseException, *, cause: bool) -> BaseException:
    outer = ConnectionError("Error 24 connecting")
    if cause:
        outer.__cause__ = exc
    else:
        outer.__context__ = exc
    return outer


@pytest.mark.parametrize("limits", [(64, 512), (512, 512)])
def test_the_soft_limit_is_raised_to_the_hard_limit(limits: tuple[int, int]) -> None:
    code = (
        "import json, resource; from snakepit_bridge.process.open_files import raise_open_file_limit; "
        f"resource.setrlimit(resource.RLIMIT_NOFILE, {limits}); "
        "print(json.dumps([raise_open_file_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE)]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    assert json.loads(done.stdout) == [512, 512, 512]


def test_open_files_are_counted() -> None:
    before = count_open_files()
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(5)]
    assert count_open_files() == before + 5
    for each in held:
        os.close(each)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
@pytest.mark.parametrize("cause", [True, False])
def test_a_file_shortage_is_found_in_the_cause_chain(number: int, cause: bool) -> None:
    inner = OSError(number, os.strerror(number))
    assert is_out_of_files(inner)
    assert is_out_of_files(wrapped(wrapped(inner, cause=cause), cause=cause))


def test_other_errors_are_not_a_file_shortage() -> None:
    assert not is_out_of_files(ConnectionRefusedError(errno.ECONNREFUSED, "refused"))
    assert not is_out_of_files(LookupError("Too many open files, says the server"))
    assert not is_out_of_files(None)
    circle = LookupError("one")
    circle.__context__ = circle.__cause__ = wrapped(circle, cause=True)
    assert not is_out_of_files(circle)


async def test_a_file_shortage_is_retried_for_a_while_and_other_errors_are_not() -> None:
    files, tries = OpenFiles(), 0

    async def lack() -> None:
        nonlocal tries
        tries += 1
        raise no_file()

    async def fail() -> None:
        raise LookupError("as told")

    with pytest.raises(OSError, match="Too many"):
        await files.wait_for_files(lack, patience_s=1.0)
    assert tries > 1
    with pytest.raises(LookupError):
        await files.wait_for_files(fail)

"""Node names: each worker of a host has one of its own, and the same again after it was restarted.

Celery calls a worker ``celery@HOST`` unless ``-n`` names it, and its remote control takes workers of one name for one.
So the second worker on a host is ``celery2@HOST``, the third ``celery3@HOST``. A name is reserved by a lock on a file,
which the kernel drops when the process ends, however that is. So names are few, and what is kept by name (queues of
remote control, labels of metrics) doesn't grow with each restart.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

_MAX_NODES = 1_000
_OPTIONS = ("-n", "--hostname")


def is_named(arguments: Iterable[str]) -> bool:
    """Check whether arguments of Celery's worker name the node.

    Args:
        arguments: as they stand on the command line.
    """
    return any(
        word in _OPTIONS or word.startswith("--hostname=") or (word.startswith("-n") and not word.startswith("--"))
        for word in arguments
    )


def reserve_node_name(namespace: str) -> str:
    """Return the first node name that no other worker of the namespace on this host has.

    It stays reserved until this process ends, also if another program replaces it; a forked child doesn't hold it.
    Where no lock can be kept the name holds the process id.

    Args:
        namespace: of the fleet. Fleets of one namespace share the names, since one Redis has several addresses.
    """
    for number in range(1, _MAX_NODES + 1):
        try:
            path = Path(tempfile.gettempdir()) / f"dspex-fleet-{namespace}-{number}.lock"
            is_reserved = _lock(path)
        except OSError:
            break
        if is_reserved:
            return f"celery{'' if number == 1 else number}@%h"
    return f"celery-{os.getpid()}@%h"


def _lock(path: Path) -> bool:
    """Lock a file for this process; return False if another has it.

    Raises:
        OSError: the file can't be created, or the file system keeps no locks.
    """
    try:
        # The name is no secret, so that a link may lie there.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError:
        if os.path.lexists(path):  # another user's
            return False
        raise
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        os.close(descriptor)
        return False
    except OSError:
        os.close(descriptor)
        raise
    os.set_inheritable(descriptor, True)
    return True

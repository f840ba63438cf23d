"""Start a program under limits, with no secret in its environment: ``launcher.py CPU_S WALL_S PROGRAM ARGUMENT…``.

It runs without site-packages, so it imports the standard library alone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys

# What Deno needs to find its cache, and a registry where that isn't filled.
_KEPT = (
    "DENO_CERT", "DENO_DIR", "DENO_TLS_CA_STORE", "HOME", "HTTPS_PROXY", "HTTP_PROXY", "LANG", "NO_PROXY",
    "NPM_CONFIG_REGISTRY", "PATH", "SSL_CERT_FILE", "TMPDIR", "XDG_CACHE_HOME",
)  # fmt: skip
_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Replace this process by the program."""
    cpu_s, wall_s, *command = sys.argv[1:]
    parent = os.getppid()
    _end_with_parent()
    if os.getppid() != parent:
        raise SystemExit("the process that wanted this program is gone")
    _limit_cpu(int(cpu_s))
    # A pending alarm outlives the exec, and ends a program that doesn't handle it.
    signal.alarm(int(wall_s))
    environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
    os.execve(command[0], command, {**environment, "DENO_NO_PACKAGE_JSON": "1", "DENO_NO_UPDATE_CHECK": "1"})


def _limit_cpu(seconds: int) -> None:
    import resource

    # At the soft limit the program ends by SIGXCPU, and by SIGKILL should it handle that.
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _end_with_parent() -> None:
    """Have the kernel end the program with the thread that started it: a worker that is killed leaves none behind."""
    if sys.platform != "linux":
        return
    import ctypes

    with contextlib.suppress(OSError):  # no libc of that name: the limits still hold
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main()

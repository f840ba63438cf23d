"""The built wheel in an environment of its own, without this checkout: what a user gets."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.harness.waiting import PATIENCE_S, wait_until

ROOT = Path(__file__).parents[2]
_READY_S = 300


@dataclass(frozen=True)
class InstalledWheel:
    """An environment with the wheel and the packages of its ``worker`` extra.

    Attributes:
        folder: the environment.
        wheel: the file that is installed.
        sdist: the file that it was built from.
    """

    folder: Path
    wheel: Path
    sdist: Path

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    @property
    def packages(self) -> Path:
        """Its site-packages."""
        (found,) = self.folder.glob("lib/python*/site-packages")
        return found

    def environment(self, variables: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return the environment of a process: this one's without what leads to the checkout, then the variables."""
        own = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
        # uv installs no bytecode; what the first process compiles, the next ones load.
        own.pop("PYTHONDONTWRITEBYTECODE", None)
        cache = {"PYTHONPYCACHEPREFIX": str(self.folder / "bytecode"), "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        return {**own, **cache, **(variables or {})}

    def command(self, name: str, *arguments: str) -> list[str]:
        """Return the command line of one of its commands, such as ``dspex-fleet``."""
        return [str(self.folder / "bin" / name), *arguments]

    def run(
        self, name: str, *arguments: str, cwd: Path, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run one of its commands to its end and return what it printed."""
        return subprocess.run(
            self.command(name, *arguments), cwd=cwd, env=self.environment(env),
            capture_output=True, text=True, timeout=_READY_S, check=False,
        )  # fmt: skip

    @contextmanager
    def running(
        self, name: str, *arguments: str, cwd: Path, env: Mapping[str, str], ready: str = ""
    ) -> Generator[Path]:
        """Run one of its commands, yield its log once that has a text, and end the command by SIGTERM.

        Raises:
            AssertionError: it didn't start, or ended with another exit code than 0; quotes its log.
        """
        log = cwd / f"{name}-{'-'.join(word for word in arguments if word.isalpha())}.log"
        with log.open("w", encoding="utf-8") as output:
            process = subprocess.Popen(
                self.command(name, *arguments), cwd=cwd, env=self.environment(env),
                stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        try:
            wait_until(
                lambda: process.poll() is not None or ready in log.read_text(encoding="utf-8"),
                f"{name} to log {ready!r}",
                timeout_s=_READY_S,
            )
            assert process.poll() is None, log.read_text(encoding="utf-8")
            yield log
            process.terminate()
            assert process.wait(PATIENCE_S) == 0, log.read_text(encoding="utf-8")
        finally:
            process.kill()
            process.wait()


def build(folder: Path, *arguments: str, source: Path = ROOT) -> list[Path]:
    """Build distributions and return their files.

    Args:
        folder: where they go.
        *arguments: of ``python -m build``; without any it builds an sdist, and the wheel from that.
        source: what is built.
    """
    command = [sys.executable, "-m", "build", "--no-isolation", *arguments, "--outdir", str(folder), str(source)]
    built = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return sorted(path for path in folder.iterdir() if path.suffix in (".whl", ".gz"))


def install(folder: Path) -> InstalledWheel:
    """Build the wheel and install it, with the ``worker`` extra, into a new environment in a folder."""
    sdist, wheel = sorted(build(folder / "dist"), key=lambda path: path.suffix)
    return install_wheel(folder, wheel, sdist)


def install_wheel(folder: Path, wheel: Path, sdist: Path | None = None) -> InstalledWheel:
    """Install a wheel, with the ``worker`` extra, into a new environment in a folder."""
    environment = folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    installed = InstalledWheel(environment, wheel, sdist or wheel)
    uv = ROOT / ".venv" / "uv" / "bin" / "uv"
    pip = [str(uv), "pip", "install", "--python"] if uv.exists() else ["python3", "-m", "pip", "--python"]
    after = [] if uv.exists() else ["install"]
    # Constrained to what the tests run on, so that what is installed doesn't depend on the day.
    command = [*pip, str(installed.python), *after, "-c", str(_constraints(folder)), f"{wheel}[worker]"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    _share_bytecode(installed)
    return installed


def _share_bytecode(installed: InstalledWheel) -> None:
    """Link the bytecode of the packages that this environment has, too, where it is kept outside of them.

    Python takes it where both have a file from one cache, and compiles any other.
    """
    packages = sysconfig.get_path("purelib")
    compiled = Path(f"{sys.pycache_prefix}{packages}")
    if sys.pycache_prefix is None or not compiled.is_dir():
        return
    shared = Path(f"{installed.folder}/bytecode{installed.packages}")
    # One on another file system, which can't be linked, is compiled as well.
    with contextlib.suppress(OSError, shutil.Error):
        shutil.copytree(compiled, shared, copy_function=os.link)


def _constraints(folder: Path) -> Path:
    """Write the lock's versions without their hashes, which would be demanded of the wheel too."""
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pins = [line.rstrip(" \\") for line in lines if line and line[0].isalnum()]
    constraints = folder / "constraints.txt"
    constraints.write_text("\n".join(pins) + "\n", encoding="utf-8")
    return constraints

"""The steps of the Dockerfile, run on this machine's own system where no builder of images is at hand.

Each stage is an overlay over the root file system, in mount namespaces of its own: what a step writes stays in the
overlay, and this checkout isn't there. A step sees the files that it copied and nothing else of the project, so that a
file which the recipe forgets is missing here too. It needs root, and Linux.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

ROOT = Path(__file__).parents[2]
_BASE_PYTHON = "/opt/base-python"
_PATH = f"{_BASE_PYTHON}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# What a package manager needs to reach its registry here.
_HANDED_THROUGH = re.compile(r"(?:.*_proxy|.*CERT.*|.*SSL.*|PIP_.*|UV_.*|NPM_.*|npm_.*)", re.IGNORECASE)
_STEP_S = 900


def read_stages(dockerfile: Path = ROOT / "Dockerfile") -> list[list[str]]:
    """Return the instructions of a Dockerfile, stage by stage."""
    text = re.sub(r"^\s*#.*\n", "", dockerfile.read_text(encoding="utf-8"), flags=re.MULTILINE).replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    starts = [number for number, line in enumerate(lines) if line.startswith("FROM ")]
    return [lines[start:end] for start, end in zip(starts, [*starts[1:], len(lines)], strict=True)]


def cannot_run() -> str:
    """Return why the steps can't be run here, or an empty text."""
    if sys.platform != "linux" or os.getuid() != 0:
        return "the image's steps need root on Linux"
    probe = subprocess.run(["unshare", "--mount", "--net", "true"], capture_output=True, text=True, check=False)
    return f"no namespaces: {probe.stderr.strip()}" if probe.returncode else ""


@dataclass
class ImageStage:
    """A stage of the image, as far as its steps have been run.

    Attributes:
        root: its file system.
        namespace: the process that holds its mounts.
        environment: what its ENV instructions set.
        user: of its USER instruction.
        folder: of its WORKDIR instruction.
        command: of its CMD instruction.
    """

    root: Path
    namespace: int
    environment: dict[str, str] = field(
        default_factory=lambda: {"PATH": _PATH, "LD_LIBRARY_PATH": f"{_BASE_PYTHON}/lib"}
    )
    user: str = "0:0"
    folder: str = "/"
    command: Sequence[str] = ()

    def enter(self, *, network: bool = True) -> list[str]:
        """Return the command line that runs another one in this stage."""
        offline = [] if network else ["unshare", "--net"]
        inside = ["chroot", f"--userspec={self.user}", str(self.root)]
        change = ["/bin/sh", "-c", 'cd "$0" && exec "$@"', self.folder]
        return ["nsenter", f"--target={self.namespace}", "--mount", *offline, *inside, *change]

    def run(
        self,
        command: Sequence[str],
        *,
        network: bool = True,
        env: Mapping[str, str] | None = None,
        timeout_s: float = _STEP_S,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end and return what it printed."""
        return subprocess.run(
            [*self.enter(network=network), *command], env={**self.environment, **(env or {})},
            capture_output=True, text=True, timeout=timeout_s, check=False,
        )  # fmt: skip

    def compile_bytecode(self, *modules: str) -> None:
        """Compile these modules and what they load, where the recipe compiles all packages.

        Raises:
            AssertionError: one can't be loaded; quotes the output.
        """
        root = replace(self, user="0:0")
        done = root.run(["python", "-c", f"import {', '.join(modules)}"], env={"PYTHONDONTWRITEBYTECODE": ""})
        assert done.returncode == 0, done.stdout + done.stderr

    def make_read_only(self) -> None:
        """Make its file system read-only but for /tmp, as docker-compose.yml runs it."""
        self._in_namespace(f"mount -o remount,ro {shlex.quote(str(self.root))}")

    def apply(self, line: str, before: Mapping[str, ImageStage]) -> None:
        """Carry out an instruction.

        Raises:
            AssertionError: it failed; quotes its output.
        """
        instruction, _, rest = line.partition(" ")
        match instruction:
            case "RUN":
                # Compiling all packages takes longer than all else; `compile_bytecode` compiles what is loaded.
                rest = rest.replace(" --compile-bytecode", "")
                given = {name: value for name, value in os.environ.items() if _HANDED_THROUGH.fullmatch(name)}
                done = self.run(["/bin/sh", "-e", "-c", rest], env={**given, "HOME": "/root"})
                assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
            case "COPY":
                self._copy(shlex.split(rest), before)
            case "ENV":
                for word in shlex.split(rest):
                    name, _, value = word.partition("=")
                    self.environment[name] = value.replace("$PATH", self.environment["PATH"])
            case "WORKDIR":
                self.folder = rest
                self._in_namespace(f"mkdir -p {shlex.quote(f'{self.root}{rest}')}")
            case "USER":
                self.user = rest
            case "CMD":
                self.command = [word.strip(' "') for word in rest.strip("[]").split(",")]
            case "STOPSIGNAL" | "FROM":
                pass
            case _:
                raise AssertionError(f"tests.harness.image_steps doesn't know {line!r}")

    def _copy(self, words: list[str], before: Mapping[str, ImageStage]) -> None:
        *sources, target = words
        place = Path(f"{self.root}{target if target.startswith('/') else f'{self.folder}/{target}'}")
        if sources[0].startswith("--from="):
            source = f"{before[sources[0].removeprefix('--from=')].root}{sources[1]}"
            # Not copied: that would double what a test writes.
            self._in_namespace(f"mkdir -p {place} && mount --bind {source} {place}")
            return
        # From outside of the stage, where the checkout is, through its folder of upper files.
        staged = self.root.parent / "copied"
        shutil.rmtree(staged, ignore_errors=True)
        into_folder = target.endswith("/") or len(sources) > 1
        for source in sources:
            found = ROOT / source
            to = staged / (found.name if into_folder else "content")
            to.parent.mkdir(parents=True, exist_ok=True)
            ignored = shutil.ignore_patterns("__pycache__", ".env*")
            shutil.copytree(found, to, ignore=ignored) if found.is_dir() else shutil.copy2(found, to)
        origin = f"{staged}/." if into_folder else f"{staged}/content/."
        self._in_namespace(f"mkdir -p {place} && cp -a {origin} {place}/")

    def _in_namespace(self, script: str) -> None:
        command = ["nsenter", f"--target={self.namespace}", "--mount", "/bin/sh", "-e", "-c", script]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_STEP_S, check=False)
        assert done.returncode == 0, f"{script}\n{done.stderr}"


@contextmanager
def built_image(folder: Path) -> Generator[ImageStage]:
    """Run all steps of the Dockerfile, and yield its last stage.

    Args:
        folder: an empty one, for the overlays.

    Raises:
        AssertionError: a step failed; quotes its output.
    """
    holder = subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", "sleep", "infinity"], start_new_session=True
    )
    try:
        stages: dict[str, ImageStage] = {}
        for number, lines in enumerate(read_stages()):
            stage = _begin(folder / str(number), holder.pid)
            for line in lines:
                stage.apply(line, stages)
            stages[lines[0].partition(" AS ")[2] or str(number)] = stage
        yield list(stages.values())[-1]
    finally:
        os.killpg(holder.pid, signal.SIGKILL)
        holder.wait()


def _begin(folder: Path, namespace: int) -> ImageStage:
    """Mount the overlay of a stage; this machine's Python stands for that of the base image."""
    root = folder / "root"
    for name in ("root", "upper", "work"):
        (folder / name).mkdir(parents=True)
    stage = ImageStage(root, namespace)
    stage._in_namespace(
        f"mount -t overlay overlay -o lowerdir=/,upperdir={folder}/upper,workdir={folder}/work {root}\n"
        f"mount -t tmpfs tmpfs {root}/tmp && chmod 1777 {root}/tmp\n"
        # The checkout, wherever it is, and what else this machine keeps beside it.
        f"[ ! -e {root}{ROOT} ] || mount -t tmpfs tmpfs {root}{ROOT}\n"
        f"mount -t proc proc {root}/proc && mount --rbind /dev {root}/dev\n"
        f"mkdir -p {root}{_BASE_PYTHON} && mount --bind {sys.base_prefix} {root}{_BASE_PYTHON}\n"
    )
    return stage

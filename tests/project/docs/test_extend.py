"""The code of docs/how-to/extend.md: its package is written to a folder, a worker allows it, and its clients run."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from snakepit_bridge import snapshots
from snakepit_bridge.dspy_integration import unregister_target
from tests.harness.stage import Stage, stage

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "extend.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# (acme/\w+\.py)\n")


def blocks(language: str) -> list[str]:
    return [code for found, code in BLOCK.findall(PAGE.read_text(encoding="utf-8")) if found == language]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that holds the page's package."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "acme").mkdir()
    (folder / "acme" / "__init__.py").touch()
    for code in blocks("python"):
        if found := FILE.match(code):
            (folder / found[1]).write_text(code, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def play(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Generator[Stage]:
    """A worker with the page's settings and its LM profile, whose provider is the recording LM."""
    [profile] = blocks("toml")
    profile = profile.replace("OPENAI_API_KEY", "STAGE_LM_KEY") + 'api_base = "{url}"\n'
    settings: dict[str, Any] = dict(line.split("=", 1) for code in blocks("sh") for line in code.splitlines())
    folder = tmp_path_factory.mktemp("stage")
    with stage(folder, more_profiles=profile, PYTHONPATH=str(package), **settings) as play:
        yield play


@pytest.fixture
def own_package(package: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    """Let this process import the page's package, and forget what it registers."""
    monkeypatch.syspath_prepend(str(package))
    monkeypatch.setattr(snapshots, "_openers", {})
    yield
    unregister_target("persona")
    for name in [name for name in sys.modules if name.partition(".")[0] == "acme"]:
        del sys.modules[name]


async def run(code: str, names: dict[str, Any]) -> None:
    compiled = compile(code, str(PAGE), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    pending = eval(compiled, names)  # noqa: S307 - our own documentation
    if inspect.isawaitable(pending):
        await pending


async def test_the_pages_code_runs(play: Stage, own_package: None) -> None:
    names: dict[str, Any] = {}
    for code in blocks("python"):
        if not FILE.match(code):
            await run(code.replace("redis://localhost:6379/0", play.url), names)

    [support] = play.requests_with("Is [e-mail] mine?")
    assert "ann@example.com" not in str(support.body)
    assert support.instructions.endswith("Speak as a pirate.")
    assert names["prediction"].answer == "answer of Is [e-mail] mine?"

    [triage] = play.requests_with("The door squeaks.")
    assert triage.temperature == 0.25
    assert names["ticket"].answer == "Ahoy! answer of The door squeaks."

    [(session, token, changed)] = names["session"].store.audit
    assert (session, changed) == ("user-42", ["temperature"])
    assert str((await names["session"].store.head("user-42")).token) == token

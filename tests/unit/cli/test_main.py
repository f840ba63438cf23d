"""The command line as a whole: what it loads, and how it fails."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from snakepit_bridge.cli import main
from snakepit_bridge.cli.lazy_command import LazyCommand
from snakepit_bridge.cli.main import command_line

ROOT = Path(__file__).parents[3]


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return int(ended.value.code or 0)


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    output = capsys.readouterr().out
    for command in (
        "predict", "batch", "replay", "register", "programs", "label", "publish", "variables", "status", "doctor",
        "history", "diff", "rollback", "watch", "mark", "promote", "worker", "refresher", "gateway", "gateway-token",
        "console", "demo", "dead", "evaluate", "evaluations", "score", "judge", "rollout", "experiment", "dataset",
        "record",
    ):  # fmt: skip
        assert f" {command} " in output


def test_help_loads_the_command_line_alone() -> None:
    """Neither Celery nor DSPy nor Redis nor gRPC nor pydantic: help takes as long as typer and rich do."""
    help_loads = modules_after(
        "from snakepit_bridge.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit: pass"
    )
    packages = {name.partition(".")[0] for name in help_loads}
    allowed = {name.partition(".")[0] for name in modules_after("import typer, rich, typer.rich_utils")}
    assert packages - allowed - sys.stdlib_module_names == {"snakepit_bridge"}
    assert {name for name in help_loads if name.startswith("snakepit_bridge.")} == {
        "snakepit_bridge.cli",
        "snakepit_bridge.cli.connection_options",
        "snakepit_bridge.cli.fleet_commands",
        "snakepit_bridge.cli.lazy_command",
        "snakepit_bridge.cli.main",
        "snakepit_bridge.cli.usage_errors",
        "snakepit_bridge.protocol",
        "snakepit_bridge.protocol.namespaces",
    }


def modules_after(code: str) -> set[str]:
    """Return the names of the modules that a new process has loaded after the code."""
    script = f"{code}\nimport sys\nprint(*sys.modules, sep='\\n', file=sys.stderr)"
    ran = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(ran.stderr.split())


def test_the_summary_of_each_command_begins_its_own_help() -> None:
    commands = {name: command for name, command in command_line().commands.items() if isinstance(command, LazyCommand)}
    assert commands.keys() == command_line().commands.keys()
    for name, command in commands.items():
        loaded = command.load()
        assert loaded.name == name
        assert (loaded.help or "").partition("\n\n")[0] == command.help
        assert loaded.params or loaded.commands


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["publish", "s", "bad"], "An argument must be name=value; got 'bad'."),
        (["predict", "qa", "--exactly", "x"], "A token reads epoch.revision"),
        (["--redis-url", "ftp://x", "variables", "s"], "No snapshot store at ftp://x"),
        (["register", "nowhere.json"], "The program's file nowhere.json can't be read"),
        (["register", "os:path"], "not a dspy.Module"),
        (["batch", "qa", "--input", "nowhere.jsonl", "--output", "x"], "nowhere.jsonl: it can't be opened"),
        (["variables", "s"], "is away"),
        (["status"], "is away"),
    ],
)
def test_a_named_error_is_one_line_and_exit_code_1(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DSPEX_REDIS_URL", "redis://:hunter2@127.0.0.1:1/0")
    assert run(*arguments) == 1
    errors = capsys.readouterr().err
    assert errors.startswith("dspex-fleet: ")
    assert errors.count("\n") == 1
    assert says in errors
    assert "hunter2" not in errors


def test_arguments_that_make_no_sense_are_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("predict") == 2
    assert "Missing argument 'PROGRAM'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("acl nosuch", "'role': 'nosuch' is not one of 'client',"),
        ("worker --pool nosuch", "'--pool': 'nosuch' is not one of 'asyncio',"),
        ("dead list --limit 0", "'--limit': it should be greater than or equal to 1"),
    ],
)
def test_an_argument_that_cant_be_is_explained_in_plain_words(
    capsys: pytest.CaptureFixture[str], words: str, says: str
) -> None:
    assert run(*words.split()) == 2
    assert f"Invalid value for {says}" in " ".join(capsys.readouterr().err.replace("│", "").split())


@pytest.mark.parametrize(
    "words", ["diff s 1 2", "diff s latest 3x", "rollback s 7.", "mark s stable 7", "promote s stable 7"]
)
def test_a_revision_that_is_no_token_is_refused_before_anything_is_asked(
    capsys: pytest.CaptureFixture[str], words: str
) -> None:
    assert run("--redis-url", "redis://127.0.0.1:1/0", *words.split()) == 2
    assert "A token reads epoch.revision" in " ".join(capsys.readouterr().err.split())

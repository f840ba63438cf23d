"""The benchmarks' command: it runs what it is told by name, and its last line on stdout is the figures, as JSON."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import psutil
import pytest

import benchmarks
from benchmarks import __main__ as command
from benchmarks import _parts
from tests.harness.waiting import wait_until

ROOT = Path(__file__).parents[2]

FAKE = '''\
"""How fast is a {name}?

The rest of the story.
"""

def run():
    """Returns figures."""
    return {figures}
'''


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Path]:
    """A folder in which there are other benchmarks than ours: `apple`, `pear` and a part that is none."""
    for name, figures in (("apple", {"us": 1.5}), ("pear", {"us": 2, "by": {"10": [1, 2]}}), ("_part", {})):
        (tmp_path / f"{name}.py").write_text(FAKE.format(name=name, figures=figures), encoding="utf-8")
    monkeypatch.setattr(benchmarks, "__path__", [str(tmp_path)])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("benchmarks."):
            del sys.modules[name]
            benchmarks.__dict__.pop(name.removeprefix("benchmarks."), None)


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
    return command.main()


def test_each_module_is_a_benchmark_but_parts_are_none() -> None:
    files = {path.stem for path in (ROOT / "benchmarks").glob("*.py")}
    assert command.names() == sorted(name for name in files if not name.startswith("_"))
    assert {"overhead", "sync", "rehydrate", "follow", "throughput", "scale"} <= set(command.names())


@pytest.mark.parametrize("name", command.names())
def test_each_benchmark_asks_a_question_and_can_be_run(name: str) -> None:
    module = importlib.import_module(f"benchmarks.{name}")
    assert callable(module.run)
    assert (module.__doc__ or "").splitlines()[0].strip()
    assert "?" in (module.__doc__ or "").partition("\n\n")[0], "a benchmark is a question"


def test_the_figures_are_one_line_of_json(
    fakes: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "pear", "--json") == 0
    out, err = capsys.readouterr()
    assert out.count("\n") == 1
    assert json.loads(out) == {"us": 2, "by": {"10": [1, 2]}}
    assert err == "pear: How fast is a pear?\n"


@pytest.mark.parametrize(("arguments", "figures"), [((), {"tasks": 20_000}), (("--quick",), {"tasks": 600})])
def test_a_short_form_is_run_where_it_is_asked_for(
    arguments: tuple[str, ...],
    figures: dict[str, int],
    fakes: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = '"""How much?"""\n\n\ndef run(quick=False):\n    return {"tasks": 600 if quick else 20_000}\n'
    (fakes / "plum.py").write_text(text)
    assert call(monkeypatch, "plum", "--json", *arguments) == 0
    assert json.loads(capsys.readouterr().out) == figures


def test_a_benchmark_without_a_short_form_is_run_as_it_is(
    fakes: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "pear", "--json", "--quick") == 0
    assert json.loads(capsys.readouterr().out)["us"] == 2


def test_for_people_they_are_indented(
    fakes: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "apple") == 0
    assert capsys.readouterr().out == '{\n  "us": 1.5\n}\n'


def test_all_runs_every_one_and_gives_a_line_to_each(
    fakes: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "all", "--json") == 0
    out, err = capsys.readouterr()
    assert [json.loads(line) for line in out.splitlines()] == [
        {"apple": {"us": 1.5}},
        {"pear": {"us": 2, "by": {"10": [1, 2]}}},
    ]
    assert [line.partition(":")[0] for line in err.splitlines()] == ["apple", "pear"]


@pytest.mark.parametrize("name", ["plum", "_part", "", "apple.py", "../apple"])
def test_an_unknown_name_is_refused_with_those_that_there_are(
    name: str, fakes: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        call(monkeypatch, name)
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    for known in ("apple", "pear", "all"):
        assert known in err


def test_a_benchmark_that_fails_prints_no_figures(
    fakes: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (fakes / "plum.py").write_text('"""Will it run?"""\n\n\ndef run():\n    raise RuntimeError("no")\n')
    with pytest.raises(RuntimeError, match="no"):
        call(monkeypatch, "plum", "--json")
    assert capsys.readouterr().out == ""


def test_one_without_a_question_runs_too(
    fakes: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (fakes / "plum.py").write_text("def run():\n    return {}\n")
    assert call(monkeypatch, "plum", "--json") == 0
    assert capsys.readouterr() == ("{}\n", "plum: \n")


def test_as_a_program_it_refuses_what_it_does_not_know() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks", "nothing"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 2
    assert "invalid choice: 'nothing'" in ran.stderr
    for name in command.names():
        assert name in ran.stderr


# ---------------------------------------------------------------- the parts


def test_the_cpu_time_of_a_process_counts_its_children(tmp_path: Path) -> None:
    burn = "n = 0\nwhile n < 3_000_000: n += 1\nprint('done', flush=True)\nimport sys; sys.stdin.read()"
    parent = (
        "import subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', {burn!r}], stdin=subprocess.PIPE)\n"
        "sys.stdin.read()\nchild.communicate()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "done\n"
        alone = sum(psutil.Process(process.pid).cpu_times()[:2])
        assert _parts.cpu_s(process.pid) > alone
        process.stdin.close()


def test_a_contestant_runs_from_the_checkout(tmp_path: Path) -> None:
    child = _parts.child(["-c", "import benchmarks, os; print(os.getcwd())"], tmp_path / "log")
    try:
        wait_until(lambda: not child.running, "it to end")
        assert child.returncode == 0
        assert (tmp_path / "log").read_text().strip() == str(ROOT)
    finally:
        child.end()

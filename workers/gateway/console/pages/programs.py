"""The programs: each with its versions, and a version with its spec, origin, evaluations and what it changed."""

from __future__ import annotations

import asyncio
import difflib
import json
from collections.abc import Iterator
from typing import Any

from starlette.responses import Response

from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from snakepit_bridge.variables.codec import parse
from workers.gateway.console.page import Page, Visit, whole_text
from workers.gateway.errors import MalformedError

_PAGE_SIZE, _LISTED_EVALUATIONS = 50, 250
_CONTEXT_LINES, MAX_DIFF_LINES, _MAX_DIFFED_CHARS = 3, 2_000, 400_000


async def show_programs(visit: Visit) -> Response:
    """Show the programs, by name."""
    prefix, after = visit.query.get("prefix", ""), visit.query.get("after", "")
    request = pb.ListProgramsRequest(prefix=prefix, page_size=_PAGE_SIZE, page_token=after)
    found = await visit.call("Programs.List", request)
    return visit.render("programs.html.j2", found=found, prefix=prefix, is_first=not after)


async def show_program(visit: Visit) -> Response:
    """Show a version of a program, and the others."""
    program = await visit.call("Programs.Get", pb.GetProgramRequest(reference=visit.query.get("reference", "")))
    versions, evaluations = await asyncio.gather(
        visit.call("Programs.ListVersions", pb.ListVersionsRequest(name=program.name)),
        _list_evaluations(visit, program),
    )
    older = [each.version for each in versions.versions if each.version < program.version]
    return visit.render(
        "program.html.j2",
        program=program,
        reference=f"{program.name}:{program.version}",
        spec=_pretty(program.spec_json),
        lineage=parse(program.lineage_json) if program.lineage_json else None,
        versions=versions.versions,
        previous=max(older, default=None),
        evaluations=evaluations,
    )


async def show_spec(visit: Visit) -> Response:
    """Show the whole spec of a version as plain text."""
    program = await visit.call("Programs.Get", pb.GetProgramRequest(reference=visit.query.get("reference", "")))
    return whole_text(_pretty(program.spec_json))


async def show_diff(visit: Visit) -> Response:
    """Show what distinguishes the specs of two versions."""
    name = visit.query.get("name", "")
    before, after = (_parse_version(visit.query.get(side, ""), side) for side in ("before", "after"))
    versions, *sides = await asyncio.gather(
        visit.call("Programs.ListVersions", pb.ListVersionsRequest(name=name)),
        *(visit.call("Programs.Get", pb.GetProgramRequest(reference=f"{name}:{each}")) for each in (before, after)),
    )
    texts = [_pretty(side.spec_json) for side in sides]
    is_too_long = sum(map(len, texts)) > _MAX_DIFFED_CHARS
    lines = [] if is_too_long else await asyncio.to_thread(lambda: list(_diff(*texts)))
    return visit.render(
        "program_diff.html.j2",
        name=name,
        before=before,
        after=after,
        numbers=[each.version for each in versions.versions],
        lines=lines[:MAX_DIFF_LINES],
        omitted=max(0, len(lines) - MAX_DIFF_LINES),
        is_too_long=is_too_long,
    )


async def set_label(visit: Visit) -> Response:
    """Point a label at a version, once the program's name has been typed."""
    name, version = visit.form_value("name"), _parse_version(visit.form_value("version"), "version")
    if visit.form_value("confirm").strip() != name:
        raise MalformedError("confirmation", "type the program's name to move a label")
    request = pb.SetProgramLabelRequest(
        name=name,
        label=visit.form_value("label").strip(),
        version=version,
        author=visit.author,
        reason=visit.form_value("reason"),
    )
    await visit.call("Programs.SetLabel", request)
    return visit.redirect("/program", reference=f"{name}:{version}", done="labelled")


async def _list_evaluations(visit: Visit, program: pb.Program) -> list[pb.Evaluation]:
    if not (visit.can("Evaluations.List") and visit.grant.covers_all):
        return []
    request = pb.ListEvaluationsRequest(limit=_LISTED_EVALUATIONS, program=program.name)
    found = await visit.call("Evaluations.List", request)
    return [each for each in found.evaluations if each.version == program.version]


def _pretty(spec: bytes) -> str:
    found: Any = parse(spec)
    return json.dumps(found, indent=2, ensure_ascii=False, sort_keys=True)


def _diff(before: str, after: str) -> Iterator[tuple[str, str]]:
    """Yield the lines of a diff, each with what it is: ``del``, ``ins``, ``gap``, or empty for context."""
    kinds = {"-": "del", "+": "ins", "@": "gap"}
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=_CONTEXT_LINES)
    for number, line in enumerate(lines):
        if number >= 2:  # the first two name the files
            yield kinds.get(line[0], ""), "⋯" if line[0] == "@" else line[1:]


def _parse_version(text: str, where: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise MalformedError(where, f"it is the number of a version; got {text[:40]!r}")
    return int(text)


PAGES = (
    Page("/programs", show_programs, "Programs.List", menu="Programs", section="/program"),
    Page("/program", show_program, "Programs.Get"),
    Page("/program/spec", show_spec, "Programs.Get"),
    Page("/program/diff", show_diff, "Programs.Get"),
    Page("/program/label", set_label, "Programs.SetLabel", method="POST", all_sessions=True),
)

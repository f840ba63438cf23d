"""The Programs service. The first call imports DSPy, since a program is built before it is stored."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING

from snakepit_bridge.client import Fleet
from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from snakepit_bridge.programs.lineage import read_lineage
from snakepit_bridge.variables.codec import encode_canonical
from workers.gateway.access.authentication import GrantScope
from workers.gateway.call import ClientCall, require_name
from workers.gateway.errors import MalformedError, NotGrantedError
from workers.gateway.json_text import to_strict_json
from workers.gateway.loading import load_in_thread

if TYPE_CHECKING:
    from snakepit_bridge.programs.registry import Program, ProgramListing, ProgramRegistry

_DEFAULT_PAGE_SIZE, _MAX_PAGE_SIZE = 100, 1_000


class Programs:
    """The operations on programs.

    Args:
        fleet: the fleet.
        allowed_packages: packages that specs may refer to.
        imports: modules of these packages that register targets; imported before a program is built.
    """

    def __init__(self, fleet: Fleet, allowed_packages: tuple[str, ...] = (), imports: tuple[str, ...] = ()) -> None:
        self._fleet = fleet
        self._allowed_packages = allowed_packages
        self._imports = imports

    async def register(self, request: pb.RegisterRequest, call: ClientCall) -> pb.Program:
        """Build the program, and store its spec as the next version."""
        if not request.spec_json:
            raise MalformedError("spec", "there is none")
        registry = await self._registry()
        await asyncio.to_thread(_check_labels, list(request.labels))
        await asyncio.to_thread(self._import_modules)
        author = call.grant.name
        program = await asyncio.to_thread(self._fleet.register, request.name, request.spec_json, author=author)
        for label in dict.fromkeys(request.labels):
            await registry.label(program.name, label, program.version, author=author)
        return await self._program_message(program)

    async def list(self, request: pb.ListProgramsRequest, call: ClientCall) -> pb.ListProgramsResponse:
        """Return a page of programs sorted by name, each in its newest version."""
        registry = await self._registry()
        size = min(request.page_size or _DEFAULT_PAGE_SIZE, _MAX_PAGE_SIZE)
        listings = [
            listing
            for listing in await registry.list()
            if listing.name.startswith(request.prefix) and listing.name > request.page_token
        ]
        page = listings[:size]
        programs = await asyncio.gather(*(registry.get(f"{listing.name}:{listing.latest}") for listing in page))
        next_page = page[-1].name if len(listings) > size else ""
        messages = [*map(_program_message, programs, page)]
        for message, listing in zip(messages, page, strict=True):
            message.label_versions.update(listing.labels)
        return pb.ListProgramsResponse(programs=messages, next_page_token=next_page)

    async def get(self, request: pb.GetProgramRequest, call: ClientCall) -> pb.Program:
        """Return one program with its spec."""
        registry = await self._registry()
        program = await registry.get(require_name(request.reference, "reference"))
        message = await self._program_message(program)
        message.spec_json = program.spec.encode()
        lineage = await read_lineage(self._fleet.connection, registry.keys, program.name, program.version)
        if lineage is not None:
            message.lineage_json = encode_canonical(to_strict_json(asdict(lineage)))
        return message

    async def list_versions(self, request: pb.ListVersionsRequest, call: ClientCall) -> pb.ListVersionsResponse:
        """Return every version of a program, the newest first."""
        registry, name = await self._registry(), require_name(request.name, "name")
        versions = [
            pb.Program(name=name, version=each.version, content=each.digest, labels=each.labels)
            for each in await registry.versions(name)
        ]
        return pb.ListVersionsResponse(versions=versions)

    async def set_label(self, request: pb.SetProgramLabelRequest, call: ClientCall) -> pb.Program:
        """Point a label at a version."""
        if not call.grant.covers_all:
            raise NotGrantedError(call.grant.name, GrantScope.RELEASE, "*")
        registry, author = await self._registry(), call.grant.format_author(request.author)
        program = await registry.get(f"{request.name}:{request.version}")
        await registry.label(program.name, request.label, program.version, author=author, reason=request.reason)
        return await self._program_message(program)

    async def _program_message(self, program: Program) -> pb.Program:
        listings = await (await self._registry()).list()
        return _program_message(program, next((listing for listing in listings if listing.name == program.name), None))

    async def _registry(self) -> ProgramRegistry:
        """Return the programs; they are loaded beside the event loop, since DSPy takes seconds."""
        return await load_in_thread(lambda: self._fleet.registry)

    def _import_modules(self) -> None:
        from snakepit_bridge.programs.imports import AllowedImports

        AllowedImports(self._allowed_packages).load_modules(self._imports)


def _program_message(program: Program, listing: ProgramListing | None) -> pb.Program:
    labels = [label for label, version in listing.labels.items() if version == program.version] if listing else []
    return pb.Program(name=program.name, version=program.version, content=program.digest, labels=labels)


def _check_labels(labels: list[str]) -> None:
    """Check the labels before anything is stored, so that no program is registered without its labels.

    Raises:
        ValueError: a label isn't a valid name.
    """
    from snakepit_bridge.programs.spec import check_name

    for label in labels:
        check_name(label)

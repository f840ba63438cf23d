"""The Programs service. The first call imports DSPy, since a program is built before it is stored."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from snakepit_bridge.client import Fleet
from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from workers.gateway.call import ClientCall, require_name
from workers.gateway.errors import MalformedError

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
        self._registry_or_none: ProgramRegistry | None = None

    async def register(self, request: pb.RegisterRequest, call: ClientCall) -> pb.Program:
        """Build the program, and store its spec as the next version."""
        if not request.spec_json:
            raise MalformedError("spec", "there is none")
        registry = await self._registry()
        await asyncio.to_thread(_check_labels, list(request.labels))
        await asyncio.to_thread(self._import_modules)
        program = await asyncio.to_thread(self._fleet.register, request.name, request.spec_json)
        for label in dict.fromkeys(request.labels):
            await registry.label(program.name, label, program.version, author=call.grant.format_author(""))
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
        return pb.ListProgramsResponse(programs=map(_program_message, programs, page), next_page_token=next_page)

    async def get(self, request: pb.GetProgramRequest, call: ClientCall) -> pb.Program:
        """Return one program with its spec."""
        registry = await self._registry()
        program = await registry.get(require_name(request.reference, "reference"))
        message = await self._program_message(program)
        message.spec_json = program.spec.encode()
        return message

    async def _program_message(self, program: Program) -> pb.Program:
        listings = await (await self._registry()).list()
        return _program_message(program, next((listing for listing in listings if listing.name == program.name), None))

    async def _registry(self) -> ProgramRegistry:
        if self._registry_or_none is None:
            self._registry_or_none = await asyncio.to_thread(self._load)
        return self._registry_or_none

    def _load(self) -> ProgramRegistry:
        from snakepit_bridge.programs.registry import ProgramRegistry

        return ProgramRegistry(self._fleet.connection, namespace=self._fleet.namespace)

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

"""The Programs service. It loads DSPy with its first call, since a program is built before it is stored."""

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
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._registry_or_none: ProgramRegistry | None = None

    async def register(self, request: pb.RegisterRequest, call: ClientCall) -> pb.Program:
        """Builds the program, and stores its spec as the next version."""
        if not request.spec_json:
            raise MalformedError("spec", "there is none")
        registry = await self._registry()
        await asyncio.to_thread(_check_labels, list(request.labels))
        found = await asyncio.to_thread(self._fleet.register, request.name, request.spec_json)
        for label in dict.fromkeys(request.labels):
            await registry.label(found.name, label, found.version)
        return await self._program_message(found)

    async def list(self, request: pb.ListProgramsRequest, call: ClientCall) -> pb.ListProgramsResponse:
        """Returns a page of the programs, by name, each in its newest version."""
        registry = await self._registry()
        size = min(request.page_size or _DEFAULT_PAGE_SIZE, _MAX_PAGE_SIZE)
        listed = [
            one
            for one in await registry.list()
            if one.name.startswith(request.prefix) and one.name > request.page_token
        ]
        page = listed[:size]
        found = await asyncio.gather(*(registry.get(f"{one.name}:{one.latest}") for one in page))
        more = page[-1].name if len(listed) > size else ""
        return pb.ListProgramsResponse(programs=map(_program_message, found, page), next_page_token=more)

    async def get(self, request: pb.GetProgramRequest, call: ClientCall) -> pb.Program:
        """Returns one program with its spec."""
        registry = await self._registry()
        found = await registry.get(require_name(request.reference, "reference"))
        message = await self._program_message(found)
        message.spec_json = found.spec.encode()
        return message

    async def _program_message(self, found: Program) -> pb.Program:
        listed = await (await self._registry()).list()
        return _program_message(found, next((one for one in listed if one.name == found.name), None))

    async def _registry(self) -> ProgramRegistry:
        if self._registry_or_none is None:
            self._registry_or_none = await asyncio.to_thread(self._load)
        return self._registry_or_none

    def _load(self) -> ProgramRegistry:
        from snakepit_bridge.programs.registry import ProgramRegistry

        return ProgramRegistry(self._fleet.connection, namespace=self._fleet.namespace)


def _program_message(found: Program, listed: ProgramListing | None) -> pb.Program:
    labels = [label for label, version in listed.labels.items() if version == found.version] if listed else []
    return pb.Program(name=found.name, version=found.version, content=found.digest, labels=labels)


def _check_labels(labels: list[str]) -> None:
    """Before anything is stored: a program without the labels that it was to have would be half registered."""
    from snakepit_bridge.programs.spec import check_name

    for label in labels:
        check_name(label)

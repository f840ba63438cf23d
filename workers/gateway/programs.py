"""The Programs service. It loads DSPy with its first call, since a program is built before it is stored."""

from __future__ import annotations

import asyncio
from functools import cached_property
from typing import TYPE_CHECKING

from snakepit_bridge.client import Fleet
from snakepit_bridge.wire.generated.dspex.fleet.v1 import fleet_pb2 as pb
from workers.gateway.call import Call, named
from workers.gateway.errors import MalformedError

if TYPE_CHECKING:
    from snakepit_bridge.programs.registry import Listing, ProgramRegistry

_PAGE, _PAGE_MOST = 100, 1_000


class Programs:
    """The operations on programs.

    Args:
        fleet: the fleet.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    async def register(self, request: pb.RegisterRequest, call: Call) -> pb.Program:
        """Builds the program, and stores its spec as the next version."""
        from_dspy = await asyncio.to_thread(self._load)
        for label in request.labels:
            from_dspy(label)
        if not request.spec_json:
            raise MalformedError("spec", "there is none")
        found = await asyncio.to_thread(self._fleet.register, request.name, request.spec_json)
        for label in dict.fromkeys(request.labels):
            await self._registry.label(found.name, label, found.version)
        return await self._described(found.name, f"{found.name}:{found.version}", spec=False)

    async def list(self, request: pb.ListProgramsRequest, call: Call) -> pb.ListProgramsResponse:
        """Returns a page of the programs, by name, each with its newest version."""
        await asyncio.to_thread(self._load)
        size = min(request.page_size or _PAGE, _PAGE_MOST)
        found = [
            one
            for one in await self._registry.list()
            if one.name.startswith(request.prefix) and one.name > request.page_token
        ]
        page = found[:size]
        programs = await asyncio.gather(*(self._message(one, f"{one.name}:{one.latest}", spec=False) for one in page))
        return pb.ListProgramsResponse(
            programs=programs, next_page_token=page[-1].name if len(found) > size else ""
        )

    async def get(self, request: pb.GetProgramRequest, call: Call) -> pb.Program:
        """Returns one program with its spec."""
        await asyncio.to_thread(self._load)
        named(request.reference, "reference")
        return await self._described(request.reference.partition("@")[0].partition(":")[0], request.reference, spec=True)

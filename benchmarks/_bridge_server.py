"""A bridge server with one session of variables, as a process: it says its port, and answers until its input ends."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import grpc.aio

from snakepit_bridge.elixir.codec import encode
from snakepit_bridge.elixir.generated import snakepit_bridge_pb2 as pb
from snakepit_bridge.elixir.generated import snakepit_bridge_pb2_grpc as services
from snakepit_bridge.variables import Variable


class Bridge(services.BridgeServiceServicer):
    """Answers each name with the float 0.5."""

    async def GetVariable(self, request: pb.GetVariableRequest, context: Any) -> pb.GetVariableResponse:  # noqa: N802
        """Return the variable."""
        name = request.variable_identifier
        value = encode(Variable.declare(name, 0.5))
        return pb.GetVariableResponse(variable=pb.Variable(id=name, name=name, type="float", value=value))


async def main() -> None:
    """Serve until the standard input ends."""
    server = grpc.aio.server()
    services.add_BridgeServiceServicer_to_server(Bridge(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(None)


if __name__ == "__main__":
    asyncio.run(main())

"""Client of an Elixir application that serves snakepit's bridge, with a deadline and named errors for each call."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping
from typing import Any, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from snakepit_bridge.elixir.channels import Channels
from snakepit_bridge.elixir.codec import RemoteVariable, decode, encode, encode_constraints
from snakepit_bridge.elixir.errors import BridgeCall, translate_error
from snakepit_bridge.elixir.generated import snakepit_bridge_pb2 as pb
from snakepit_bridge.exceptions import ValidationError
from snakepit_bridge.variables import Variable
from snakepit_bridge.variables.codec import shorten_repr

A = TypeVar("A", bound=Message)

MAX_ANSWER_BYTES = 64 * 2**20
"""Default limit of a response; gRPC's own 4 MiB are less than a session with a few large tensors."""


class BridgeClient:
    """Client of one Elixir server. It belongs to the event loop that uses it first.

    Args:
        address: ``HOST:PORT``.
        timeout_s: seconds within which every call ends.
        max_answer_bytes: largest response to accept.
        credentials: for a server behind TLS; without them the connection is plain text.

    Every method raises, besides its own errors:
        ElixirUnavailableError: the server can't be reached or did not answer in time.
        ElixirSessionNotFoundError: it has no such session.
        ElixirFailedError: its handler failed.
        AnswerTooLargeError: the response exceeds ``max_answer_bytes``.
        ElixirMethodNotServedError: the server doesn't implement the method.
    """

    def __init__(
        self,
        address: str,
        *,
        timeout_s: float = 5.0,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        self.address = address
        self.timeout_s = timeout_s
        self._max_answer_bytes = max_answer_bytes
        self._channels = Channels(address, timeout_s, max_answer_bytes, credentials)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.address!r})"

    @property
    def answered_at(self) -> float:
        """Time of the server's last answer of any kind, by ``time.monotonic``."""
        return self._channels.answered_at

    async def ping(self) -> None:
        """Check that the server answers."""
        await self._call("Ping", pb.PingRequest(message="dspex-fleet"), pb.PingResponse)

    async def begin_session(self, session: str, metadata: Mapping[str, str] | None = None) -> None:
        """Create the session unless it exists."""
        request = pb.InitializeSessionRequest(session_id=session, metadata=metadata)
        await self._call("InitializeSession", request, pb.InitializeSessionResponse)

    async def end_session(self, session: str) -> None:
        """Delete the session with all its variables."""
        request = pb.CleanupSessionRequest(session_id=session, force=True)
        await self._call("CleanupSession", request, pb.CleanupSessionResponse)

    async def count_variables(self, session: str) -> int:
        """Return how many variables the session has."""
        request = pb.GetSessionRequest(session_id=session)
        return (await self._call("GetSession", request, pb.GetSessionResponse)).variable_count

    async def heartbeat(self, session: str) -> bool:
        """Keep the session from expiring; return whether there is such a session."""
        request = pb.HeartbeatRequest(session_id=session)
        return (await self._call("Heartbeat", request, pb.HeartbeatResponse)).session_valid

    async def list_raw(self, session: str, pattern: str = "") -> bytes:
        """Return all variables of the session, read at once, as the bytes of a ``ListVariablesResponse``.

        Equal bytes are equal variables, so a poll without changes needs no decoding.

        Args:
            session: the session.
            pattern: only names in which this regular expression is found; ``*`` in it stands for ``.*``.
        """
        request = pb.ListVariablesRequest(session_id=session, pattern=pattern)
        return await self._call_raw("ListVariables", request, self._describe_call("ListVariables", request))

    async def get(self, session: str, identifier: str) -> RemoteVariable:
        """Return one variable by name or id.

        Raises:
            VariableNotFoundError: the session doesn't have it.
            UnreadableVariableError: its value can't be decoded.
        """
        request = pb.GetVariableRequest(session_id=session, variable_identifier=identifier, bypass_cache=True)
        return decode((await self._call("GetVariable", request, pb.GetVariableResponse, identifier)).variable)

    async def get_many(self, session: str, identifiers: Iterable[str]) -> dict[str, RemoteVariable]:
        """Return the variables that exist, by the given identifiers.

        Raises:
            UnreadableVariableError: a value can't be decoded.
        """
        request = pb.BatchGetVariablesRequest(session_id=session, variable_identifiers=identifiers, bypass_cache=True)
        answer = await self._call("GetVariables", request, pb.BatchGetVariablesResponse)
        return {identifier: decode(message) for identifier, message in answer.variables.items()}

    async def register(self, session: str, variable: Variable, metadata: Mapping[str, str] | None = None) -> str:
        """Register a variable and return its id. An existing name gets a second variable: check with ``get`` first.

        Raises:
            ValidationError: Elixir rejects it.
        """
        request = pb.RegisterVariableRequest(
            session_id=session,
            name=variable.name,
            type=variable.type,
            initial_value=encode(variable),
            constraints_json=encode_constraints(variable.constraints),
            metadata=metadata,
        )
        answer = await self._call(
            "RegisterVariable", request, pb.RegisterVariableResponse, variable.name, variable.value
        )
        _check_accepted(answer.success, answer.error_message, variable)
        return answer.variable_id

    async def set(
        self, session: str, variable: Variable, metadata: Mapping[str, str] | None = None, *, id: str = ""
    ) -> int:
        """Set an existing variable to this one's value. With an ``id``, the name refers to that variable from now on.

        Returns the new version of the variable; concurrent calls may return the same one.

        Raises:
            ValidationError: Elixir rejects the value.
            VariableNotFoundError: the session doesn't have it.
        """
        request = pb.SetVariableRequest(
            session_id=session,
            variable_identifier=id or variable.name,
            value=encode(variable),
            metadata={"source": "python", **(metadata or {})},
        )
        answer = await self._call("SetVariable", request, pb.SetVariableResponse, variable.name, variable.value)
        _check_accepted(answer.success, answer.error_message, variable)
        return answer.new_version

    async def set_many(
        self, session: str, variables: Iterable[Variable], ids: Mapping[str, str] | None = None
    ) -> dict[str, str]:
        """Set several variables; return those that violate a constraint, each with the reason. The others are set.

        Args:
            session: the session.
            variables: the variables.
            ids: name to id, for variables that are addressed by id.

        Raises:
            ValidationError: one has the wrong type or doesn't exist. None is set.
        """
        by_identifier = {(ids or {}).get(variable.name, variable.name): variable for variable in variables}
        names = {identifier: variable.name for identifier, variable in by_identifier.items()}
        updates = {identifier: encode(variable) for identifier, variable in by_identifier.items()}
        request = pb.BatchSetVariablesRequest(session_id=session, updates=updates)
        answer = await self._call(
            "SetVariables", request, pb.BatchSetVariablesResponse, "/".join(names.values()), list(names.values())
        )
        return {names.get(identifier, identifier): problem for identifier, problem in answer.errors.items()}

    async def delete(self, session: str, identifier: str) -> None:
        """Delete a variable.

        Raises:
            VariableNotFoundError: the session doesn't have it.
        """
        request = pb.DeleteVariableRequest(session_id=session, variable_identifier=identifier)
        await self._call("DeleteVariable", request, pb.DeleteVariableResponse, identifier)

    async def watch(self, session: str, identifiers: Iterable[str]) -> AsyncGenerator[str]:
        """Yield the id of each variable at the start, and of each that changed, while the server streams them.

        Raises:
            ElixirMethodNotServedError: this server doesn't serve watches; poll ``list_raw``.
        """
        request = pb.WatchVariablesRequest(
            session_id=session, variable_identifiers=identifiers, include_initial_values=True
        )
        call = self._describe_call("WatchVariables", request)
        async with self._channels.stream_channel() as channel:
            method = channel.unary_stream(_method_path("WatchVariables"), _serialize, pb.VariableUpdate.FromString)
            updates = method(request)
            try:
                async for update in updates:
                    self._channels.record_answer()
                    yield update.variable_id
            except grpc.aio.AioRpcError as exc:
                raise translate_error(exc, call) from exc
            finally:
                updates.cancel()

    async def aclose(self) -> None:
        """Cancel all calls and close the connections."""
        await self._channels.aclose()

    async def _call(self, method: str, request: Any, answer: type[A], variable: str = "", value: Any = None) -> A:
        call = self._describe_call(method, request, variable, None if value is None else shorten_repr(value))
        return answer.FromString(await self._call_raw(method, request, call))

    async def _call_raw(self, method: str, request: Message, call: BridgeCall) -> bytes:
        async with self._channels.call_slot():
            channel, send = self._channels.get_unary_method(_method_path(method))
            try:
                answer = await send(_serialize(request), timeout=self.timeout_s)
            except grpc.aio.AioRpcError as exc:
                self._channels.record_failure(channel, exc.code())
                raise translate_error(exc, call) from exc
            self._channels.record_answer()
            return answer

    def _describe_call(self, method: str, request: Any, variable: str = "", value: str | None = None) -> BridgeCall:
        session = getattr(request, "session_id", "")
        return BridgeCall(self.address, method, session, variable, value, self._max_answer_bytes)


def _method_path(method: str) -> str:
    return f"/snakepit.bridge.BridgeService/{method}"


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()


def _check_accepted(success: bool, problem: str, variable: Variable) -> None:
    if not success:
        raise ValidationError(variable.name, shorten_repr(variable.value), f"Elixir refuses it: {problem.rstrip('.')}")

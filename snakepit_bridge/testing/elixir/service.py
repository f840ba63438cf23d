"""The methods of a ``BridgeServer``: each takes a request and returns the answer, or raises ``RefusedCallError``."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import grpc

from snakepit_bridge.elixir.generated import snakepit_bridge_pb2 as pb
from snakepit_bridge.testing.elixir.coercion import RefusedCallError
from snakepit_bridge.testing.elixir.sessions import StandInSessions


class Service:
    """The methods, over the sessions of one life of a server."""

    def __init__(self, sessions: StandInSessions) -> None:
        self.sessions = sessions

    def ping(self, request: pb.PingRequest) -> pb.PingResponse:
        """Answer with the message."""
        answer = pb.PingResponse(message=f"pong: {request.message}")
        answer.server_time.FromNanoseconds(time.time_ns())
        return answer

    def initialize(self, request: pb.InitializeSessionRequest) -> pb.InitializeSessionResponse:
        """Make a session exist."""
        self.sessions.begin(request.session_id)
        return pb.InitializeSessionResponse(success=True)

    def cleanup(self, request: pb.CleanupSessionRequest) -> pb.CleanupSessionResponse:
        """End a session."""
        return pb.CleanupSessionResponse(success=True, resources_cleaned=int(self.sessions.end(request.session_id)))

    def describe(self, request: pb.GetSessionRequest) -> pb.GetSessionResponse:
        """Say how many variables a session has."""
        count = len(self.sessions.session(request.session_id).variables)
        return pb.GetSessionResponse(session_id=request.session_id, variable_count=count)

    def heartbeat(self, request: pb.HeartbeatRequest) -> pb.HeartbeatResponse:
        """Keep a session alive; answers OK for one that isn't there."""
        answer = pb.HeartbeatResponse(session_valid=self.sessions.alive(request.session_id))
        answer.server_time.FromNanoseconds(time.time_ns())
        return answer

    def get(self, request: pb.GetVariableRequest) -> pb.GetVariableResponse:
        """Return one variable."""
        with self.sessions.lock:
            found = self.sessions.variable(request.session_id, request.variable_identifier)
            return pb.GetVariableResponse(variable=self.sessions.message(found))

    def get_many(self, request: pb.BatchGetVariablesRequest) -> pb.BatchGetVariablesResponse:
        """Return variables by the identifiers that were asked for."""
        answer = pb.BatchGetVariablesResponse()
        self.sessions.session(request.session_id)
        with self.sessions.lock:
            for identifier in request.variable_identifiers:
                try:
                    found = self.sessions.variable(request.session_id, identifier)
                except RefusedCallError:
                    answer.missing_variables.append(identifier)
                else:
                    answer.variables[identifier].CopyFrom(self.sessions.message(found))
        return answer

    def list(self, request: pb.ListVariablesRequest) -> bytes:
        """Return all variables of a session."""
        return self.sessions.listing(request.session_id, request.pattern)

    def register(self, request: pb.RegisterVariableRequest) -> pb.RegisterVariableResponse:
        """Add a variable."""
        given = (request.name, request.type, request.initial_value, request.constraints_json, dict(request.metadata))
        return pb.RegisterVariableResponse(success=True, variable_id=self.sessions.register(request.session_id, *given))

    def set(self, request: pb.SetVariableRequest) -> pb.SetVariableResponse:
        """Set a variable, whatever version was expected."""
        target = (request.session_id, request.variable_identifier)
        self.sessions.set(*target, request.value, dict(request.metadata))
        return pb.SetVariableResponse(success=True, new_version=self.sessions.variable(*target).version)

    def set_many(self, request: pb.BatchSetVariablesRequest) -> pb.BatchSetVariablesResponse:
        """Set those that no constraint refuses; none if one isn't there or has the wrong type."""
        answer = pb.BatchSetVariablesResponse()
        self.sessions.session(request.session_id)
        with self.sessions.lock:
            for identifier, value in request.updates.items():
                self._check(request.session_id, identifier, value)
            for identifier, value in request.updates.items():
                try:
                    given = {name: text for name, text in request.metadata.items() if name != "source"}
                    answer.new_versions[identifier] = self.sessions.set(request.session_id, identifier, value, given)
                except RefusedCallError as refused:
                    answer.errors[identifier] = refused.details
        answer.success = not answer.errors
        return answer

    def delete(self, request: pb.DeleteVariableRequest) -> pb.DeleteVariableResponse:
        """Remove a variable."""
        self.sessions.delete(request.session_id, request.variable_identifier)
        return pb.DeleteVariableResponse(success=True)

    def updates(self, request: pb.WatchVariablesRequest, ids: Iterable[str]) -> Iterator[pb.VariableUpdate]:
        """Yield an update for each of these ids that the request names."""
        self.sessions.session(request.session_id)
        wanted = set(request.variable_identifiers)
        initial = request.variable_identifiers if request.include_initial_values else ()
        for id in itertools.chain(initial, ids):
            try:
                found = self.sessions.variable(request.session_id, id)
            except RefusedCallError:
                if id in wanted:
                    yield pb.VariableUpdate(variable_id=id, update_type="deleted")
                continue
            if not wanted.isdisjoint((found.id, found.name)):
                yield pb.VariableUpdate(
                    variable_id=id, variable=self.sessions.message(found), update_type="value_change"
                )

    def _check(self, session: str, identifier: str, value: Any) -> None:
        try:
            self.sessions.check(session, identifier, value)
        except RefusedCallError as refused:
            raise RefusedCallError(grpc.StatusCode.INVALID_ARGUMENT, refused.details) from refused


SERVED: dict[str, tuple[Any, Callable[[Service, Any], Any]]] = {
    "Ping": (pb.PingRequest, Service.ping),
    "InitializeSession": (pb.InitializeSessionRequest, Service.initialize),
    "CleanupSession": (pb.CleanupSessionRequest, Service.cleanup),
    "GetSession": (pb.GetSessionRequest, Service.describe),
    "Heartbeat": (pb.HeartbeatRequest, Service.heartbeat),
    "GetVariable": (pb.GetVariableRequest, Service.get),
    "SetVariable": (pb.SetVariableRequest, Service.set),
    "GetVariables": (pb.BatchGetVariablesRequest, Service.get_many),
    "SetVariables": (pb.BatchSetVariablesRequest, Service.set_many),
    "RegisterVariable": (pb.RegisterVariableRequest, Service.register),
    "ListVariables": (pb.ListVariablesRequest, Service.list),
    "DeleteVariable": (pb.DeleteVariableRequest, Service.delete),
}
"""The methods that are answered once, by name: what they take and what answers. Others are UNIMPLEMENTED."""

STREAMED: dict[str, Any] = {"WatchVariables": pb.WatchVariablesRequest}
"""The methods that stream."""

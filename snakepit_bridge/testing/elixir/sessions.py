"""The sessions of a ``BridgeServer``: what an Elixir server keeps, with the ids and versions that it gives out."""

from __future__ import annotations

import itertools
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage

from snakepit_bridge.elixir.generated import snakepit_bridge_pb2 as pb
from snakepit_bridge.exceptions import ValidationError
from snakepit_bridge.testing.elixir.coercion import RefusedCallError, obey, read, write
from snakepit_bridge.testing.elixir.quirks import Quirks
from snakepit_bridge.variables import VariableType
from snakepit_bridge.variables.types import coerce

OnChange = Callable[[str, str], None]
"""Called with a session and the id of a variable of it that changed."""


@dataclass(slots=True, eq=False)
class Stored:
    """One variable. ``odd`` ones can't be encoded: whatever touches them fails."""

    id: str
    name: str
    kind: VariableType
    value: Any
    constraints: dict[str, Any]
    metadata: dict[str, str]
    version: int = 0
    python: bool = False
    odd: bool = False


@dataclass(slots=True, eq=False)
class StandInSession:
    """One session; ``names`` point to the variable of a name that was registered or set last."""

    used_at: float
    variables: dict[str, Stored] = field(default_factory=dict[str, Stored])
    names: dict[str, str] = field(default_factory=dict[str, str])
    listing: bytes | None = None


class StandInSessions:
    """All sessions of one life of a server; ids begin anew with each."""

    def __init__(self, quirks: Quirks, on_change: OnChange) -> None:
        self._quirks = quirks
        self._on_change = on_change
        self._sessions: dict[str, StandInSession] = {}
        self._numbers = itertools.count(1)
        self.lock = threading.RLock()

    def begin(self, name: str) -> None:
        """Make a session exist."""
        if not name:
            raise RefusedCallError(grpc.StatusCode.INTERNAL, "invalid_id")
        with self.lock:
            self._sessions.setdefault(name, StandInSession(time.monotonic())).used_at = time.monotonic()

    def end(self, name: str) -> bool:
        """Forget a session; return whether there was one."""
        with self.lock:
            return self._sessions.pop(name, None) is not None

    def alive(self, name: str) -> bool:
        """Return whether there is such a session, and keep it from expiring."""
        try:
            self.session(name)
        except RefusedCallError:
            return False
        return True

    def session(self, name: str) -> StandInSession:
        """Return a session, which counts as a use of it."""
        with self.lock:
            found, now = self._sessions.get(name), time.monotonic()
            if found is None or now - found.used_at > self._quirks.session_ttl_s:
                self._sessions.pop(name, None)
                raise RefusedCallError(grpc.StatusCode.NOT_FOUND, f"Session not found: {name}")
            found.used_at = now
            return found

    def variable(self, session: str, identifier: str) -> Stored:
        """Return a variable by id or else by name, so that an id shadows a name."""
        with self.lock:
            held = self.session(session)
            found = held.variables.get(identifier) or held.variables.get(held.names.get(identifier, ""))
            if found is None:
                raise RefusedCallError(grpc.StatusCode.NOT_FOUND, f"Variable not found: {identifier}")
            return found

    def register(self, session: str, name: str, kind: str, value: Any, rules: str, metadata: dict[str, str]) -> str:
        """Add a variable, a second one if the name is taken, and return its id; ``value`` may be an Any."""
        self._refuse_values()
        try:
            type_ = VariableType.of(name, kind)
        except ValidationError:
            raise RefusedCallError(grpc.StatusCode.INTERNAL, "unknown_type") from None
        constraints: dict[str, Any] = json.loads(rules or "{}")
        coerced = self._coerced(type_, value, constraints, grpc.StatusCode.INTERNAL)
        with self.lock:
            held = self.session(session)
            id = f"var_{name}_{next(self._numbers)}"
            made_by = {"source": "elixir", "created_by": "session_store"}
            held.variables[id] = Stored(id, name, type_, coerced, constraints, {**made_by, **metadata})
            held.names[name] = id
            self._changed(session, held, id)
            return id

    def set(
        self,
        session: str,
        identifier: str,
        value: Any,
        metadata: dict[str, str] | None = None,
        refusal: grpc.StatusCode = grpc.StatusCode.INTERNAL,
    ) -> int:
        """Set a variable and return the version after it; an equal value is a new version as well."""
        self._refuse_values()
        with self.lock:
            held, found = self.session(session), self.variable(session, identifier)
            found.value = self._coerced(found.kind, value, found.constraints, refusal)
            found.version += 1
            found.python = (metadata or {}).get("source") == "python"
            given = {"source": "elixir", **(metadata or {}), "updated_at": datetime.now(UTC).isoformat()}
            found.metadata |= given
            held.names[found.name] = found.id
            self._changed(session, held, found.id)
            return found.version

    def check(self, session: str, identifier: str, value: AnyMessage) -> None:
        """Return if the value has the type of a variable that is there."""
        found = self.variable(session, identifier)
        read(value, found.kind, {}, grpc.StatusCode.INVALID_ARGUMENT)

    def delete(self, session: str, identifier: str) -> None:
        """Remove a variable. Its name means nothing from then on, though there may be another variable of it."""
        with self.lock:
            held, found = self.session(session), self.variable(session, identifier)
            del held.variables[found.id]
            held.names.pop(found.name, None)
            self._changed(session, held, found.id)

    def spoil(self, session: str, identifier: str, odd: bool) -> None:
        """Give a variable metadata that can't be encoded, or mends it."""
        with self.lock:
            found = self.variable(session, identifier)
            found.odd = odd
            self._changed(session, self.session(session), found.id)

    def listing(self, session: str, pattern: str) -> bytes:
        """Return all variables by id, or those whose name the pattern is found in, as a ``ListVariablesResponse``."""
        with self.lock:
            held = self.session(session)
            if held.listing is not None and not pattern:
                return held.listing
            found = list(self._matching(held, pattern))
            spoilers = held.variables.values() if self._quirks.odd_variables_spoil_patterns else found
            if any(spoiler.odd for spoiler in spoilers):
                raise RefusedCallError(grpc.StatusCode.UNKNOWN, "Internal Server Error")
            answer = pb.ListVariablesResponse(variables=map(self.message, found)).SerializeToString()
            if not pattern:
                held.listing = answer
            return answer

    def message(self, stored: Stored) -> pb.Variable:
        """Return a variable as it is sent."""
        if stored.odd:
            raise RefusedCallError(grpc.StatusCode.UNKNOWN, "Internal Server Error")
        value, binary = write(stored.kind, stored.value, binary=self._quirks.binary_embeddings)
        message = pb.Variable(id=stored.id, name=stored.name, type=stored.kind, value=value, binary_value=binary)
        message.constraints_json = json.dumps(
            stored.constraints, ensure_ascii=False, sort_keys=True, separators=(",", ":")
        )
        message.metadata.update(stored.metadata)
        message.version = stored.version
        message.source = pb.Variable.PYTHON if stored.python else pb.Variable.ELIXIR
        message.last_updated_at.seconds = -576_460_751
        return message

    def forget_listings(self) -> None:
        """Encode every listing anew, after a quirk was turned."""
        with self.lock:
            for held in self._sessions.values():
                held.listing = None

    @staticmethod
    def _matching(held: StandInSession, pattern: str) -> Iterator[Stored]:
        try:
            wanted = re.compile(pattern.replace("*", ".*"))
        except re.error:
            raise RefusedCallError(grpc.StatusCode.UNKNOWN, "Internal Server Error") from None
        return (held.variables[id] for id in sorted(held.variables) if wanted.search(held.variables[id].name))

    @staticmethod
    def _coerced(kind: VariableType, value: Any, rules: dict[str, Any], refusal: grpc.StatusCode) -> Any:
        if isinstance(value, AnyMessage):
            return read(value, kind, rules, refusal)
        coerced = coerce("value", kind, value)
        obey(kind, coerced, rules)
        return coerced

    def _refuse_values(self) -> None:
        if self._quirks.refuse_values:
            raise RefusedCallError(grpc.StatusCode.INTERNAL, "variable_locked_for_optimization")

    def _changed(self, session: str, held: StandInSession, id: str) -> None:
        held.listing = None
        self._on_change(session, id)

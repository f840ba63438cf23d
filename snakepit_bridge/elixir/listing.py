"""The variables of a session in one response: by name, with those that could not be decoded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from google.protobuf.message import DecodeError

from snakepit_bridge.elixir.codec import RemoteVariable, decode
from snakepit_bridge.elixir.errors import ElixirFailedError, UnreadableVariableError
from snakepit_bridge.elixir.generated import snakepit_bridge_pb2 as pb
from snakepit_bridge.variables import Variable


@dataclass(frozen=True, slots=True)
class VariableListing:
    """The variables of a session at one moment.

    Attributes:
        remotes: each name with its variables; more than one where a name was registered twice.
        unreadable: variables that exist and can't be decoded, by name, with the problem.
    """

    remotes: Mapping[str, tuple[RemoteVariable, ...]] = field(default_factory=dict)
    unreadable: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, answer: pb.ListVariablesResponse) -> VariableListing:
        """Return the listing of a ListVariables response."""
        remotes: dict[str, tuple[RemoteVariable, ...]] = {}
        unreadable: dict[str, str] = {}
        for message in answer.variables:
            try:
                remote = decode(message)
            except UnreadableVariableError as exc:
                unreadable[message.name] = exc.problem
            else:
                remotes[message.name] = (*remotes.get(message.name, ()), remote)
        # Which of two variables a name refers to is unknown while one of them is unreadable.
        return cls({name: found for name, found in remotes.items() if name not in unreadable}, unreadable)

    @classmethod
    def read(cls, raw: bytes, session: str) -> VariableListing:
        """Decode the bytes of a ListVariables response.

        Raises:
            ElixirFailedError: they can't be decoded, for example because of a text that isn't UTF-8.
        """
        try:
            answer = pb.ListVariablesResponse.FromString(raw)
        except DecodeError as exc:
            raise ElixirFailedError("ListVariables", session, "OK", f"the answer can't be decoded ({exc})") from exc
        return cls.of(answer)

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of all variables that could be read."""
        return tuple(remote.id for remotes in self.remotes.values() for remote in remotes)

    @property
    def dropped(self) -> dict[str, tuple[str, ...]]:
        """Constraints that have no meaning here, by variable."""
        return {name: found[-1].dropped for name, found in self.remotes.items() if found[-1].dropped}

    def find_duplicates(self) -> dict[str, tuple[RemoteVariable, ...]]:
        """Return the names that were registered more than once."""
        return {name: remotes for name, remotes in self.remotes.items() if len(remotes) > 1}

    def choose_variables(self, chosen_ids: Mapping[str, str]) -> dict[str, Variable]:
        """Return one variable per name.

        Args:
            meant: name to id, for names that were registered twice; the newest is used for others.
        """
        return {name: _choose_remote(remotes, chosen_ids.get(name)).variable for name, remotes in self.remotes.items()}


def _choose_remote(remotes: Iterable[RemoteVariable], meant: str | None) -> RemoteVariable:
    return max(remotes, key=lambda remote: (remote.id == meant, registration_number(remote.id)))


def registration_number(id: str) -> int:
    """Return the number that an id ends in, which grows with each registration; -1 if it has none."""
    number = id.rpartition("_")[2]
    return int(number) if number.isascii() and number.isdigit() and len(number) < 20 else -1

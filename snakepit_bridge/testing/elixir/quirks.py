"""What can be odd about an Elixir server, as switches: each of these was seen on a running one, or on the way to it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Quirks:
    """The switches of a ``BridgeServer``; they can be turned while it runs.

    Attributes:
        watch: serve WatchVariables; snakepit 0.4.3 answers UNIMPLEMENTED.
        mute_watch: serve it, and never tell anything.
        binary_embeddings: send embeddings of more than 1,280 floats as Erlang terms, as snakepit does.
        refuse_values: refuse every value that is set or registered, as INTERNAL.
        odd_variables_spoil_patterns: a variable that can't be encoded breaks even a listing that leaves it out.
        latency_s: seconds before each answer.
        flaky: the share of calls that fail as UNAVAILABLE.
        silent: take calls and answer none, like a network that drops packets.
        session_ttl_s: seconds after which a session that nobody uses is gone.
        concurrent_streams: calls and streams that one connection takes at a time; more of them wait. Read at the start.
    """

    watch: bool = False
    mute_watch: bool = False
    binary_embeddings: bool = True
    refuse_values: bool = False
    odd_variables_spoil_patterns: bool = False
    latency_s: float = 0.0
    flaky: float = 0.0
    silent: bool = False
    session_ttl_s: float = 3600.0
    concurrent_streams: int = 100

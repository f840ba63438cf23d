"""``dspex-fleet``: the client's commands, for operators and for shells.

It loads neither DSPy nor gRPC until a command needs them.
"""

from snakepit_bridge.cli.main import main

__all__ = ["main"]

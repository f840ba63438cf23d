"""What an application imports: :class:`Fleet` to enqueue predictions, :class:`Handle` to wait for one.

Importing it loads neither DSPy nor gRPC; DSPy comes in with the first prediction that is handed back.
"""

from snakepit_bridge.client.fleet import Fleet
from snakepit_bridge.client.handle import Handle

__all__ = ["Fleet", "Handle"]

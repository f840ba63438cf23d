"""The sandbox in which programs run code that an LM has written: Pyodide in Deno, as DSPy has it, with limits.

DSPy's runner loads two things: Pyodide, from the npm registry or from the cache in ``DENO_DIR``, and a function of
Deno's standard library, which is here. ``python -m snakepit_bridge.dspy_integration.sandbox`` fills the cache and
checks that the sandbox works; after that it needs no network, and may be read-only.
"""

from __future__ import annotations

from snakepit_bridge.dspy_integration.sandbox.interpreter import SANDBOX, Sandbox, SandboxLimits

__all__ = ["SANDBOX", "Sandbox", "SandboxLimits"]

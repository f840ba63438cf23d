"""Callbacks: be told when a bound variable changes.

python examples/callbacks.py
"""

from __future__ import annotations

from typing import Any

from _setup import run

from snakepit_bridge import SessionContext
from snakepit_bridge.dspy_integration import create_variable_aware_module
from snakepit_bridge.testing import RecordingLM


async def callbacks(ctx: SessionContext, server: RecordingLM) -> None:
    """Keep a history of a module's temperature."""
    await ctx.set_variable("llm_temperature", 0.7)
    history: list[tuple[Any, Any]] = []

    def on_temperature_change(attribute: str, old: Any, new: Any) -> None:
        history.append((old, new))
        print(f"{attribute} changed: {old} -> {new}")

    predictor = await create_variable_aware_module(
        ctx, "Predict", "text -> summary", variable_bindings={"temperature": "llm_temperature"}
    )
    predictor.on_change("temperature", on_temperature_change)

    for temperature in (0.5, 0.7, 0.7, 0.9):
        await ctx.set_variable("llm_temperature", temperature)
        # A call syncs by itself; this shows what a sync of one's own returns.
        print(f"Synced: {await predictor.sync_variables()}")
        await predictor.forward_async(text="DSPex joins Elixir and Python.")

    predictor.unbind_variable("temperature")
    await ctx.set_variable("llm_temperature", 0.1)
    await predictor.forward_async(text="Nobody is told any more.")

    print(f"Temperature history: {history}")
    print(f"The model was asked at: {[request.temperature for request in server.requests]}")


if __name__ == "__main__":
    run(callbacks, __doc__)

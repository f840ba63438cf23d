"""Basic binding: a module's temperature and token limit follow session variables, call by call.

python examples/basic_binding.py
"""

from __future__ import annotations

from _setup import run

from snakepit_bridge import SessionContext
from snakepit_bridge.dspy_integration import VariableAwareChainOfThought
from snakepit_bridge.testing import RecordingLM


async def basic_binding(ctx: SessionContext, server: RecordingLM) -> None:
    """Bind a ChainOfThought, ask, change a variable, ask again."""
    # In production Elixir publishes these.
    await ctx.set_variables({"llm_temperature": 0.7, "generation_max_tokens": 256})

    cot = VariableAwareChainOfThought("question -> answer", session_context=ctx)
    await cot.bind_to_variable("temperature", "llm_temperature")
    await cot.bind_to_variable("max_tokens", "generation_max_tokens")

    result = await cot.forward_async(question="What is 17 + 25?")
    print(f"Answer: {result.answer}")
    print(f"Current temperature: {cot.temperature}")

    await ctx.set_variable("llm_temperature", 0.9)

    result = await cot.forward_async(question="What is 12 * 12?")
    print(f"Answer: {result.answer}")
    print(f"Updated temperature: {cot.temperature}")

    for request in server.requests:
        print(f"The model was asked at temperature {request.temperature}, for at most {request.max_tokens} tokens")


if __name__ == "__main__":
    run(basic_binding, __doc__)

"""Dynamic selection: a variable decides which DSPy module answers.

python examples/dynamic_selection.py
"""

from __future__ import annotations

from _setup import run

from snakepit_bridge import SessionContext
from snakepit_bridge.dspy_integration import ModuleVariableResolver
from snakepit_bridge.exceptions import UnknownModuleError
from snakepit_bridge.testing import RecordingLM


def look_up(word: str) -> str:
    """Look a word up in the glossary."""
    return f"{word} is in the glossary."


async def dynamic_selection(ctx: SessionContext, server: RecordingLM) -> None:
    """Create the module that the variable names, change the variable, create the next one."""
    resolver = ModuleVariableResolver(ctx)
    print(f"Available: {', '.join(resolver.get_available_modules())}")

    for strategy in ("ChainOfThought", "ReAct", "predict"):
        await ctx.set_variables({"reasoning_strategy": strategy}, types={"reasoning_strategy": "module"})
        server.clear()

        # One set of arguments serves every module: ReAct takes the tools, the others leave them.
        module = await resolver.create_module(
            "reasoning_strategy", "question -> answer", temperature=0.7, tools=[look_up]
        )
        print(f"{strategy}: created {type(module).__name__}")

        result = await module.forward_async(question="What is 6 * 7?")
        print(f"Answer: {result.answer}")
        temperatures = sorted({str(request.temperature) for request in server.requests})
        print(f"Requests: {len(server.requests)}, at temperature {', '.join(temperatures)}")

    await ctx.set_variable("reasoning_strategy", "ChainOfThougt")
    try:
        await resolver.resolve_module("reasoning_strategy")
    except UnknownModuleError as unknown:
        print(f"Refused: {unknown}")


if __name__ == "__main__":
    run(dynamic_selection, __doc__)

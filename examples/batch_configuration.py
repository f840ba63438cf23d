"""Batch configuration: one set of variables steers a pipeline of three modules.

python examples/batch_configuration.py
"""

from __future__ import annotations

from _setup import run

from snakepit_bridge import SessionContext
from snakepit_bridge.dspy_integration import ModuleVariableResolver, create_variable_aware_module
from snakepit_bridge.testing import RecordingLM

QUESTION = "What are the advantages of functional programming?"


async def batch_configuration(ctx: SessionContext, server: RecordingLM) -> None:
    """Build the pipeline, run it, change all variables at once, run it again."""
    await ctx.set_variables(
        {
            "pipeline_temperature": 0.7,
            "pipeline_max_tokens": 256,
            "pipeline_model": "gpt-4",
            "pipeline_strategy": "ChainOfThought",
        }
    )
    understand = await create_variable_aware_module(
        ctx,
        "Predict",
        "question -> key_concepts",
        variable_bindings={"temperature": "pipeline_temperature", "model": "pipeline_model"},
    )
    reason = await ModuleVariableResolver(ctx).create_module("pipeline_strategy", "question, key_concepts -> answer")
    await reason.bind_to_variable("temperature", "pipeline_temperature")
    await reason.bind_to_variable("max_tokens", "pipeline_max_tokens")
    summarize = await create_variable_aware_module(
        ctx, "Predict", "answer -> summary", variable_bindings={"temperature": "pipeline_temperature"}
    )

    async def pipeline() -> None:
        server.clear()
        concepts = await understand.forward_async(question=QUESTION)
        answer = await reason.forward_async(question=QUESTION, key_concepts=concepts.key_concepts)
        summary = await summarize.forward_async(answer=answer.answer)
        print(f"Question: {QUESTION}")
        print(f"Summary: {summary.summary}")
        for step, request in zip(("understand", "reason", "summarize"), server.requests, strict=True):
            limit = f", at most {request.max_tokens} tokens" if request.max_tokens else ""
            print(f"{step}: model {request.model}, temperature {request.temperature}{limit}")

    await pipeline()
    print(f"reason is a {type(reason).__name__}")
    # One publish, one revision: no module can see half of it.
    await ctx.set_variables({"pipeline_temperature": 0.2, "pipeline_max_tokens": 64, "pipeline_model": "gpt-4o-mini"})
    await pipeline()


if __name__ == "__main__":
    run(batch_configuration, __doc__)

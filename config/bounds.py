"""How much a program or a variable may ask of a worker, read from the environment beside the other settings."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class BoundSettings(BaseSettings):
    """The bounds on counts, depths and sizes that a spec or a variable may name. Each is ``DSPEX_<FIELD>``."""

    model_config = SettingsConfigDict(env_prefix="DSPEX_", env_ignore_empty=True, frozen=True, extra="ignore")

    max_completions: int = Field(default=128, ge=1, description="completions of one LM call (`n`)")
    max_output_tokens: int = Field(default=1_000_000, ge=1, description="tokens of an answer (`max_tokens`)")
    max_attempts: int = Field(
        default=100,
        ge=1,
        description="attempts of MultiChainComparison, BestOfN and Refine; programs that an Ensemble draws",
    )
    max_iterations: int = Field(
        default=1_000, ge=1, description="rounds of an agent (`max_iters`), and calls within them"
    )
    max_threads: int = Field(default=64, ge=1, description="threads of Parallel")
    max_demos: int = Field(default=1_000, ge=1, description="demos of one predictor")
    max_tools: int = Field(default=100, ge=1, description="tools of one module")
    max_fields: int = Field(default=200, ge=1, description="fields of one signature")
    max_modules: int = Field(default=100, ge=1, description="modules of one program, all that are nested in it counted")
    max_module_depth: int = Field(default=8, ge=0, le=20, description="how deep modules are nested")
    max_json_depth: int = Field(
        default=64, ge=1, le=150, description="how deep the lists and objects of one value are nested"
    )
    max_text_chars: int = Field(default=200_000, ge=1, description="characters of one text, such as instructions")
    max_count: int = Field(default=1_000_000, ge=1, description="every other count, such as `top_k`")

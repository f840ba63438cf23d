"""Connection settings of an LM, as an operator's profile declares them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import dspy
from pydantic import SecretStr

from snakepit_bridge.lm.policies import EngineName


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Connection settings of an LM. The key is masked in its repr.

    Attributes:
        profile: the LM profile's name.
        model: DSPy's ``provider/model`` string.
        api_base: endpoint, where it isn't the provider's own.
        api_key: its key; without one the provider's own environment variable.
        engine: ``lm15`` is DSPy's native client; ``auto`` takes it wherever it can, else litellm.
        model_type: ``chat`` or ``responses``.
        timeout_s: total seconds that one request may take.
        max_connections: most concurrent requests of a process.
        client: further settings of the connection, such as headers, which only litellm supports.
    """

    profile: str
    model: str
    api_base: str | None = None
    api_key: SecretStr | None = None
    engine: EngineName = "auto"
    model_type: Literal["chat", "responses", "text"] = "chat"
    timeout_s: float = 120.0
    max_connections: int = 4096
    client: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False)

    def client_settings(self) -> dict[str, Any]:
        """Return the settings as DSPy's own LM names them, the key in clear text: for a client, never for a log."""
        settings: dict[str, Any] = {**self.client, "timeout": self.timeout_s}
        if self.api_base is not None:
            settings["api_base"] = self.api_base
        if self.api_key is not None:
            settings["api_key"] = self.api_key.get_secret_value()
        return settings

    def build_dspy_lm(self) -> dspy.LM:
        """Return DSPy's own LM for the same endpoint, for its capabilities; it is never called."""
        return dspy.LM(
            self.model, self.model_type, engine=self.engine, cache=False, num_retries=0, **self.client_settings()
        )

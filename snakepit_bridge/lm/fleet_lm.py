"""FleetLM: stands for an LM of the fleet where DSPy wants one in this process."""

from __future__ import annotations

from typing import Any

import dspy

from snakepit_bridge.exceptions import ConfigurationError


class FleetLM(dspy.LM):
    """A name for an LM profile of the fleet. It makes no calls here.

    Optimizers copy it with other settings, such as a temperature, which the predictions on the fleet then have.

    Args:
        profile: the LM profile; the program's own if empty.
        **kwargs: its settings, as of ``dspy.LM``.
    """

    def __init__(self, profile: str = "", **kwargs: Any) -> None:
        super().__init__(f"fleet/{profile or 'default'}", **kwargs)
        self.profile = profile

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse a call in this process.

        Raises:
            ConfigurationError: says where the LM for it comes from.
        """
        raise ConfigurationError(
            f"The LM {self.model} stands for one of the fleet's, and is called there. An optimizer that asks an LM "
            "itself needs one in this process: dspy.configure(lm=…), or its prompt_model= or reflection_lm=."
        )

    async def acall(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse a call in this process.

        Raises:
            ConfigurationError: says where the LM for it comes from.
        """
        return self(*args, **kwargs)

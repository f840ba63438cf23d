"""A user's package that configures DSPy for the whole process when it is imported, and more than once."""

from __future__ import annotations

import threading
from typing import Any

import dspy

dspy.configure(adapter=dspy.JSONAdapter(), num_threads=1)
dspy.settings.configure(track_usage=False)
dspy.settings.warn_on_type_mismatch = False
dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=True)
_elsewhere = threading.Thread(target=lambda: dspy.configure(adapter=dspy.XMLAdapter()))
_elsewhere.start()
_elsewhere.join()
dspy.settings.callbacks.append(None)


class Asks(dspy.Module):
    """Configures DSPy once more when it is built, and in each call."""

    def __init__(self) -> None:
        super().__init__()
        dspy.configure(adapter=dspy.XMLAdapter())
        self.ask = dspy.Predict("question -> answer")

    def forward(self, question: str) -> Any:
        """Answer with the adapter that holds after it has configured another."""
        prediction = self.ask(question=question)
        dspy.configure(adapter=dspy.JSONAdapter())
        return dspy.Prediction(answer=prediction.answer, adapter=type(dspy.settings.adapter).__name__)

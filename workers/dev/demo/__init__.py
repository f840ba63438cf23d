"""The demo: the main job on real questions, with the variables changing meanwhile, judged by the LM's own log."""

from workers.dev.demo.run import run_demo

__all__ = ["run_demo"]

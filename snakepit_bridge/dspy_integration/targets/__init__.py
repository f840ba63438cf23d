"""Targets: what a variable may steer on a module, and how its value takes effect in DSPy."""

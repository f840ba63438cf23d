"""Targets: what a variable can be bound to on a module, and how its value takes effect in DSPy."""

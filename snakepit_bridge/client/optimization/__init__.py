"""Optimization: DSPy's optimizers, whose evaluations run on the fleet."""

"""Session variables: names, types, constraints, and their stored form."""

from snakepit_bridge.variables.constraints import Constraints
from snakepit_bridge.variables.types import Tensor, VariableType
from snakepit_bridge.variables.variable import Variable

__all__ = ["Constraints", "Tensor", "Variable", "VariableType"]

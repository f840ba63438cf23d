"""Session variables: what they are called, what they can hold, what their values obey, and how they are stored."""

from snakepit_bridge.variables.constraints import Constraints
from snakepit_bridge.variables.types import Tensor, VariableType
from snakepit_bridge.variables.variable import Variable

__all__ = ["Constraints", "Tensor", "Variable", "VariableType"]

"""Node parameters from a table: declared, described, ranged, and checked before they count."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import rclpy
from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.exceptions import InvalidParameterTypeException
from rclpy.node import Node

# Declared by rclpy itself or meant for it; not a misspelling of one of ours.
_FOREIGN = ("use_sim_time", "start_type_description_service", "qos_overrides.")


class ParameterError(ValueError):
    """A parameter has a value that the node cannot work with."""


@dataclass(frozen=True)
class Parameter:
    """One parameter. Its type is that of the default (lists: of their first element)."""

    default: Any
    description: str
    low: float | None = None  # smallest value, for each number of a list
    high: float | None = None  # largest value
    choices: tuple[str, ...] = ()
    read_only: bool = False  # fixed when the node starts
    live: bool = False  # may change while the node is configured; others only before

    def problem(self, name: str, value: Any) -> str:
        """Return "" or what is wrong with `value`, in words that name the cure."""
        values = value if isinstance(value, list | tuple) or hasattr(value, "typecode") else [value]
        if self.choices and any(item not in self.choices for item in values):
            return f"{name} is {value!r}: choose from {', '.join(self.choices)}"
        if not isinstance(self.default, list) and len(values) != 1:
            return f"{name} is {value!r}: one value is wanted, not a list"
        for item in values:
            if isinstance(item, bool) or not isinstance(item, int | float):
                continue
            if not math.isfinite(item):
                return f"{name} is {item}: it must be finite"
            if self.low is not None and item < self.low:
                return f"{name} is {item:g}: it must be {self.low:g} or more"
            if self.high is not None and item > self.high:
                return f"{name} is {item:g}: it must be {self.high:g} or less"
        return ""

    def descriptor(self) -> ParameterDescriptor:
        descriptor = ParameterDescriptor(description=self.description, read_only=self.read_only)
        limited = self.low is not None or self.high is not None
        low = -1e9 if self.low is None else self.low
        high = 1e9 if self.high is None else self.high
        if isinstance(self.default, float) and limited:
            ranges = [FloatingPointRange(from_value=float(low), to_value=float(high))]
            descriptor.floating_point_range = ranges
        elif isinstance(self.default, int) and limited:
            descriptor.integer_range = [IntegerRange(from_value=int(low), to_value=int(high))]
        words = []
        if isinstance(self.default, list) and limited:
            words.append(f"each from {low:g} to {high:g}")
        if self.choices:
            words.append("one of " + ", ".join(self.choices))
        if not self.live and not self.read_only:
            words.append("may change only while the node is unconfigured")
        descriptor.additional_constraints = "; ".join(words)
        return descriptor


class Parameters:
    """The values of a node's parameters as attributes: `parameters.checkpoint`.

    Raises ParameterError for a value out of its bounds or of the wrong type.
    """

    def __init__(
        self, node: Node, table: dict[str, Parameter], is_configured: Callable[[], bool]
    ) -> None:
        self._table = table
        self._is_configured = is_configured
        self._values: dict[str, Any] = {}
        for name, entry in table.items():
            self._values[name] = self._declare(node, name, entry)
        for name in getattr(node, "_parameter_overrides", {}):
            if name not in table and not name.startswith(_FOREIGN):
                node.get_logger().warning(f"unknown parameter {name} is ignored: is it misspelt?")
        node.add_on_set_parameters_callback(self._on_set)
        node.add_post_set_parameters_callback(self._after_set)

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["_values"][name]
        except KeyError:
            raise AttributeError(f"no parameter {name}") from None

    @staticmethod
    def _declare(node: Node, name: str, entry: Parameter) -> Any:
        descriptor = entry.descriptor()
        try:
            # The bounds are checked below, in clearer words than rclpy's.
            value = node.declare_parameter(name, entry.default, descriptor, ignore_override=False)
        except InvalidParameterTypeException as error:
            raise ParameterError(
                f"parameter {name} must be of the type of {entry.default!r} "
                f"(a number with a decimal point where that has one): {error}"
            ) from None
        except rclpy.exceptions.InvalidParameterValueException as error:
            raise ParameterError(f"parameter {name}: {error}") from None
        problem = entry.problem(name, value.value)
        if problem:
            raise ParameterError(f"parameter {problem}")
        return value.value

    def _on_set(self, parameters: list[rclpy.Parameter]) -> SetParametersResult:
        for parameter in parameters:
            entry = self._table.get(parameter.name)
            if entry is None:
                continue
            problem = entry.problem(parameter.name, parameter.value)
            if not problem and not entry.live and self._is_configured():
                problem = (
                    f"{parameter.name} may change only while the node is unconfigured: "
                    "deactivate and clean it up first"
                )
            if problem:
                return SetParametersResult(successful=False, reason=problem)
        return SetParametersResult(successful=True)

    def _after_set(self, parameters: list[rclpy.Parameter]) -> None:
        for parameter in parameters:
            if parameter.name in self._table:
                self._values[parameter.name] = parameter.value

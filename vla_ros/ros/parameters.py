"""Node parameters from a table: declared, described, ranged, and checked before they count."""

from __future__ import annotations

import json
import math
from array import array
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
from rclpy.node import Node

from vla_ros.ros.parameter_file import (
    ParameterError,
    is_foreign,
    noted,
    shared_names,
    unknown,
    wrong_length,
)


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
    per: str = ""  # the parameter that lists what its numbers are of: one for all, or one for each

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

    def misfit(self, name: str, value: Any) -> str:
        """Return "" or why `value` is of another type or out of bounds, in words.

        Whole numbers are taken where others are meant.
        """
        wanted, given = self.default, value
        if given is None or given == []:
            return f"{name} has no value: give it one, or leave it out"
        if isinstance(wanted, list) and not isinstance(given, list):
            return f"{name} is {_yaml(given)}: a list is wanted, such as {_yaml(wanted)}"
        if isinstance(given, list) and not isinstance(wanted, list):
            return f"{name} is {_yaml(given)}: one value is wanted, not a list"
        if isinstance(wanted, list):
            wanted, given = wanted[0], given[0]
        fits = (int, float) if isinstance(wanted, float) else (type(wanted),)
        if type(given) not in fits:
            kind = {str: "text", bool: "true or false", int: "a whole number", float: "a number"}
            cure = ""
            if isinstance(wanted, str):
                cure = ": put it in quotes"
            return f"{name} is {_yaml(value)}: {kind[type(wanted)]} is wanted{cure}"
        return self.problem(name, value)

    def taken(self, value: Any) -> Any:
        """A fitting value with the type of the default."""
        if isinstance(self.default, list):
            kind = type(self.default[0])
            return [kind(item) for item in value]
        return type(self.default)(value)

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


def _yaml(value: Any) -> str:
    """A value as one writes it into a parameter file."""
    return json.dumps(value, ensure_ascii=False, default=str)


AUTOSTART = Parameter(
    True,
    "Configure and activate by itself at the start; false leaves both to a lifecycle manager.",
    read_only=True,
)


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
        for file in noted(node.context):
            file.check_values(node.get_fully_qualified_name(), table)
        for name, entry in table.items():
            self._values[name] = self._declare(node, name, entry)
        for name, entry in table.items():
            if not entry.per:
                continue
            problem = wrong_length(name, self._values[name], entry.per, self._values[entry.per])
            if problem:
                paths = [str(file.path) for file in noted(node.context) if file.gives(name)]
                raise ParameterError(": ".join([*paths[-1:], f"parameter {problem}"]))
        shared = shared_names(node.context)
        for name in node._parameter_overrides:
            if name not in table and name not in shared and not is_foreign(name):
                raise ParameterError(unknown(name, node.get_name(), table))
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
        overrides = node._parameter_overrides
        if name in overrides:
            given = overrides[name].value
            given = list(given) if isinstance(given, list | tuple | array) else given
            problem = entry.misfit(name, given)
            if problem:
                raise ParameterError(f"parameter {problem}")
            overrides[name] = rclpy.Parameter(name, value=entry.taken(given))
        value = node.declare_parameter(name, entry.default, descriptor, ignore_override=False)
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

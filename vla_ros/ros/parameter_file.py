"""Parameter files, looked at before a node starts: what would be lost or misread is an error.

rcl passes over a section that matches no node and a parameter that nobody declares, without a word:
a robot then moves with the defaults instead of the limits that somebody wrote down for it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import yaml
from rclpy.context import Context
from rclpy.node import Node

if TYPE_CHECKING:
    from vla_ros.ros.parameters import Parameter

    Tables = Mapping[str, Mapping[str, Parameter]]

# Declared by rclpy itself or meant for it; not a misspelling of one of ours.
_FOREIGN = ("use_sim_time", "start_type_description_service", "qos_overrides.")

_TRUE = {"y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"}
_FALSE = {"n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"}
_NULL = {"", "~", "null", "Null", "NULL"}
_SEGMENT = re.compile(r"[A-Za-z_]\w*|\*\*?")


class ParameterError(ValueError):
    """A parameter has a value that the node cannot work with, or nobody takes it."""


def is_foreign(name: str) -> bool:
    """Whether every node has this parameter, or may have it, without a word of ours."""
    return name.startswith(_FOREIGN)


@dataclass(frozen=True)
class Value:
    line: int
    value: Any


@dataclass(frozen=True)
class Section:
    """The parameters of the nodes whose full names match `pattern`."""

    pattern: str  # absolute, with * and **, as rcl matches it
    line: int
    values: Mapping[str, Value]

    def matches(self, full_name: str) -> bool:
        parts = []
        for part in self.pattern.split("/")[1:]:
            parts.append({"*": r"/\w+", "**": r"(/\w+)*"}.get(part, f"/{part}"))
        return re.fullmatch("".join(parts), full_name) is not None

    @property
    def node(self) -> str:
        """The last part of the pattern: a name, * or **."""
        return self.pattern.rpartition("/")[2]

    @property
    def is_literal(self) -> bool:
        return "*" not in self.pattern


class ParameterFile:
    """A file of parameters for nodes.

    Args:
        path: of the file.

    Raises:
        ParameterError: it cannot be read, or is no parameter file. The text is one line with file
            and line.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            text = self.path.read_text(encoding="utf-8")
            documents = list(yaml.compose_all(text, Loader=yaml.SafeLoader))
        except UnicodeDecodeError:
            raise ParameterError(f"{path} is not text: name a YAML file of parameters") from None
        except OSError as error:
            reason = error.strerror or error
            raise ParameterError(f"parameter file '{path}' cannot be read: {reason}") from None
        except RecursionError:
            raise ParameterError(f"{path} is nested too deep for a parameter file") from None
        except yaml.YAMLError as error:
            raise self._not_yaml(error, text if "text" in locals() else "") from None
        self._refuse_aliases(text)
        self.sections: list[Section] = []
        for document in documents:
            if document is not None:
                self._read(document, "", 1)
        self._refuse_repetitions()

    def check(self, tables: Tables, namespace: str) -> None:
        """Check it for a whole stack of nodes.

        Args:
            tables: parameters of all nodes that the stack may have, by name.
            namespace: of the nodes.

        Raises:
            ParameterError: a section matches no node, or has what its nodes do not take.
        """
        for section in self.sections:
            matched = [n for n in tables if section.matches(full_name(namespace, n))]
            if not matched:
                self._explain_mismatch(section, tables, namespace)
            self._check_values(section, {n: tables[n] for n in matched or [section.node]})

    def check_sections(self, names: Iterable[str], name: str, namespace: str) -> None:
        """Check for one node, which runs by itself: sections of the others may be there too.

        Args:
            names: of all nodes that are known.
            name, namespace: of this node.

        Raises:
            ParameterError: nothing of the file applies to the node, or a section names no node
                that is known.
        """
        own = full_name(namespace, name)
        known = {*names, name}
        for section in self.sections:
            wrong_place = section.node == name and not section.matches(own)
            if wrong_place or section.node not in known | {"*", "**"}:
                self._explain_mismatch(section, known, namespace)
        if not any(section.matches(own) for section in self.sections):
            raise ParameterError(
                f"{self.path}: no section applies to the node {own}: give it one named "
                f"/**/{name}, or start the node without this file"
            )

    def check_values(self, full_name: str, table: Mapping[str, Parameter]) -> None:
        """Check what it says to one node.

        Raises:
            ParameterError: the node does not take a value, or knows no such parameter. Those in
                sections for all nodes (/**) may be meant for another.
        """
        for section in self.sections:
            if section.matches(full_name):
                shared = section.node in ("*", "**")
                self._check_values(section, {section.node: table}, shared)

    # --- reading ----------------------------------------------------------------------------

    def _error(self, line: int, text: str) -> ParameterError:
        return ParameterError(f"{self.path}, line {line}: {text}")

    def _refuse_aliases(self, text: str) -> None:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                line = event.start_mark.line + 1
                raise self._error(line, f"ROS reads no aliases: write out what *{event.anchor} is")

    def _not_yaml(self, error: yaml.YAMLError, text: str) -> ParameterError:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        if mark and "\t" in "".join(text.splitlines()[max(line - 2, 0) : line]):
            return self._error(line, "a tab stands where YAML wants spaces: indent with spaces")
        if mark and re.match(r"\s*\*", "".join(text.splitlines()[line - 1 : line])):
            return self._error(line, "begin the name of a section with /, as in /**/command_gate")
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        return self._error(line, f"this is not YAML: {problem}")

    def _entries(self, node: yaml.Node, where: str) -> Iterator[tuple[str, int, yaml.Node]]:
        line = node.start_mark.line + 1
        if not isinstance(node, yaml.MappingNode):
            raise self._error(
                line,
                f"{where or 'the file'} holds no names with values: a file of parameters reads "
                "/**/NODE: {ros__parameters: {NAME: VALUE}}",
            )
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise self._error(key.start_mark.line + 1, "a list stands where a name is wanted")
            yield key.value, key.start_mark.line + 1, value

    def _read(self, node: yaml.Node, pattern: str, begins: int) -> None:
        """Names of namespaces and nodes, down to `ros__parameters`."""
        for key, line, value in self._entries(node, pattern):
            if key == "ros__parameters":
                if not pattern:
                    raise self._error(line, "ros__parameters stands under no node: put /**: above")
                values = dict(self._values(value, "", f"section {pattern}:"))
                self.sections.append(Section(pattern, begins, values))
                continue
            inner = f"{pattern}/{key.removeprefix('/')}"
            if not isinstance(value, yaml.MappingNode):
                raise self._error(
                    line,
                    f"{pattern or key} has no ros__parameters: put it between "
                    "the node's name and its parameters"
                    + (f" (is {key} meant for it?)" if key.startswith("ros_") else ""),
                )
            if wrong := [p for p in inner.split("/")[1:] if not _SEGMENT.fullmatch(p)]:
                raise self._error(
                    line, f"{inner} is no name of a node ('{wrong[0]}'): write /**/NODE or NODE"
                )
            self._read(value, inner, line)

    def _values(self, node: yaml.Node, prefix: str, where: str) -> Iterator[tuple[str, Value]]:
        seen: set[str] = set()
        for key, line, value in self._entries(node, f"{where} ros__parameters"):
            name = prefix + key
            if name in seen:
                raise self._error(line, f"{where} {name} is given twice: keep one of them")
            seen.add(name)
            if isinstance(value, yaml.MappingNode):
                yield from self._values(value, f"{name}.", where)
            else:
                yield name, Value(line, self._value(f"{where} {name}", line, value))

    def _value(self, name: str, line: int, node: yaml.Node) -> Any:
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(name, line, node)
        if not node.value:
            raise self._error(
                line,
                f"{name} is an empty list: give it a value, or leave it out",
            )
        if not all(isinstance(item, yaml.ScalarNode) for item in node.value):
            raise self._error(line, f"{name} is a list in a list: ROS parameters are flat lists")
        items = [self._scalar(name, line, item) for item in node.value]
        kinds = {type(item) for item in items}
        if kinds == {int, float}:
            whole = next(item for item in items if isinstance(item, int))
            raise self._error(
                line, f"{name} mixes numbers with and without a point: write {whole}.0 for {whole}"
            )
        if len(kinds) > 1:
            raise self._error(line, f"{name} mixes numbers and words: a list has one type")
        return items

    def _scalar(self, name: str, line: int, node: yaml.ScalarNode) -> Any:
        """The value of a scalar by rcl's rules, which are neither YAML 1.1's nor 1.2's."""
        text = node.value
        if node.style is not None:  # in quotes
            return text
        if text in _NULL:
            raise self._error(line, f"{name} has no value: give one, or leave it out")
        if text in _TRUE | _FALSE:
            return text in _TRUE
        if re.fullmatch(r"[-+]?0\d+", text):
            raise self._error(
                line, f"{name} is {text}, which ROS reads as an octal number: drop the leading zero"
            )
        if re.fullmatch(r"[-+]?(0[xX][0-9a-fA-F]+|\d+)", text):
            number = int(text, 16 if "x" in text.lower() else 10)
            return number if -(2**63) <= number < 2**63 else float(number)
        if re.fullmatch(r"[-+]?\.?(inf|Inf|INF|nan|NaN|NAN|infinity)", text):
            return float(text.replace(".", ""))
        if re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", text):
            return float(text)
        return text

    def _refuse_repetitions(self) -> None:
        first: dict[tuple[str, str], int] = {}
        for section in self.sections:
            for name, value in section.values.items():
                before = first.setdefault((section.pattern, name), value.line)
                if before != value.line:
                    raise self._error(
                        value.line,
                        f"section {section.pattern}: {name} is given twice, first in line {before}",
                    )

    # --- checking ---------------------------------------------------------------------------

    def _explain_mismatch(self, section: Section, names: Iterable[str], namespace: str) -> None:
        """Raise, but for a section of the same node in another namespace, beside its own one."""
        name, place = section.node, "/" + namespace.strip("/")
        if name not in names:
            known = ", ".join(sorted(names))
            near = difflib.get_close_matches(name, names, 1)
            cure = f"is {near[0]} meant?" if near else f"it has {known}"
            raise self._error(
                section.line,
                f"section {section.pattern} matches no node of this stack: {cure} (parameters of "
                "other nodes belong in a file of their own)",
            )
        own = full_name(namespace, name)
        if section.is_literal:
            beside = [s for s in self.sections if s.is_literal and s.matches(own)]
            if beside:
                return
        raise self._error(
            section.line,
            f"section {section.pattern} does not match {own}, the node in namespace {place}: "
            f"write /**/{name}",
        )

    def _check_values(self, section: Section, tables: Tables, shared: bool = False) -> None:
        """Check values against the tables of all nodes that the section is for; `shared`: there
        are more."""
        for name, entry in section.values.items():
            if is_foreign(name):
                continue
            takers = {node: table for node, table in tables.items() if name in table}
            if not takers and not shared:
                names = {other for table in tables.values() for other in table}
                whose = next(iter(tables)) if len(tables) == 1 else "any node that it is for"
                text = unknown(name, whose, names)
                raise self._error(entry.line, f"section {section.pattern}: {text}")
            for table in takers.values():
                problem = table[name].misfit(name, entry.value)
                if not problem and (per := table[name].per):
                    problem = self._wrong_length(section, name, per)
                if problem:
                    raise self._error(entry.line, f"section {section.pattern}: {problem}")

    def gives(self, name: str) -> bool:
        """Whether a section has a parameter of that name."""
        return any(name in section.values for section in self.sections)

    def _wrong_length(self, section: Section, name: str, per: str) -> str:
        """Why a list has neither one number nor one for each item of the list `per`; "" if it has,
        or if that list is in another file: the node knows then."""
        given = [s for s in (section, *reversed(self.sections)) if per in s.values]
        if not given or not isinstance(given[0].values[per].value, list):
            return ""
        return wrong_length(name, section.values[name].value, per, given[0].values[per].value)


def full_name(namespace: str, name: str) -> str:
    """`/left/command_gate` from "left" (or "/left/") and "command_gate"."""
    return "/".join(["", *filter(None, namespace.split("/")), name])


def named_in(arguments: Sequence[str]) -> list[str]:
    """The parameter files that ROS arguments name."""
    return [
        after
        for before, after in zip(arguments, arguments[1:], strict=False)
        if before == "--params-file"
    ]


def wrong_length(name: str, value: Sequence, per: str, items: Sequence) -> str:
    """Why a list has neither one number nor one for each of the items that `per` lists; ""."""
    if len(value) in (1, len(items)):
        return ""
    return (
        f"{name} has {len(value)} numbers, but there are {len(items)} {per}: give one, or one for "
        "each"
    )


def unknown(name: str, whose: str, names: Collection[str]) -> str:
    """That a parameter is not known, and which one may be meant."""
    near = difflib.get_close_matches(name, names, 1)
    cure = f"is {near[0]} meant?" if near else f"there are {', '.join(sorted(names))}"
    return f"{name} is no parameter of {whose}: {cure}"


# Of the contexts of this process: their parameter files, which nodes check as they declare their
# parameters, and what is given to all nodes at once.
_files: WeakKeyDictionary[Context, list[ParameterFile]] = WeakKeyDictionary()
_shared: WeakKeyDictionary[Context, set[str]] = WeakKeyDictionary()


def note(context: Context, arguments: Sequence[str]) -> None:
    """Read the parameter files of the ROS arguments that a context will be initialised with.

    Raises:
        ParameterError: one of them is no parameter file.
    """
    files = _files[context] = [ParameterFile(path) for path in named_in(arguments)]
    _shared[context] = {name for _, name in _given(arguments)}
    for file in files:
        for section in file.sections:
            if section.node in ("*", "**"):
                _shared[context] |= set(section.values)


def noted(context: Context) -> list[ParameterFile]:
    return _files.get(context, [])


def shared_names(context: Context) -> set[str]:
    """Parameters that are given to all nodes of a context, for those that have them."""
    return _shared.get(context, set())


def check_for_node(node: Node, arguments: Sequence[str], names: Iterable[str]) -> None:
    """Check what a node that runs by itself was given; `names` are of all nodes that are known.

    Raises:
        ParameterError: it is not for this node.
    """
    for file in noted(node.context):
        file.check_sections(names, node.get_name(), node.get_namespace())
    check_given(arguments, node._parameters, node.get_name())


def check_given(arguments: Sequence[str], known: Collection[str], whose: str) -> None:
    """Check that parameters given as `-p NAME:=VALUE` are known.

    Raises:
        ParameterError: one is not.
    """
    for text, name in _given(arguments):
        if name not in known and not is_foreign(name):
            raise ParameterError(f"-p {text}: {unknown(name, whose, known)}")


def _given(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The text and the name of each parameter given as `-p [NODE:]NAME:=VALUE`."""
    for before, after in zip(arguments, arguments[1:], strict=False):
        if before in ("-p", "--param"):
            yield after, after.split(":=")[0].rpartition(":")[2]

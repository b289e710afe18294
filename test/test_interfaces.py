"""The interface files explain themselves, and what is generated from them works."""

import importlib
import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(p for kind in ("msg", "srv", "action") for p in ROOT.glob(f"{kind}/*.{kind}"))
UNIT = re.compile(r"(^|[\s,])(s|m|m/s|rad|rad/s|nat|units)\b|\b0 \.\. 1\b")


def read(path: Path) -> list[list[dict]]:
    """Return the sections of an interface file, each a list of its fields and constants."""
    sections: list[list[dict]] = [[]]
    for line in path.read_text().splitlines():
        if line == "---":
            sections.append([])
        elif line.strip() and not line.startswith("#"):
            declaration, _, comment = line.partition("#")
            type_name, _, rest = declaration.strip().partition(" ")
            name, equals, value = rest.strip().partition("=")
            sections[-1].append(
                {
                    "type": type_name,
                    "name": name.strip(),
                    "constant": int(value) if equals else None,
                    "comment": comment.strip(),
                }
            )
    return sections


FIELDS = [
    pytest.param(field, id=f"{path.name}:{field['name']}")
    for path in FILES
    for section in read(path)
    for field in section
]


def test_there_are_interfaces():
    assert {p.stem for p in FILES} >= {
        "ActionChunk",
        "Ask",
        "FollowInstruction",
        "GateStatus",
        "Imagination",
        "Imagine",
        "ImagineScene",
        "Narration",
        "SetTask",
        "TaskStatus",
        "VisualTokens",
    }


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_file_begins_with_what_it_is_for(path):
    first = path.read_text().splitlines()[0]
    assert re.fullmatch(r"# [A-Z].{20,}", first), f"{path.name} begins with {first!r}"


@pytest.mark.parametrize("field", FIELDS)
def test_field_is_explained(field):
    assert len(field["comment"]) >= 10, "no comment says what it is"


@pytest.mark.parametrize("field", [p for p in FIELDS if p.values[0]["type"].startswith("float")])
def test_number_has_a_unit(field):
    assert UNIT.search(field["comment"]), f"no unit in {field['comment']!r}"


@pytest.mark.parametrize("field", [p for p in FIELDS if p.values[0]["type"].endswith("[]")])
def test_array_has_a_shape(field):
    assert re.search(r"shape \[|length", field["comment"]), f"no shape in {field['comment']!r}"


def generated(path: Path) -> list[type]:
    """Return the Python classes made from the sections of an interface file, in their order."""
    kind = path.parent.name
    if "AMENT_PREFIX_PATH" not in os.environ:
        pytest.skip("no ROS 2 environment: source install/setup.bash")
    made = getattr(importlib.import_module(f"vla_ros.{kind}"), path.stem)
    if kind == "msg":
        return [made]
    if kind == "srv":
        return [made.Request, made.Response]
    return [made.Goal, made.Result, made.Feedback]


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_generated_types_have_these_fields_and_constants(path):
    sections = read(path)
    classes = generated(path)
    assert len(classes) == len(sections)
    for made, section in zip(classes, sections, strict=True):
        fields = {f["name"] for f in section if f["constant"] is None}
        assert set(made.get_fields_and_field_types()) == fields
        for constant in (f for f in section if f["constant"] is not None):
            assert getattr(made, constant["name"]) == constant["constant"]


def test_message_survives_the_wire():
    pytest.importorskip("rclpy", reason="no ROS 2")
    from rclpy.serialization import deserialize_message, serialize_message

    (chunk_type,) = generated(ROOT / "msg" / "ActionChunk.msg")
    chunk = chunk_type(
        tick=3,
        instruction="push the red cube",
        control_mode=chunk_type.JOINT_POSITION,
        joint_names=["a", "b"],
        horizon=2,
        dof=2,
        dt=0.05,
        data=[0.1, -0.2, 0.3, 1e-300],
    )
    chunk.header.stamp.nanosec = 7
    assert deserialize_message(serialize_message(chunk), chunk_type) == chunk

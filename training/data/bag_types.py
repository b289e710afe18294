"""Definitions of message types: a recording's own, and ROS 2's."""

from __future__ import annotations

from rosbags.interfaces import Nodetype
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.base import TypesysError
from rosbags.typesys.store import Typestore

from vla_ros.training.data.bag_storage import Channel

_STAMPED = ("std_msgs/msg/Header", "builtin_interfaces/msg/Time")


def full_name(kind: str) -> str:
    package, _, name = kind.rpartition("/")
    return kind if "/" in package else f"{package}/msg/{name}"


def type_stores(channel: Channel) -> list[Typestore]:
    """Types by the file's own definition, then ROS 2's own: some files carry wrong ones."""
    stores = []
    try:
        types = {}
        if channel.definition_format == "ros2msg":
            types = get_types_from_msg(channel.definition, full_name(channel.type))
        elif channel.definition_format == "ros2idl":
            types = get_types_from_idl(channel.definition)
        stores.append(get_typestore(Stores.EMPTY))
        stores[0].register(types)
    except (TypesysError, AssertionError, KeyError, ValueError):
        stores.clear()  # those of service events cannot be read
    return [*stores, get_typestore(Stores.ROS2_JAZZY)]


def has_stamp(channel: Channel) -> bool:
    """Whether a message begins with a header or a time."""
    kind = full_name(channel.type)
    for store in type_stores(channel):
        if channel.encoding == "cdr" and kind in store.fielddefs:
            _, (node, what) = (*store.fielddefs[kind][1], (None, (None, None)))[0]
            return node == Nodetype.NAME and what in _STAMPED
    return False

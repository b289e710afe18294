"""Who else is there: nodes by the topics that they publish."""

from __future__ import annotations

from rclpy.node import Node


def publishers(node: Node, topic: str) -> list[str]:
    """Full names of the nodes that publish a topic, sorted; one for each publisher."""
    found = node.get_publishers_info_by_topic(node.resolve_topic_name(topic))
    return sorted(f"{each.node_namespace.rstrip('/')}/{each.node_name}" for each in found)


def other_publishers(node: Node, topic: str) -> list[str]:
    """The same without the one publisher that the node itself has.

    Another node of the same name is in it: that is the same stack, started twice. A node that was
    killed stays in it for some seconds, but not for nodes that are younger than its death.
    """
    names = publishers(node, topic)
    own = node.get_fully_qualified_name()
    if own in names:
        names.remove(own)
    return names

"""What stands between a policy and a robot. Plain Python: imports nothing but numpy."""

from vla_ros.safety.checks import Chunk
from vla_ros.safety.config import GateConfig
from vla_ros.safety.gate import Command, CommandGate, State

__all__ = ["Chunk", "Command", "CommandGate", "GateConfig", "State"]

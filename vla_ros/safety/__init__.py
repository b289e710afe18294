"""What stands between a policy and a robot. Plain Python: imports nothing but numpy."""

from vla_ros.safety.gate import Chunk, Command, CommandGate, GateConfig, State

__all__ = ["Chunk", "Command", "CommandGate", "GateConfig", "State"]

"""`vla bringup`: the whole stack of an arm, until it is told to end."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from vla_ros.ros.running import StartError, stop_on_signals, switch_threads_often
from vla_ros.stack.stack import PROCESSES, Stack


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bringup",
        description="Run encoder, policy, command gate and robot in one process, and what no "
        "command waits for (world model, narrator and its eye, recorder) in processes of its own.",
    )
    parser.add_argument("--robot", choices=("sim", "real"), default="sim")
    parser.add_argument(
        "--params", metavar="FILE", help="parameters that go before those of config/arm.yaml (YAML)"
    )
    parser.add_argument("--checkpoint", default="", help="name or folder of the policy")
    parser.add_argument("--instruction", default="", help="what to do from the start")
    parser.add_argument("--namespace", default="", help="of all nodes and topics")
    parser.add_argument("--log-level", default="info")
    parser.add_argument("--command-topic", default="", help="takes the joint trajectories")
    parser.add_argument("--record", metavar="FOLDER", default="", help="of episodes, one bag each")
    parser.add_argument(
        "--world-model",
        choices=("true", "false"),
        default="true",
        help="imagine what the camera will show (default: true)",
    )
    parser.add_argument(
        "--narrator",
        metavar="CHECKPOINT",
        default="narrator",
        help="name or folder of what says what is seen and done, and answers questions; none: "
        "without (default: narrator)",
    )
    parser.add_argument(
        "--processes",
        choices=PROCESSES,
        default="aside",
        help="which nodes are processes of their own: aside, those that no command waits for; all "
        "but the simulated robot; or none (default: aside)",
    )
    parser.add_argument(
        "--use-sim-time",
        choices=("true", "false"),
        help="take the time from /clock (default: with --robot sim)",
    )
    own, ros_args = list(arguments), []
    if "--ros-args" in own:
        index = own.index("--ros-args")
        own, ros_args = own[:index], own[index + 1 :]
    options = parser.parse_args(own)
    options.ros_args = ros_args
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until SIGINT or SIGTERM. Returns the exit code: 1 when a node fails."""
    options = parse(sys.argv[1:] if arguments is None else arguments)
    switch_threads_often()
    use_sim_time = None if options.use_sim_time is None else options.use_sim_time == "true"
    try:
        stack = Stack(
            robot=options.robot,
            params_file=options.params,
            checkpoint=options.checkpoint,
            instruction=options.instruction,
            namespace=options.namespace,
            log_level=options.log_level,
            use_sim_time=use_sim_time,
            command_topic=options.command_topic,
            record=options.record,
            world_model=options.world_model == "true",
            narrator=options.narrator,
            processes=options.processes,
            ros_args=options.ros_args,
        )
        stop_on_signals(stack.ended)
        if stack.apart:
            print(f"{', '.join(stack.apart)}: in processes of their own", flush=True)
        with stack:
            if stack.still_starting:
                print(f"still starting: {', '.join(stack.still_starting)}", flush=True)
            stack.wait()
            failure = stack.failure
    except StartError as error:
        failure = str(error)
    if failure:
        print(f"error: {failure}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

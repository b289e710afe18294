"""The demonstration: the simulated arm follows instructions over ROS 2, and is filmed."""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
import rclpy
from rclpy.context import Context
from rclpy.node import Node
from sensor_msgs.msg import Image
from tqdm import tqdm

from vla_ros.checkpoints import resolve
from vla_ros.film import (
    FRAMES_PER_SECOND,
    Expectations,
    Recorder,
    Recording,
    Studio,
    beside,
    caption,
    contact_sheet,
    spread,
    what_happened,
)
from vla_ros.live import running
from vla_ros.models.vlam import VisionLanguageActionModel
from vla_ros.msg import Imagination
from vla_ros.observations import image_from_message, preprocess_image
from vla_ros.ros import qos
from vla_ros.ros.messages import seconds
from vla_ros.ros.running import Threads
from vla_ros.scene_language.instructions import FAMILIES
from vla_ros.sim.report import EpisodeReport
from vla_ros.sim.tasks import Outcome, check_seeds, sample_task
from vla_ros.video import Video

_NEEDED = 0.9  # share of the episodes that must succeed
_COLUMNS = 6  # of the contact sheet
_TAIL = 0.6  # s filmed after the last episode
_MAX_FRAMES = 700  # of the film: drawing one takes 50 ms
_WATCHED = 64  # pixels of either side of the camera's frames that are kept for the film


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--episodes", type=int, default=10, help="default 10")
    parser.add_argument("--seed", type=int, default=0, help="of the first episode; default 0")
    parser.add_argument("--checkpoint", default="arm", help="name or folder; default arm")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/demo"), help="folder of video and contact sheet"
    )
    parser.add_argument(
        "--instruction",
        default="",
        help="say this in every scene; nobody then judges but the policy itself",
    )


def main(arguments: argparse.Namespace) -> int:
    """Returns the exit code: 0 when at least nine of ten episodes succeeded."""
    count = arguments.episodes
    seeds = check_seeds(arguments.seed, count)
    checkpoint = resolve(arguments.checkpoint)
    if arguments.instruction:
        VisionLanguageActionModel.from_pretrained(checkpoint).start(arguments.instruction)
    tasks = [(FAMILIES[i % len(FAMILIES)], seed) for i, seed in enumerate(seeds)]
    instructions = [sample_task(*task).instruction for task in tasks]
    width = max(map(len, [*instructions, arguments.instruction]))

    print(
        "starting the stack: sim_robot, command_gate, action_policy, vision_encoder, world_model",
        flush=True,
    )
    reports = []
    with running(str(checkpoint)) as arm, Watcher(arm.stack.context) as watcher:
        recorder = Recorder(arm.robot)
        print(f"{'':7}{'instruction':<{width}}  steps     rate  latency  what happened")
        for i, (family, seed) in enumerate(tasks):
            report = arm.play(family, seed, arguments.instruction)
            reports.append(report)
            print(f"{i + 1:>3}/{count:<3}{_line(report, width)}", flush=True)
        time.sleep(_TAIL)
        recordings = recorder.recordings
    arguments.out.mkdir(parents=True, exist_ok=True)
    _film(recordings, reports, watcher.expectations, arguments.out)

    if not watcher.expectations.any_imagined:
        print("the film has nothing imagined: this machine had no time for it beside the control")
    succeeded = sum(report.success for report in reports)
    print(f"{succeeded} of {count} episodes succeeded", end="")
    print(f"; look at {arguments.out}/demo.mp4 and {arguments.out}/contact_sheet.png")
    return 0 if succeeded >= math.ceil(_NEEDED * count) else 1


class Watcher:
    """Keeps what the camera shows and what the world model expects. A context manager."""

    def __init__(self, context: Context) -> None:
        self.expectations = Expectations()
        self._threads = Threads(context)

    def __enter__(self) -> Watcher:
        self._threads.start(self._make_node)
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.stop()

    def _make_node(self) -> Node:
        node = rclpy.create_node("film", context=self._threads.context)
        node.create_subscription(Image, "camera/image_raw", self._on_image, qos.sensor())
        node.create_subscription(Imagination, "imagination", self._on_imagination, qos.standard(10))
        return node

    def _on_image(self, message: Image) -> None:
        small = preprocess_image(image_from_message(message), _WATCHED)
        self.expectations.add_camera(seconds(message.header.stamp), small)

    def _on_imagination(self, message: Imagination) -> None:
        frames = [image_from_message(image) for image in message.frames]
        made = seconds(message.header.stamp)
        self.expectations.add_imagination(made, message.dt, frames, message.surprise)


def _line(report: EpisodeReport, width: int) -> str:
    mark = "" if report.success else "FAILED: "
    return (
        f"{report.instruction:<{width}}  {report.steps:>5}  {report.rate:>4.1f} Hz"
        f"  {1e3 * report.latency:>4.0f} ms  {mark}{what_happened(report)}"
    )


def _film(
    recordings: list[Recording],
    reports: list[EpisodeReport],
    expectations: Expectations,
    out: Path,
) -> None:
    """Write demo.mp4 and contact_sheet.png."""
    total = sum(len(recording.states) for recording in recordings)
    step = 1 + total // _MAX_FRAMES  # long episodes are drawn with fewer frames a second
    for recording in recordings:
        recording.times = recording.times[::step]
        recording.states = recording.states[::step]
        recording.outcomes = recording.outcomes[::step]
    total = sum(len(recording.states) for recording in recordings)
    rows: list[tuple[EpisodeReport, list[np.ndarray]]] = []
    studio = Studio()
    try:
        with (
            Video(out / "demo.mp4", FRAMES_PER_SECOND / step) as video,
            tqdm(total=total, desc="drawing the film") as bar,
        ):
            for i, (recording, report) in enumerate(zip(recordings, reports, strict=True)):
                # On the sheet an episode ends when it is decided, in the film a little later.
                decided = sum(o is Outcome.RUNNING for o in recording.outcomes) + 1
                chosen = spread(min(decided, len(recording.states)), _COLUMNS)
                number = f"episode {i + 1} of {len(reports)}"
                episode = recording.times[0], recording.times[-1]
                pictures = []
                for k, picture in enumerate(studio.pictures(recording)):
                    outcome = recording.outcomes[k]
                    told = caption(picture, number, report.instruction, outcome)
                    video.add(beside(told, expectations, recording.times[k], episode))
                    if k in chosen:
                        pictures.append(picture)
                    bar.update()
                rows.append((report, pictures))
    finally:
        studio.close()
    contact_sheet(rows).save(out / "contact_sheet.png")

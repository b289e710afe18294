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
    Saying,
    Sayings,
    Studio,
    beside,
    caption,
    contact_sheet,
    spread,
    what_happened,
)
from vla_ros.images import image_from_message
from vla_ros.live import running
from vla_ros.models.vlam import VisionLanguageActionModel
from vla_ros.msg import Imagination, Narration
from vla_ros.observations import preprocess_image
from vla_ros.ros import qos
from vla_ros.ros.messages import seconds
from vla_ros.ros.running import Threads
from vla_ros.scene_language.instructions import FAMILIES
from vla_ros.sim.report import EpisodeReport
from vla_ros.sim.tasks import Outcome, check_seeds, sample_task
from vla_ros.sim.truth import Witness
from vla_ros.stack.description import describe
from vla_ros.video import Video

_NEEDED = 0.9  # share of the episodes that must succeed
_COLUMNS = 6  # of the contact sheet
_TAIL = 1.2  # s filmed after an episode; the robot says then how it leaves the table
_MAX_FRAMES = 700  # of the film: drawing one takes 50 ms
_WATCHED = 64  # pixels of either side of the camera's frames that are kept for the film


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--episodes", type=int, default=10, help="default 10")
    parser.add_argument("--seed", type=int, default=0, help="of the first episode; default 0")
    parser.add_argument("--checkpoint", default="arm", help="name or folder; default arm")
    parser.add_argument(
        "--narrator", default="narrator", help="name or folder; empty: none; default narrator"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/demo"), help="folder of video and contact sheet"
    )
    parser.add_argument(
        "--instruction",
        default="",
        help="say this in every scene; nobody then judges but the policy itself",
    )


def main(arguments: argparse.Namespace) -> int:
    """Returns the exit code: 0 when at least nine of ten episodes succeeded and the narrator, if
    there is one, said something."""
    count = arguments.episodes
    seeds = check_seeds(arguments.seed, count)
    checkpoint = resolve(arguments.checkpoint)
    if arguments.instruction:
        VisionLanguageActionModel.from_pretrained(checkpoint).start(arguments.instruction)
    narrator = str(resolve(arguments.narrator)) if arguments.narrator else ""
    tasks = [(FAMILIES[i % len(FAMILIES)], seed) for i, seed in enumerate(seeds)]

    nodes = describe(narrator=narrator)
    here = ", ".join(node.name for node in nodes if node.in_control_path)
    aside = ", ".join(node.name for node in nodes if not node.in_control_path)
    print(f"starting in this process: {here}", flush=True)
    print(f"in processes of their own, as no command waits for them: {aside}", flush=True)
    reports = []
    with running(str(checkpoint), narrator=narrator) as arm:
        recorder = Recorder(arm.robot)
        with Watcher(arm.stack.context, recorder.witness) as watcher:
            for i, (family, seed) in enumerate(tasks):
                told = arguments.instruction or sample_task(family, seed).instruction
                print(f"{i + 1:>3}/{count:<3} {told}", flush=True)
                watcher.begin()
                report = arm.play(family, seed, arguments.instruction)
                time.sleep(_TAIL)
                reports.append(report)
                print(f"        {_line(report)}", flush=True)
        recordings = recorder.recordings
    watcher.sayings.settle()
    arguments.out.mkdir(parents=True, exist_ok=True)
    _film(recordings, reports, watcher.expectations, watcher.sayings, arguments.out)

    if not watcher.expectations.any_imagined:
        print("the film has nothing imagined: this machine had no time for it beside the control")
    spoke = not narrator or _tell_truth(watcher.sayings)
    succeeded = sum(report.success for report in reports)
    print(f"{succeeded} of {count} episodes succeeded", end="")
    print(f"; look at {arguments.out}/demo.mp4 and {arguments.out}/contact_sheet.png")
    return 0 if spoke and succeeded >= math.ceil(_NEEDED * count) else 1


class Watcher:
    """Keeps what the camera shows, what the world model expects and what the narrator says, which
    it also prints. A context manager."""

    def __init__(self, context: Context, witness: Witness) -> None:
        self.expectations = Expectations()
        self.sayings = Sayings(witness, self._tell)
        self._witness = witness
        self._now = 0.0  # s, of the newest frame
        self._since = 0.0  # s: what is about episodes that began before is not printed
        self._printed: set[tuple[str, bool | None]] = set()
        self._threads = Threads(context)

    def begin(self) -> None:
        """From now on print what is about an episode that is still to come, each sentence once."""
        self._since, self._printed = self._now, set()

    def __enter__(self) -> Watcher:
        self._threads.start(self._make_node)
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.stop()

    def _make_node(self) -> Node:
        node = rclpy.create_node("film", context=self._threads.context)
        node.create_subscription(Image, "camera/image_raw", self._on_image, qos.sensor())
        node.create_subscription(Imagination, "imagination", self._on_imagination, qos.standard(10))
        node.create_subscription(Narration, "narration", self._on_narration, qos.standard(10))
        return node

    def _on_image(self, message: Image) -> None:
        small = preprocess_image(image_from_message(message), _WATCHED)
        self._now = seconds(message.header.stamp)
        self.expectations.add_camera(self._now, small)
        self.sayings.settle(self._now)

    def _on_imagination(self, message: Imagination) -> None:
        frames = [image_from_message(image) for image in message.frames]
        made = seconds(message.header.stamp)
        self.expectations.add_imagination(made, message.dt, frames, message.surprise)

    def _on_narration(self, message: Narration) -> None:
        self.sayings.add(seconds(message.header.stamp), message.text)

    def _tell(self, saying: Saying) -> None:
        began = self._witness.episode(saying.time)
        said = saying.text, saying.true
        if began is None or began < self._since or said in self._printed:
            return
        self._printed.add(said)
        mark = "" if saying.true else f"  ({saying.verdict})"
        print(f"        {saying.time - began:4.1f} s  {saying.text}{mark}", flush=True)


def _line(report: EpisodeReport) -> str:
    mark = "" if report.success else "FAILED: "
    return (
        f"{mark}{what_happened(report)}; {report.steps} steps at {report.rate:.1f} Hz, "
        f"{1e3 * report.latency:.0f} ms from camera to command"
    )


def _tell_truth(sayings: Sayings) -> bool:
    """Print how much of what was said is true. Returns False if nothing was said."""
    if sayings.judged:
        print(sayings.summary())
        return True
    print(
        "nothing was said: no sentence held of the scene that was read, or this machine had no "
        "time for it beside the control"
    )
    return False


def _film(
    recordings: list[Recording],
    reports: list[EpisodeReport],
    expectations: Expectations,
    sayings: Sayings,
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
                    time_ = recording.times[k]
                    said = sayings.at(time_, episode[0])
                    told = caption(picture, number, report.instruction, outcome, said)
                    video.add(beside(told, expectations, time_, episode))
                    if k in chosen:
                        pictures.append(picture)
                    bar.update()
                rows.append((report, pictures))
    finally:
        studio.close()
    contact_sheet(rows).save(out / "contact_sheet.png")

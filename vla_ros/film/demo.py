"""The demonstration: the simulated arm follows instructions over ROS 2, and is filmed."""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.context import Context
from rclpy.node import Node
from tqdm import tqdm

from vla_ros.checkpoints import resolve
from vla_ros.film.drawing import Studio, beside, caption, contact_sheet, spread, what_happened
from vla_ros.film.imagining import Commands, can_be_expected, imagine_afterwards
from vla_ros.film.states import FRAMES_PER_SECOND, Recorder, Recording
from vla_ros.film.timeline import Expectations, Saying, Sayings, Told
from vla_ros.images import image_from_message
from vla_ros.live import running
from vla_ros.models.genie.genie import WorldModel
from vla_ros.models.policy import load_policy
from vla_ros.msg import ActionChunk, GateStatus, Imagination, Narration, TaskStatus
from vla_ros.ros import qos
from vla_ros.ros.messages import seconds
from vla_ros.ros.robot_history import arm_chunk
from vla_ros.ros.running import Threads
from vla_ros.scene_language.instructions import FAMILIES
from vla_ros.sim.report import EpisodeReport
from vla_ros.sim.scene_tasks import task_of
from vla_ros.sim.tasks import Outcome
from vla_ros.sim.truth import Witness
from vla_ros.stack.description import describe
from vla_ros.video import Video

# With a narrator to look at the scene: things named by where they are, one thing after the other,
# and what is to be refused, among the usual.
_PROGRAMME = (
    *("reach", "push", "relation", "pick", "absent", "two-step", "pad", "ambiguous", "bowl"),
    "three-step",
)
_NEEDED = 0.9  # share of the episodes that must succeed
_COLUMNS = 6  # of the contact sheet
_TAIL = 1.2  # s filmed after an episode; the robot says then how it leaves the table
_MAX_FRAMES = 700  # of the film: drawing one takes 50 ms
_NO_TIME, _SILENT = "(no time to say anything)", "(nothing said)"


def perform(seeds: range, checkpoint: Path, narrator: str, instruction: str, out: Path) -> int:
    """Play an episode of each seed and film it into `out`.

    Args:
        seeds: of the episodes.
        checkpoint: of the policy.
        narrator: folder of its checkpoint; "" for none.
        instruction: to be followed in every scene; "" for that of each task.
        out: folder of video and contact sheet.

    Returns:
        The exit code: 0 when at least nine of ten episodes succeeded and the narrator, if there is
        one, said something.

    Raises:
        ValueError: the policy does not take the instruction.
        RuntimeError: the nodes do not come up, or one of them ends.
    """
    count = len(seeds)
    if instruction:
        load_policy(checkpoint).start(instruction)
    families = _PROGRAMME if narrator and not instruction else FAMILIES
    tasks = [(families[i % len(families)], seed) for i, seed in enumerate(seeds)]

    nodes = describe(narrator=narrator)
    here = ", ".join(node.name for node in nodes if node.in_control_path)
    aside = ", ".join(node.name for node in nodes if not node.in_control_path)
    print(f"starting in this process: {here}", flush=True)
    print(f"in processes of their own, as no command waits for them: {aside}", flush=True)
    reports = []
    with running(str(checkpoint), narrator=narrator) as arm:
        if arm.stack.still_starting:
            print(f"still starting: {', '.join(arm.stack.still_starting)}", flush=True)
        recorder = Recorder(arm.robot)
        with Watcher(arm.stack.context, recorder.witness) as watcher:
            for i, (family, seed) in enumerate(tasks):
                told = instruction or task_of(family, seed).instruction
                print(f"{i + 1:>3}/{count:<3} {told}", flush=True)
                watcher.begin()
                report = arm.play(family, seed, instruction)
                time.sleep(_TAIL)
                reports.append(report)
                for line in _lines(report):
                    print(f"        {line}", flush=True)
        recordings = recorder.recordings
    watcher.sayings.settle()
    out.mkdir(parents=True, exist_ok=True)
    rate = _complete(recordings, watcher)
    silent = _film(recordings, reports, watcher, out, rate)

    spoke = not narrator or _tell_truth(watcher)
    if narrator and silent:
        print(f"{silent} frames of the film have no sentence: what was not said is not made up")
    succeeded = sum(report.success for report in reports)
    print(f"{succeeded} of {count} episodes succeeded", end="")
    print(f"; look at {out}/demo.mp4 and {out}/contact_sheet.png")
    return 0 if spoke and succeeded >= math.ceil(_NEEDED * count) else 1


class Watcher:
    """Keeps what the world model expects, what the robot is told, and what the narrator says, which
    it also prints. A context manager.

    Attributes:
        expectations: without what the cameras showed, which the recordings have.
        commands: the policy's, and whether the gate let them through.
        told: what the policy was told.
        narrator: what it said of itself last, in /diagnostics; "" if nothing.
        narrator_tried: whether it ever had a sentence, be it one that it did not say.
    """

    def __init__(self, context: Context, witness: Witness) -> None:
        self.expectations, self.commands, self.told = Expectations(), Commands(), Told()
        self.sayings = Sayings(witness, self._tell)
        self.narrator, self.narrator_tried = "", False
        self._witness = witness
        self._now = 0.0  # s of the robot's time
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
        for kind, topic, callback, profile in (
            (TaskStatus, "sim_robot/task_status", self._on_status, qos.latched()),
            (Imagination, "imagination", self._on_imagination, qos.standard(10)),
            (Narration, "narration", self._on_narration, qos.standard(10)),
            (ActionChunk, "action_chunk", self._on_chunk, qos.standard(10)),
            (GateStatus, "gate_status", self._on_gate_status, qos.latched()),
            (DiagnosticArray, "/diagnostics", self._on_diagnostics, qos.standard(10)),
        ):
            node.create_subscription(kind, topic, callback, profile)
        return node

    def _on_status(self, message: TaskStatus) -> None:
        self._now = seconds(message.header.stamp)
        self.sayings.settle(self._now)

    def _on_imagination(self, message: Imagination) -> None:
        frames = [image_from_message(image) for image in message.frames]
        made = seconds(message.header.stamp)
        self.expectations.add_imagination(made, message.dt, frames, message.surprise)

    def _on_narration(self, message: Narration) -> None:
        self.sayings.add(seconds(message.header.stamp), message.text, message.doubtful)

    def _on_chunk(self, message: ActionChunk) -> None:
        self.commands.chunks.append(arm_chunk(message))
        self.told.add(seconds(message.header.stamp), message.instruction)

    def _on_gate_status(self, message: GateStatus) -> None:
        obeys = message.state == GateStatus.ACTIVE and not message.slowed
        self.commands.gate.append((seconds(message.header.stamp), obeys))

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name != "/narrator":
                continue
            values = {value.key: value.value for value in status.values}
            self.narrator = status.message
            self.narrator_tried |= values.get("unsound_share", "unknown") != "unknown"
            if values.get("keeps_up") == str(False):
                self.sayings.add_no_time(seconds(message.header.stamp))

    def _tell(self, saying: Saying) -> None:
        began = self._witness.episode(saying.time)
        said = saying.text, saying.true
        if began is None or began < self._since or said in self._printed:
            return
        self._printed.add(said)
        marks = [] if saying.true else [saying.verdict]
        marks += ["doubtful"] if saying.doubtful else []
        mark = f"  ({', '.join(marks)})" if marks else ""
        print(f"        {saying.time - began:4.1f} s  {saying.text}{mark}", flush=True)


def _lines(report: EpisodeReport) -> list[str]:
    """What became of an episode, and what the policy was told if that is not what was said."""
    mark = "" if report.success else "FAILED: "
    if report.refusal:
        return [f"{mark}{what_happened(report)}"]
    parts = [text for text in report.told if text != report.instruction]
    return [f"that is: {text}" for text in parts] + [
        f"{mark}{what_happened(report)}; {report.steps} steps at {report.rate:.1f} Hz, "
        f"{1e3 * report.latency:.0f} ms from camera to command"
    ]


def _note(report: EpisodeReport, told: Told, time: float, began: float) -> str:
    """What the robot makes of the instruction at that moment; "" if it just follows it."""
    if report.refusal:
        return what_happened(report) if time >= began + report.seconds else ""
    text = told.at(time, began)
    return f"now: {text}" if text not in ("", report.instruction) else ""


def _tell_truth(watcher: Watcher) -> bool:
    """Print how much of what was said is true. Returns False if the narrator had the time to speak
    and yet said nothing."""
    sayings = watcher.sayings
    if sayings.judged:
        print(sayings.summary())
    elif watcher.narrator_tried:
        print("nothing was said: no sentence held of the scene that was read")
    else:
        print(
            "nothing was said: the narrator had no time for it beside the control "
            f"({watcher.narrator or 'it did not come up'})"
        )
    if sayings.judged and (seconds_ := sayings.seconds_without_time):
        print(f"in {seconds_} s the narrator had no time to keep up")
    return bool(sayings.judged) or not watcher.narrator_tried


def _complete(recordings: list[Recording], watcher: Watcher) -> float:
    """Give the film what there was no time for while the robot moved, and say how much that is.

    Leaves frames in the recordings only for which something can be expected, if there are any, and
    returns how many a second.
    """
    world = WorldModel.from_pretrained(resolve("world"))
    expectations, dt = watcher.expectations, world.config.dt
    for recording in tqdm(recordings, desc="imagining what there was no time for"):
        for view in recording.views:
            expectations.add_camera(view.time, view.frame)
        imagine_afterwards(world, recording, watcher.commands, expectations)
        recording.select(can_be_expected(recording, dt) or range(len(recording.times)))
    # Long episodes are drawn with fewer frames a second.
    step = 1 + sum(len(recording.times) for recording in recordings) // _MAX_FRAMES
    live = afterwards = 0
    for recording in recordings:
        recording.select(range(0, len(recording.times), step))
        found = [expectations.imagined(time, recording.began) for time in recording.times]
        live += sum(bool(one and one.live) for one in found)
        afterwards += sum(bool(one and not one.live) for one in found)
    total = sum(len(recording.times) for recording in recordings)
    print(
        f"imagined for {live} of the film's {total} frames while the robot moved, for {afterwards} "
        "afterwards from the recorded ones"
    )
    if live + afterwards < total:
        print(f"nothing could be imagined for {total - live - afterwards} frames")
    return FRAMES_PER_SECOND / step


def _film(
    recordings: list[Recording],
    reports: list[EpisodeReport],
    watcher: Watcher,
    out: Path,
    rate: float,
) -> int:
    """Write demo.mp4 and contact_sheet.png. Returns for how many frames nothing was said."""
    silent, sayings = 0, watcher.sayings
    total = sum(len(recording.states) for recording in recordings)
    rows: list[tuple[EpisodeReport, list[np.ndarray]]] = []
    studio = Studio()
    try:
        with (
            Video(out / "demo.mp4", rate) as video,
            tqdm(total=total, desc="drawing the film") as bar,
        ):
            for i, (recording, report) in enumerate(zip(recordings, reports, strict=True)):
                # On the sheet an episode ends when it is decided, in the film a little later.
                decided = sum(o is Outcome.RUNNING for o in recording.outcomes) + 1
                chosen = spread(min(decided, len(recording.states)), _COLUMNS)
                number = f"episode {i + 1} of {len(reports)}"
                episode = recording.began, recording.times[-1]
                pictures = []
                for k, picture in enumerate(studio.pictures(recording)):
                    outcome = recording.outcomes[k]
                    time_ = recording.times[k]
                    said = sayings.at(time_, episode[0])
                    silence = _NO_TIME if sayings.is_silent(time_) else _SILENT
                    silent += said is None
                    note = _note(report, watcher.told, time_, episode[0])
                    told = caption(
                        picture, number, report.instruction, outcome, said, silence, note
                    )
                    video.add(beside(told, watcher.expectations, time_, episode))
                    if k in chosen:
                        pictures.append(picture)
                    bar.update()
                rows.append((report, pictures))
    finally:
        studio.close()
    contact_sheet(rows).save(out / "contact_sheet.png")
    return silent

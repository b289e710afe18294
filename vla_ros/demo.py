"""The demonstration: the simulated arm follows instructions over ROS 2, and is filmed."""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vla_ros.checkpoints import resolve
from vla_ros.film import (
    FRAMES_PER_SECOND,
    Recorder,
    Recording,
    Studio,
    Video,
    caption,
    contact_sheet,
    spread,
    what_happened,
)
from vla_ros.live import running
from vla_ros.models.vlam import VisionLanguageActionModel
from vla_ros.scene_language.instructions import FAMILIES
from vla_ros.sim.report import EpisodeReport
from vla_ros.sim.tasks import Outcome, check_seeds, sample_task

_NEEDED = 0.9  # share of the episodes that must succeed
_COLUMNS = 6  # of the contact sheet
_TAIL = 0.6  # s filmed after the last episode
_MAX_FRAMES = 700  # of the film: drawing one takes 50 ms


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

    print("starting the stack: sim_robot, command_gate, action_policy, vision_encoder", flush=True)
    reports = []
    with running(str(checkpoint)) as arm:
        recorder = Recorder(arm.robot)
        print(f"{'':7}{'instruction':<{width}}  steps     rate  latency  what happened")
        for i, (family, seed) in enumerate(tasks):
            report = arm.play(family, seed, arguments.instruction)
            reports.append(report)
            print(f"{i + 1:>3}/{count:<3}{_line(report, width)}", flush=True)
        time.sleep(_TAIL)
        recordings = recorder.recordings
    arguments.out.mkdir(parents=True, exist_ok=True)
    _film(recordings, reports, arguments.out)

    succeeded = sum(report.success for report in reports)
    print(f"{succeeded} of {count} episodes succeeded", end="")
    print(f"; look at {arguments.out}/demo.mp4 and {arguments.out}/contact_sheet.png")
    return 0 if succeeded >= math.ceil(_NEEDED * count) else 1


def _line(report: EpisodeReport, width: int) -> str:
    mark = "" if report.success else "FAILED: "
    return (
        f"{report.instruction:<{width}}  {report.steps:>5}  {report.rate:>4.1f} Hz"
        f"  {1e3 * report.latency:>4.0f} ms  {mark}{what_happened(report)}"
    )


def _film(recordings: list[Recording], reports: list[EpisodeReport], out: Path) -> None:
    """Write demo.mp4 and contact_sheet.png."""
    total = sum(len(recording.states) for recording in recordings)
    step = 1 + total // _MAX_FRAMES  # long episodes are drawn with fewer frames a second
    for recording in recordings:
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
                pictures = []
                for k, picture in enumerate(studio.pictures(recording)):
                    outcome = recording.outcomes[k]
                    video.add(caption(picture, number, report.instruction, outcome))
                    if k in chosen:
                        pictures.append(picture)
                    bar.update()
                rows.append((report, pictures))
    finally:
        studio.close()
    contact_sheet(rows).save(out / "contact_sheet.png")

"""`vla imagine`: play a world model, by latent actions, a robot's plan, or the keyboard; or look at
what words look like."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from vla_ros.checkpoints import resolve
from vla_ros.paths import check_file, check_folder, check_there, to_path
from vla_ros.scene_language.instructions import FAMILIES
from vla_ros.scene_language.vocabulary import tokens_of
from vla_ros.sim.tasks import check_seeds
from vla_ros.training.data.recordings import ROBOT_HELP, Robot
from vla_ros.training.recipes import MOST

_FRAMES = 8  # that --plan imagines
_EPISODES = 5  # that --grid looks at
_MOST_EPISODES = 1000  # for --grid
_FAMILY = "pick"
_MOST_SCENES = 100
_SHEET = "scenes.png"
_CODES = re.compile(r"\d{1,9}(,\d{1,9})*")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", help="name or folder; default world, of --scene scenes")
    parser.add_argument(
        "--out",
        type=to_path,
        default=Path("runs/imagine"),
        help="folder of pictures; with --scene maybe a file, NAME.png",
    )
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument(
        "--codes", metavar="C,C,...", help="imagine these latent actions, one a frame: 0,3,3,1"
    )
    how.add_argument(
        "--plan",
        type=int,
        nargs="?",
        const=_FRAMES,
        metavar="FRAMES",
        help="imagine what the robot of the episode was told to do, beside what really came; "
        f"default {_FRAMES} frames",
    )
    how.add_argument("--play", action="store_true", help="choose by the keyboard, in a terminal")
    how.add_argument(
        "--grid",
        type=int,
        nargs="?",
        const=_EPISODES,
        metavar="EPISODES",
        help="what each latent action does, and how the tool moved with it in some episodes; "
        f"default {_EPISODES}",
    )
    how.add_argument(
        "--scene",
        dest="scenes",
        action="append",
        metavar="TEXT",
        help="what a text looks like from above, and what is read back from that picture, as in "
        "'a red cube left of the bowl'; again for more",
    )
    parser.add_argument(
        "--attribution", action="store_true", help="with --scene: which words made which pixels"
    )
    begin = parser.add_argument_group("where it begins (if not told, in a simulated episode)")
    begin.add_argument(
        "--from", dest="files", type=to_path, nargs="+", metavar="FILE", help="pictures, or a video"
    )
    begin.add_argument(
        "--data", type=to_path, nargs="+", metavar="PATH", help="bags, RLDS datasets or shards"
    )
    begin.add_argument("--robot", metavar="NAME", help=ROBOT_HELP)
    begin.add_argument("--episode", type=int, help="which one of --data; default 0")
    begin.add_argument(
        "--seed", type=int, help="of the simulated episode, or of --scene; default 0"
    )
    begin.add_argument(
        "--family",
        choices=FAMILIES,
        help=f"of the simulated task; default {_FAMILY}, for --grid they take turns",
    )
    begin.add_argument("--at", type=float, metavar="S", help="s into the episode; default 1")


def main(arguments: argparse.Namespace) -> None:
    arguments.checkpoint = arguments.checkpoint or ("scenes" if arguments.scenes else "world")
    if arguments.scenes:
        _imagine_scenes(arguments)
        return
    _check(arguments)
    codes = parse_codes(arguments.codes) if arguments.codes is not None else None
    resolve(arguments.checkpoint)
    from vla_ros.training.genie_play import imagine

    imagine(arguments, codes)


def _imagine_scenes(arguments: argparse.Namespace) -> None:
    """Raises ValueError, OSError: of what is asked for, before anything is imported or written."""
    for name in ("files", "data", "robot", "episode", "family", "at"):
        if getattr(arguments, name) is not None:
            option = name.replace("files", "from")
            raise ValueError(f"--{option} with --scene: a text begins nowhere, leave it out")
    if len(arguments.scenes) > _MOST_SCENES:
        raise ValueError(f"{len(arguments.scenes)} times --scene: give {_MOST_SCENES} at most")
    seed, out = arguments.seed or 0, arguments.out
    if not 0 <= seed <= MOST:
        raise ValueError(f"--seed is {seed}: give 0 or more, {MOST} at most")
    for text in arguments.scenes:
        tokens_of(text)
    if out.suffix.lower() != ".png":
        check_folder(out, "--out")
        out = out / _SHEET
    check_file(out, "--out")
    checkpoint = resolve(arguments.checkpoint)
    from vla_ros.training.scenes.imagine import imagine_scenes

    imagine_scenes(checkpoint, arguments.scenes, seed, arguments.attribution, out)


def parse_codes(text: str) -> list[int]:
    """Latent actions of "0,3,3,1". Raises ValueError."""
    if not _CODES.fullmatch(text):
        raise ValueError(f"--codes is {text!r}: give numbers with commas between, as 0,3,3,1")
    return [int(code) for code in text.split(",")]


def _check(arguments: argparse.Namespace) -> None:
    """Raises ValueError if options do not go together, or something is wrong with one."""
    given = {n for n, v in vars(arguments).items() if v is not None and v is not False}
    if "attribution" in given:
        raise ValueError("--attribution is of --scene: give a text, or leave it out")
    for name, other, cure in (
        ("files", "data", "give one of them"),
        ("files", "plan", "pictures do not tell what was done: give an episode"),
        ("files", "at", "it begins at the end of what they show"),
        *(("files", name, "that is for simulated episodes") for name in ("seed", "family")),
        *(("data", name, "that is for simulated episodes") for name in ("seed", "family")),
    ):
        if {name, other} <= given:
            raise ValueError(f"--{other} with --{name.replace('files', 'from')}: {cure}")
    if ("data" in given) != ("robot" in given):
        raise ValueError("--data and --robot belong together: give both or neither")
    if "episode" in given and "data" not in given:
        raise ValueError("--episode is of --data: give recordings, or --seed")
    for name, least, most in (
        ("episode", 0, MOST),
        ("at", 0, MOST),
        ("plan", 1, MOST),
        ("grid", 1, _MOST_EPISODES),
    ):
        if (value := getattr(arguments, name)) is not None and not least <= value <= most:
            raise ValueError(f"--{name} is {value}: give {least} or more, {most} at most")
    if "seed" in given:
        check_seeds(arguments.seed, arguments.grid or 1)
    check_there([*(arguments.files or ()), *(arguments.data or ())])
    if arguments.robot is not None:
        Robot.load(arguments.robot)
    check_folder(arguments.out, "--out")

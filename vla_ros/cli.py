"""`vla ...`: the commands of the package. Also `python -m vla_ros.cli ...`."""

from __future__ import annotations

import argparse
import ast
import importlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import vla_ros.nodes  # noqa: F401  (before torch: sets how many threads libraries use)

# Words of a command, the module that does it, and what it is. Each module has
# add_arguments(parser) and main(arguments), and is imported only when it is asked for: some need
# ROS 2, some need PyTorch, some neither.
_COMMANDS = {
    ("bag", "from-rlds"): ("vla_ros.training.data.rlds_to_bag", "RLDS episodes as recordings"),
    ("bag", "report"): ("vla_ros.training.data.bag_report", "rates, gaps and jumps of a recording"),
    ("bag", "to-rlds"): ("vla_ros.training.data.bag_to_rlds", "recordings as an RLDS dataset"),
    ("demo",): ("vla_ros.demo", "the simulated arm follows instructions; leaves a video"),
    ("eval",): (
        "vla_ros.training.commands.evaluate",
        "measure a policy, simulated or on recordings",
    ),
    ("fit-actions",): (
        "vla_ros.training.commands.fit_actions",
        "fit the grid of spatial action tokens to recordings",
    ),
    ("imagine",): (
        "vla_ros.training.commands.imagine",
        "what a world model expects, or what a text looks like",
    ),
    ("merge-lora",): (
        "vla_ros.training.commands.merge_lora",
        "add trained adapters to the weights of a SpatialVLA",
    ),
    ("record",): ("vla_ros.record", "record episodes of the running stack, one bag each"),
    ("train", "policy"): (
        "vla_ros.training.commands.policy",
        "train a policy, simulated or from recordings",
    ),
    ("train", "spatial-vla"): (
        "vla_ros.training.commands.spatial_vla",
        "train a small SpatialVLA from nothing, simulated",
    ),
    ("train", "narrator"): (
        "vla_ros.training.commands.narrator",
        "train a narrator: its language, then what it sees",
    ),
    ("train", "scenes"): (
        "vla_ros.training.commands.scenes",
        "train text -> scene -> text: what words look like",
    ),
    ("train", "tokenizer"): (
        "vla_ros.training.commands.tokenizer",
        "train a world model, first part: from video to tokens",
    ),
    ("train", "latent-actions"): (
        "vla_ros.training.commands.latent_actions",
        "train a world model, second part: what actions there are",
    ),
    ("train", "dynamics"): (
        "vla_ros.training.commands.dynamics",
        "train a world model, last part: what follows from what",
    ),
}
_GROUPS = {
    "bag": ("look into recordings, or convert them", "ACTION"),
    "train": ("train a model", "MODEL"),
}
_LONGEST = 2000  # characters of an error
_BRINGUP = "run all nodes of the arm in one process (arguments: vla bringup --help)"
_BENCH = "measure, from a checkout of the repository (vla bench lists what)"


def _parser(chosen: tuple[str, ...]) -> argparse.ArgumentParser:
    """The parser of all commands; only the chosen one's module is imported for its arguments."""
    parser = argparse.ArgumentParser(
        prog="vla", description="Vision-language-action models for ROS 2 robots."
    )
    levels: dict[tuple[str, ...], argparse._SubParsersAction] = {
        (): parser.add_subparsers(metavar="COMMAND", required=True)
    }
    for words, (module, text) in _COMMANDS.items():
        if words[:-1] not in levels:
            help_, metavar = _GROUPS[words[0]]
            group = levels[()].add_parser(words[0], help=help_)
            levels[words[:-1]] = group.add_subparsers(metavar=metavar, required=True)
        command = levels[words[:-1]].add_parser(
            words[-1], help=text, description=f"{text[0].upper()}{text[1:]}."
        )
        if words == chosen[: len(words)]:
            implementation = importlib.import_module(module)
            implementation.add_arguments(command)
            command.set_defaults(main=implementation.main)
    levels[()].add_parser("bringup", help=_BRINGUP)
    levels[()].add_parser("bench", help=_BENCH)
    return parser


def _benchmarks() -> dict[Path, str]:
    """The scripts of the repository with their text: of the one that the current folder is in, or
    else of the one that this package runs from.

    Raises:
        FileNotFoundError: neither is there.
    """
    here = Path.cwd()
    for folder in (here, *here.parents, Path(__file__).resolve().parents[1]):
        paths = sorted(folder.glob("benchmarks/*.py"))
        sources = {path: path.read_text(errors="replace") for path in paths}
        scripts = {path: text for path, text in sources.items() if "__main__" in text}
        if scripts:
            return scripts
    raise FileNotFoundError(
        "benchmarks are not part of what is installed: run it in a clone of the repository, which "
        "has them in benchmarks/"
    )


def _bench(arguments: Sequence[str]) -> int:
    """Run a benchmark with its own arguments; without a name, list them.

    Raises:
        FileNotFoundError: the repository is not there.
        ValueError: no benchmark has that name.
    """
    sources = _benchmarks()
    scripts = {path.stem: path for path in sources}
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: vla bench NAME [its arguments; --help tells them]\n")
        for name, path in scripts.items():
            print(f"  {name:14} {ast.get_docstring(ast.parse(sources[path])).splitlines()[0]}")
        return 0
    name, *rest = arguments
    if name not in scripts:
        raise ValueError(f"no benchmark {name!r}: choose of {', '.join(scripts)}")
    return subprocess.call([sys.executable, str(scripts[name]), *rest])


def _line(error: Exception) -> str:
    """What an error says, in one line that can be read, whatever it quotes."""
    text = " ".join(str(error).split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Returns the exit code: 1 after an error, which is told in one line."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if arguments[:1] == ["bringup"]:
            from vla_ros import bringup

            return bringup.main(arguments[1:])
        if arguments[:1] == ["bench"]:
            return _bench(arguments[1:])
        options = _parser(tuple(arguments)).parse_args(arguments)
        return options.main(options) or 0
    except (ValueError, OSError, RuntimeError, ArithmeticError) as error:
        print(f"error: {_line(error)}", file=sys.stderr)
        return 1
    except MemoryError as error:
        told = _line(error) or "out of memory"
        print(f"error: {told}: give smaller numbers, or smaller files", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        print(f"error: {error}: install it, or source ROS 2 for the live stack", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())

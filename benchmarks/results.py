"""The page of results: every benchmark writes a section of its own, and leaves the others alone."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

RESULTS = Path(__file__).with_name("RESULTS.md")


def add_write_option(parser: argparse.ArgumentParser) -> None:
    """--write: the page of results is changed only by those who ask for it."""
    parser.add_argument(
        "--write",
        type=Path,
        nargs="?",
        const=RESULTS,
        metavar="PAGE",
        help=f"write the section on the page of results too ({RESULTS.name} beside the benchmarks)",
    )


def write_section(name: str, text: str, path: Path | None) -> None:
    """Print `text` (Markdown), and put it on the page at `path`, if there is one: between the
    markers of section `name`, at the end if it is new.

    Raises:
        ValueError: the page has only one of the two markers.
    """
    print(text.strip())
    if path is None:
        return
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    page = path.read_text() if path.exists() else "# Results\n"
    if (begin in page) != (end in page):
        raise ValueError(f"{path} has only one of the markers of section {name}: mend it")
    section = f"{begin}\n{text.strip()}\n{end}"
    if begin in page:
        before, rest = page.split(begin, 1)
        page = before + section + rest.split(end, 1)[1]
    else:
        page = f"{page.rstrip()}\n\n{section}\n"
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(page)
    os.replace(partial, path)

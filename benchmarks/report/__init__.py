"""The report: docs/benchmarks.md, docs/plots, blocks of README and of other pages, from the records alone.

    python -m benchmarks.report [--check]

The texts need the standard library alone, the plots matplotlib.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path

from benchmarks.record import FOLDER
from benchmarks.report import defaults, device, fit, generate, methods, queries, stages
from benchmarks.report.newest import load, newest
from benchmarks.report.page import block, page

__all__ = [
    "BEGIN",
    "DEVICES",
    "END",
    "PAGES",
    "ROOT",
    "figures",
    "main",
    "render",
    "replace_block",
    "stale",
    "stamp",
]

ROOT = Path(__file__).parents[2]
BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"
PAGES = (
    "README.md",
    "docs/design.md",
    "docs/learning.md",
    "docs/models.md",
    "docs/performance.md",
    "docs/traffic.md",
)
"""Pages that have a block between these."""
DEVICES = "<!-- benchmarks, devices: begin -->", "<!-- benchmarks, devices: end -->"
"""Of the second block of docs/models.md."""


def render(records: Path = FOLDER, root: Path = ROOT) -> dict[Path, str]:
    """Write the texts.

    Parameters
    ----------
    records : Path
        Folder of records.
    root : Path
        The repository, whose README, docs/design.md, learning.md, models.md, performance.md and traffic.md
        have two markers each, models.md two more.

    Returns
    -------
    dict
        Texts by path below `root`.

    Raises
    ------
    ValueError
        If there is no place for a block.
    """
    found = load(records)
    blocks = {
        Path("README.md"): block(found),
        Path("docs/design.md"): defaults.block(found.defaults),
        Path("docs/learning.md"): methods.block(found.methods) + fit.block(found.fit),
        Path("docs/models.md"): generate.block(found.generate, found.heads_of),
        Path("docs/performance.md"): stages.block(found.stages, found.stages_before),
        Path("docs/traffic.md"): queries.block(found.queries) + defaults.both(found.both),
    }
    texts = {
        path: replace_block((root / path).read_text(encoding="utf-8"), text, path.name)
        for path, text in blocks.items()
    }
    models = Path("docs/models.md")
    texts[models] = replace_block(texts[models], device.block(found.device), models.name, DEVICES)
    return {Path("docs/benchmarks.md"): page(found)} | texts


def figures(records: Path = FOLDER) -> dict[Path, Path]:
    """List the plots there should be, by path below the repository, and the record that each shows."""
    shown: dict[Path, Path] = {}
    for name, path in newest(records).items():
        without = ("defaults", "fit", "queries", "both", "generate", "heads", "stages", "device")
        parts = () if name in without else (f"{name}-p1", f"{name}-p5")
        parts = (name,) if name in ("shift", "scale", "methods") else parts
        shown |= {Path(f"docs/plots/{part}.svg"): path for part in parts}
    return shown


def stamp(path: Path) -> str:
    """Return the line of a plot that says which record it shows."""
    return f"<!-- record: sha256 {hashlib.sha256(path.read_bytes()).hexdigest()} -->"


def stale(records: Path = FOLDER, root: Path = ROOT) -> list[Path]:
    """List files, by path below `root`, that are missing or not what the newest records give."""

    def read(path: Path) -> str:
        return (root / path).read_text(encoding="utf-8") if (root / path).is_file() else ""

    texts = [path for path, text in render(records, root).items() if read(path) != text]
    return texts + [path for path, shown in figures(records).items() if stamp(shown) not in read(path)]


def replace_block(text: str, block: str, name: str, markers: tuple[str, str] = (BEGIN, END)) -> str:
    """Put a block between two markers of a text.

    Raises
    ------
    ValueError
        If they are not there, once each and in order.
    """
    first, last = markers
    before, begin, rest = text.partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end or first in rest or last in before + after:
        raise ValueError(f"{name} must have one line '{first}' and below it one line '{last}'")
    return f"{before}{first}\n{block}{last}{after}"


def main(arguments: list[str] | None = None) -> None:
    """Write what the newest records give, or check that it is written."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=main.__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a file is stale")
    if parser.parse_args(arguments).check:
        if wrong := stale():
            names = ", ".join(map(str, wrong))
            sys.exit(f"not what the records give: {names}; run python -m benchmarks.report")
        return
    from benchmarks.report.plots import draw  # matplotlib is needed for nothing else

    for path, text in (render() | draw()).items():
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_text(text, encoding="utf-8")
        print(path)

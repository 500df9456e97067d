"""The newest record of everything."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import record
from benchmarks.definitions import read_toml
from benchmarks.record import (
    DefaultRow,
    DeviceRow,
    FitRow,
    GenerateRow,
    HeadRow,
    MethodRow,
    QueriesRow,
    R,
    Row,
    ScaleRow,
    ShiftRow,
    StageRow,
)

__all__ = ["BUNDLES", "Recorded", "Records", "load", "newest"]

Recorded = tuple[dict[str, Any], list[Row]]
"""A record of a bundle: (head, rows)."""

BUNDLES = tuple(read_toml("bundles")["bundle"])
OTHERS: dict[str, type[Any]] = {
    "shift": ShiftRow,
    "scale": ScaleRow,
    "defaults": DefaultRow,
    "methods": MethodRow,
    "fit": FitRow,
    "queries": QueriesRow,
    "both": DefaultRow,
    "generate": GenerateRow,
    "heads": HeadRow,
    "stages": StageRow,
    "device": DeviceRow,
}
"""What is recorded beside bundles, and what a line of it is."""
_BEFORE = "stages-before"
"""Stages that others of the same machine are shown beside: of a commit that is told in the record."""


class Records(NamedTuple):
    """Records as (head, rows), None where there is none. A head has its own place too, as "record"."""

    bundles: dict[str, Recorded]
    shift: tuple[dict[str, Any], list[ShiftRow]] | None
    scale: tuple[dict[str, Any], list[ScaleRow]] | None
    defaults: tuple[dict[str, Any], list[DefaultRow]] | None
    methods: tuple[dict[str, Any], list[MethodRow]] | None
    fit: tuple[dict[str, Any], list[FitRow]] | None
    queries: tuple[dict[str, Any], list[QueriesRow]] | None
    both: tuple[dict[str, Any], list[DefaultRow]] | None
    generate: tuple[dict[str, Any], list[GenerateRow]] | None
    heads_of: tuple[dict[str, Any], list[HeadRow]] | None
    """The synthetic output layers, recorded as "heads"."""
    stages: tuple[dict[str, Any], list[StageRow]] | None
    device: tuple[dict[str, Any], list[DeviceRow]] | None
    stages_before: list[tuple[dict[str, Any], list[StageRow]]]
    """Those of an older commit, recorded on the same machine and kept."""
    by_processor: dict[str, list[Recorded]]
    """Of each bundle the newest record of each processor, by the processors' names."""

    @property
    def heads(self) -> dict[str, dict[str, Any]]:
        """Heads by name."""
        heads = {name: head for name, (head, _) in self.bundles.items()}
        if self.shift:
            heads["shift"] = self.shift[0]
        if self.scale:
            heads["scale"] = self.scale[0]
        return heads


def newest(folder: Path) -> dict[str, Path]:
    """Find records by name: the project's bundles in their order, other bundles, then the rest."""
    recorded = {path.stem[11:] for path in folder.glob("*/*.csv") if not path.stem[11:].startswith(_BEFORE)}
    others = sorted(recorded.difference(BUNDLES, OTHERS))
    paths = {name: record.latest(name, folder) for name in (*BUNDLES, *others, *OTHERS)}
    return {name: path for name, path in paths.items() if path}


def load(folder: Path) -> Records:
    """Read the newest records."""
    paths = newest(folder)
    stages = paths.get("stages")
    before = sorted(stages.parent.glob(f"*-{_BEFORE}*.csv"), key=lambda path: path.stem) if stages else []

    def read(path: Path, kind: type[R]) -> tuple[dict[str, Any], list[R]]:
        head, rows = record.read(path, kind)
        return head | {"record": path.relative_to(folder).as_posix()}, rows

    others: list[Any] = [read(paths.pop(name), OTHERS[name]) if name in paths else None for name in OTHERS]
    each = {name: record.newest_of_each(name, folder) for name in paths}
    recorded = {path: read(path, Row) for found in each.values() for path in found}
    bundles = {name: recorded[path] for name, path in paths.items()}
    by_processor = {name: [recorded[path] for path in found] for name, found in each.items()}
    return Records(bundles, *others, [read(path, StageRow) for path in before], by_processor)

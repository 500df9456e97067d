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
)

__all__ = ["BUNDLES", "Records", "load", "newest"]

BUNDLES = tuple(read_toml("bundles")["bundle"])
OTHERS = ("shift", "scale", "defaults", "methods", "fit", "queries", "both", "generate", "heads", "device")


class Records(NamedTuple):
    """Records as (head, rows), None where there is none. A head has its own place too, as "record"."""

    bundles: dict[str, tuple[dict[str, Any], list[Row]]]
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
    device: tuple[dict[str, Any], list[DeviceRow]] | None

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
    recorded = {path.stem[11:] for path in folder.glob("*/*.csv")}
    others = sorted(recorded.difference(BUNDLES, OTHERS))
    paths = {name: record.latest(name, folder) for name in (*BUNDLES, *others, *OTHERS)}
    return {name: path for name, path in paths.items() if path}


def load(folder: Path) -> Records:
    """Read the newest records."""
    paths = newest(folder)
    shift, scale, defaults, methods, fit, queries, both, generate, heads, device = (
        paths.pop(name, None) for name in OTHERS
    )

    def read(path: Path, kind: type[R]) -> tuple[dict[str, Any], list[R]]:
        head, rows = record.read(path, kind)
        return head | {"record": path.relative_to(folder).as_posix()}, rows

    return Records(
        {name: read(path, Row) for name, path in paths.items()},
        read(shift, ShiftRow) if shift else None,
        read(scale, ScaleRow) if scale else None,
        read(defaults, DefaultRow) if defaults else None,
        read(methods, MethodRow) if methods else None,
        read(fit, FitRow) if fit else None,
        read(queries, QueriesRow) if queries else None,
        read(both, DefaultRow) if both else None,
        read(generate, GenerateRow) if generate else None,
        read(heads, HeadRow) if heads else None,
        read(device, DeviceRow) if device else None,
    )

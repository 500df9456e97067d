"""What of a record is quoted: the cheapest setting that is good enough, and who else is as fast."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from typing import NamedTuple

from benchmarks.record import REFERENCE, Row

__all__ = [
    "LEVELS",
    "MODES",
    "TARGET",
    "TIE",
    "Comparison",
    "best",
    "by_engine",
    "cheapest",
    "chosen",
    "compare",
    "exponent",
    "frontier",
    "full_precision",
    "of_kind",
    "quality",
    "reaches",
    "reference",
]

TARGET = 0.99
LEVELS = (0.95, 0.98, 0.99, 0.995, 0.999)
TIE = 1.05
"""Times up to this factor apart are called equal."""
MODES = {
    "one_us": "one query, 1 thread",
    "one_2t_us": "one query, 2 threads",
    "b64_us": "batch of 64, 1 thread",
    "b64_2t_us": "batch of 64, 2 threads",
    "b1024_us": "batch of 1,024, 1 thread",
    "b1024_2t_us": "batch of 1,024, 2 threads",
}


def reaches(row: Row, level: float) -> bool:
    """Whether both P@1 and P@5 are at least this share of the full layer's."""
    return row.p1_ratio >= level and row.p5_ratio >= level


def quality(row: Row) -> float:
    """Return the lesser of the two shares."""
    return min(row.p1_ratio, row.p5_ratio)


def cheapest(rows: Iterable[Row], level: float = TARGET, field: str = "one_us") -> Row | None:
    """Find the quickest row that reaches a level; of equally quick ones the best."""
    good = [row for row in rows if reaches(row, level) and getattr(row, field) is not None]
    return min(good, key=lambda row: (getattr(row, field), -quality(row)), default=None)


def best(rows: Iterable[Row], field: str = "one_us") -> Row | None:
    """Find the row of best quality; of equally good ones the quickest."""
    timed = [row for row in rows if getattr(row, field) is not None]
    return max(timed, key=lambda row: (quality(row), -getattr(row, field)), default=None)


def chosen(rows: list[Row], field: str = "one_us") -> Row | None:
    """Find the row that stands for an engine: the cheapest that reaches the target, else the best."""
    return cheapest(rows, TARGET, field) or best(rows, field)


def by_engine(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Sort rows by engine, in the order of the record."""
    engines: dict[str, list[Row]] = {}
    for row in rows:
        engines.setdefault(row.engine, []).append(row)
    return engines


def of_kind(rows: Iterable[Row], *kinds: str) -> list[Row]:
    """Select rows of some kinds."""
    return [row for row in rows if row.kind in kinds]


def reference(rows: Iterable[Row]) -> Row | None:
    """Find the full layer in torch."""
    return next((row for row in rows if row.name == REFERENCE), None)


def full_precision(rows: Iterable[Row]) -> float | None:
    """P@1 of the full layer, by its own row or by any other's share of it."""
    rows = list(rows)
    row = reference(rows) or best(rows)
    return row.p1 / row.p1_ratio if row and row.p1_ratio else None


class Comparison(NamedTuple):
    """The quickest settings that reach a level, in one mode."""

    level: float
    mode: str
    ours: Row | None
    others: list[Row]
    """One an engine, the quickest first."""

    @property
    def lead(self) -> float | None:
        """How many times as long the quickest other takes; None if one side does not reach the level."""
        if self.ours is None or not self.others:
            return None
        return float(getattr(self.others[0], self.mode) / getattr(self.ours, self.mode))

    @property
    def not_slower(self) -> list[Row]:
        """Others that win or tie; where ours does not reach the level, all that do."""
        if self.ours is None:
            return self.others
        limit = getattr(self.ours, self.mode) * TIE
        return [row for row in self.others if getattr(row, self.mode) <= limit]


def compare(rows: list[Row], level: float = TARGET, mode: str = "one_us") -> Comparison:
    """Compare ours with every other engine at equal quality."""
    rivals = by_engine(of_kind(rows, "full", "peer")).values()
    found = [row for row in (cheapest(each, level, mode) for each in rivals) if row]
    ours = cheapest(of_kind(rows, "ours"), level, mode)
    return Comparison(level, mode, ours, sorted(found, key=lambda row: getattr(row, mode)))


def frontier(rows: Iterable[Row], ratio: str) -> list[Row]:
    """Select what no other row beats in both time and quality, the quickest first."""
    kept: list[Row] = []
    timed = [row for row in rows if row.one_us is not None]
    for row in sorted(timed, key=lambda row: (row.one_us, -getattr(row, ratio))):
        if not kept or getattr(row, ratio) > getattr(kept[-1], ratio):
            kept.append(row)
    return kept


def exponent(points: Iterable[tuple[float, float | None]]) -> float | None:
    """Fit e of ``value = c m^e``, by least squares over logarithms; None for fewer than two sizes."""
    logs = [(math.log(m), math.log(value)) for m, value in points if value]
    if len({x for x, _ in logs}) < 2:
        return None
    return statistics.linear_regression(*zip(*logs, strict=True)).slope

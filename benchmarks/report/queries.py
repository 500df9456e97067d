"""Quality against the number of training queries: a table for docs/traffic.md."""

from __future__ import annotations

from typing import Any

from benchmarks.record import QueriesRow
from benchmarks.report.markdown import amount, count, seconds, share, table

__all__ = ["block"]


def block(found: tuple[dict[str, Any], list[QueriesRow]] | None) -> str:
    """Write a table a bundle, a line a number of queries."""
    if found is None:
        return "Nothing is recorded yet: `python -m benchmarks queries`.\n"
    head, rows = found
    parts = [f"Recorded in `{head['record']}`.\n"]
    for bundle, point in dict.fromkeys((row.bundle, row.point) for row in rows):
        lines = [
            [
                f"{row.queries:,}",
                "all" if row.capacity is None else f"{row.capacity:,}",
                share(row.p1_ratio, row.p1_low, row.p1_high),
                share(row.p5_ratio, row.p5_low, row.p5_high),
                count(row.entries),
                count(row.sample),
                amount(row.size),
                seconds(row.seconds),
            ]
            for row in rows
            if (row.bundle, row.point) == (bundle, point)
        ]
        header = ["queries", "kept", "P@1/full", "P@5/full", "entries", "candidates", "index", "fit"]
        parts += [f"**{bundle}**, {point}\n", table(header, lines)]
    return "\n".join(parts)

"""Stages of a search: a table for docs/performance.md."""

from __future__ import annotations

from typing import Any

from benchmarks.record import StageRow
from benchmarks.report.markdown import measured, table, us

__all__ = ["block"]


def block(
    found: tuple[dict[str, Any], list[StageRow]] | None, before: tuple[dict[str, Any], list[StageRow]] | None
) -> str:
    """Write a table a bundle, and beside each time what it was before."""
    if found is None:
        return "Nothing is recorded yet: `python -m benchmarks stages`.\n"
    head, rows = found
    header = ["stage", "before", "one query", "of a call", "reads", "reading that in order"]
    was = {(row.bundle, row.stage): us(row.us) for row in before[1]} if before else {}
    parts = []
    for bundle in dict.fromkeys(row.bundle for row in rows):
        lines = [
            [
                row.stage,
                was.get((row.bundle, row.stage), ""),
                us(row.us),
                f"{row.share:.1%}",
                f"{row.nbytes / 1024:,.0f} KiB",
                us(row.least_us),
            ]
            for row in rows
            if row.bundle == bundle
        ]
        parts += [f"**{bundle}**\n", table(header, lines)]
    parts.append(f"A core reads memory in order at {head['gb_s']:.1f} GB/s here; caches are faster.\n")
    if before:
        then = before[0]
        parts.append(f"Before is {then['date']}, commit {then['commit']}, in `{then['record']}`.\n")
    return "\n".join([*parts, measured(head)])

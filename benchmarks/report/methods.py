"""Where planes come from: tables in the form of the paper's, a bundle each, for docs/learning.md."""

from __future__ import annotations

from typing import Any

from benchmarks.record import MethodRow
from benchmarks.report.markdown import count, seconds, share, table

__all__ = ["block"]

HEADER = (
    "method",
    "budget",
    "P@1/full",
    "P@5/full",
    "label recall",
    "sample size",
    "entries",
    "learning",
    "label recall beside",
)


def block(found: tuple[dict[str, Any], list[MethodRow]] | None) -> str:
    """Write a table a bundle, a line a method and budget."""
    if found is None:
        return "Nothing is recorded yet: `python -m benchmarks methods`.\n"
    head, rows = found
    parts = [f"Recorded in `{head['record']}`.\n"]
    for bundle in dict.fromkeys(row.bundle for row in rows):
        lines = [_line(row) for row in rows if row.bundle == bundle]
        parts += [f"**{bundle}**\n", table(HEADER, lines)]
    parts.append("![label recall against work, by method](plots/methods.svg)\n")
    return "\n".join(parts)


def _line(row: MethodRow) -> list[str]:
    return [
        row.method,
        row.budget,
        share(row.p1_ratio, row.p1_low, row.p1_high),
        share(row.p5_ratio, row.p5_low, row.p5_high),
        share(row.label_recall),
        count(row.sample),
        count(row.entries) if row.fill == "queries" else "",
        seconds(row.learn_s),
        _beside(row),
    ]


def _beside(row: MethodRow) -> str:
    """Say what is more than another method finds, and at how much work of that."""
    if row.gain is None or row.gain_low is None or row.gain_high is None:
        return ""
    work = f"{count(row.beside_sample)} rows, {count(row.beside_entries)} entries"
    return f"{row.beside} ({work}): {row.gain:+.4f} ({row.gain_low:+.4f} to {row.gain_high:+.4f})"

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
    "more than the closed form",
    "sample size",
    "entries",
    "learning",
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
    gain = ""
    if row.gain is not None and row.gain_low is not None and row.gain_high is not None:
        gain = f"{row.gain:+.4f} ({row.gain_low:+.4f} to {row.gain_high:+.4f})"
    return [
        row.method,
        row.budget,
        share(row.p1_ratio),
        share(row.p5_ratio),
        share(row.label_recall),
        gain,
        count(row.sample),
        count(row.entries),
        seconds(row.learn_s),
    ]

"""What ``fit`` alone reaches: a table for docs/learning.md."""

from __future__ import annotations

from typing import Any

from benchmarks.record import FitRow
from benchmarks.report.markdown import seconds, share, table, us

__all__ = ["block"]


def block(found: tuple[dict[str, Any], list[FitRow]] | None) -> str:
    """Write the table, a line a bundle."""
    if found is None:
        return "\nNothing is recorded yet: `python -m benchmarks fit`.\n"
    head, rows = found
    lines = [
        [
            row.bundle,
            f"{row.queries:,}",
            share(row.p1_ratio, row.p1_low, row.p1_high),
            share(row.p5_ratio, row.p5_low, row.p5_high),
            row.point,
            seconds(row.fit_s),
            us(row.teacher_us),
            us(row.torch_us),
            us(row.numpy_us),
        ]
        for row in rows
    ]
    heads = ["bundle", "training queries", "P@1/full", "P@5/full", "operating point", "fit"]
    heads += ["teacher, a query", "torch's product and topk", "numpy's product alone"]
    return f"\n**fit(target=0.99)**, recorded in `{head['record']}`.\n\n" + table(heads, lines)

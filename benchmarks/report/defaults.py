"""What the defaults rest on: a table for docs/design.md."""

from __future__ import annotations

from typing import Any

from benchmarks.record import DefaultRow
from benchmarks.report.markdown import amount, count, share, table

__all__ = ["block"]


def block(found: tuple[dict[str, Any], list[DefaultRow]] | None) -> str:
    """Write the table, a line a setting."""
    if found is None:
        return "Nothing is recorded yet: `python -m benchmarks defaults`.\n"
    head, rows = found
    lines = [
        [
            row.setting,
            share(row.p1_ratio),
            share(row.p5_ratio),
            count(row.entries),
            f"{row.share:.2%}",
            amount(row.tables_bytes),
        ]
        for row in rows
    ]
    sizes = f"{head['train_queries']:,} training queries, {head['test_queries']:,} test queries"
    return f"{sizes}; recorded in `{head['record']}`.\n\n" + table(
        ["setting", "P@1/full", "P@5/full", "entries", "candidates", "tables"], lines
    )

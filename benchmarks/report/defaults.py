"""What the defaults rest on: a table for docs/design.md, and one for docs/traffic.md."""

from __future__ import annotations

from typing import Any

from benchmarks.record import DefaultRow
from benchmarks.report.markdown import amount, count, share, table

__all__ = ["block", "both"]


def block(found: tuple[dict[str, Any], list[DefaultRow]] | None) -> str:
    """Write the table, a line a setting."""
    if found is None:
        return "Nothing is recorded yet: `python -m benchmarks defaults`.\n"
    head, rows = found
    sizes = f"{head['train_queries']:,} training queries, {head['test_queries']:,} test queries"
    return f"{sizes}; recorded in `{head['record']}`.\n\n" + _table(rows)


def both(found: tuple[dict[str, Any], list[DefaultRow]] | None) -> str:
    """Write the table of rows beside training queries."""
    if found is None:
        return "\nNothing is recorded yet: `python -m benchmarks both`.\n"
    head, rows = found
    pair = f"fitted on {head.get('fitted')}, asked {head.get('served')}"
    return f"\n**fill**, {pair}; recorded in `{head['record']}`.\n\n" + _table(rows)


def _table(rows: list[DefaultRow]) -> str:
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
    return table(["setting", "P@1/full", "P@5/full", "entries", "candidates", "tables"], lines)

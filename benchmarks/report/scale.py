"""Scale: what grows how fast with the number of rows."""

from __future__ import annotations

from itertools import chain
from typing import Any

from benchmarks.record import ScaleRow
from benchmarks.report.choice import exponent
from benchmarks.report.markdown import Measure, amount, count, measured, not_more, seconds, share, table, us

__all__ = ["by_size", "line", "losses", "section"]

_MEASURES = (
    Measure("one_us", "one query", us),
    Measure("one_p99_us", "one query, p99", us),
    Measure("build_s", "build time", seconds),
    Measure("tables_s", "of it tables and sketches", seconds),
    Measure("peak_bytes", "peak memory", amount),
    Measure("size", "index size", amount),
    Measure("bytes_read", "bytes read", amount),
)
_TITLES = [measure.title for measure in _MEASURES]


def by_size(rows: list[ScaleRow]) -> dict[str, list[ScaleRow]]:
    """Sort rows by engine, ours first, then full layers, then peers; within an engine small layers first."""
    engines: dict[str, list[ScaleRow]] = {}
    kinds = ("ours", "full", "peer")
    for row in sorted(rows, key=lambda row: (kinds.index(row.kind), row.engine, row.m)):
        engines.setdefault(row.engine, []).append(row)
    return engines


def line(rows: list[ScaleRow]) -> str:
    """Say how the time of one query grows."""
    parts, sizes = [], [row.m for row in rows]
    for engine, each in by_size(rows).items():
        e = exponent((row.m, row.one_us) for row in each)
        if e is not None:
            until = f" at {each[-1].m:,} rows" if each[-1].m < max(sizes) else ""
            parts.append(f"{engine} {us(each[0].one_us)} to {us(each[-1].one_us)}{until}, as m^{e:.2f}")
    return f"**scale** (synthetic): one query from {min(sizes):,} to {max(sizes):,} rows: {'; '.join(parts)}"


def section(head: dict[str, Any], rows: list[ScaleRow]) -> str:
    """Write the section of the page."""
    engines, asked = by_size(rows), head.get("target_recall") or 0.0
    growth = [
        [engine, *(_power(each, measure.field) for measure in _MEASURES)] for engine, each in engines.items()
    ]
    lines = [
        [
            row.engine,
            f"{row.m:,}",
            row.setting,
            share(row.label_recall) + (" (below)" if row.label_recall < asked else ""),
            count(row.sample),
            *(measure.show(row) for measure in _MEASURES),
        ]
        for row in chain.from_iterable(engines.values())
    ]
    return "\n".join(
        [
            "## Scale: how cost grows with the number of rows",
            measured(head),
            "Rows and queries are synthetic, with planted labels: this says how cost grows, and nothing of",
            "quality on real data. Each engine is at its cheapest setting that finds the planted labels as",
            "often as asked for. Exponents are least-squares fits over logarithms.\n",
            "![time of one query and of building against the number of rows](plots/scale.svg)\n",
            table(["exponent of m", *_TITLES], growth),
            table(["engine", "m", "setting", "label recall", "sample size", *_TITLES], lines),
        ]
    )


def losses(rows: list[ScaleRow]) -> str:
    """List what others need less of than ours, or as much, at each size."""
    lines = []
    for ours in (row for row in rows if row.kind == "ours"):
        others = [row for row in rows if row.kind != "ours" and row.m == ours.m]
        lines += [[f"{ours.m:,}", *cells] for cells in not_more(ours, others, _MEASURES)]
    if not lines:
        return "Scale: no other engine needs as little of anything at any size.\n"
    title = "Scale: what others need less of, or as much:\n"
    return f"{title}\n{table(['m', 'of', 'ours', 'less, or as much'], lines)}"


def _power(rows: list[ScaleRow], field: str) -> str:
    e = exponent((row.m, getattr(row, field)) for row in rows)
    return "" if e is None else f"{e:.2f}"

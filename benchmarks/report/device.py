"""Scoring on a device: a table for docs/models.md."""

from __future__ import annotations

from typing import Any

from benchmarks.record import DENSE, DeviceRow
from benchmarks.report.markdown import brackets, measured, share, table, times, us

__all__ = ["block"]


def block(found: tuple[dict[str, Any], list[DeviceRow]] | None) -> str:
    """Write a table, a line a way and dtype, a column a size of batches; nothing without a record."""
    if found is None:
        return ""
    head, rows = found
    k, threads = head["k"], head["threads"]
    bundle = head["definition"]["bundle"]
    batches = list(dict.fromkeys(row.batch for row in rows))
    by = {(row.dtype, row.way, row.batch): row for row in rows}
    lines = []
    for dtype, way in dict.fromkeys((row.dtype, row.way) for row in rows):
        of_way = [by[dtype, way, batch] for batch in batches]
        quality = of_way[-1].p1_ratio, of_way[-1].pk_ratio, of_way[-1].same_label
        lines.append([dtype, way, *map(share, quality), *(_time(row, by) for row in of_way)])
    header = ["dtype", "way", "P@1/full", f"P@{k}/full", "same best label"]
    return "\n".join(
        [
            f"**{bundle}** on `{head['device']}`: the {k} best labels by each path of a",
            "`Scorer`, and by `linear` and `topk`, the dense way. Rows and queries are on the device,",
            "in the dtype given. A time is of a whole batch, one call after another, each waited for;",
            "in brackets the dense way's of the same dtype, divided by it: above 1 is faster. Quality is a",
            "share of the dense way's in float32, on all test queries, one at a time.\n",
            table([*header, *(f"batch of {batch:,}" for batch in batches)], lines),
            f"Threads on the CPU: {threads['torch']} of torch, {threads['lss-rs']} of lss-rs.\n",
            measured(head),
        ]
    )


def _time(row: DeviceRow, by: dict[tuple[str, str, int], DeviceRow]) -> str:
    if row.way == DENSE:
        return us(row.us)
    return us(row.us) + brackets(times(by[row.dtype, DENSE, row.batch].us / row.us))

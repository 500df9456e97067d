"""Stages of a search: a table for docs/performance.md."""

from __future__ import annotations

from typing import Any

from benchmarks.instructions import KERNEL
from benchmarks.record import StageRow
from benchmarks.report.markdown import measured, table, us

__all__ = ["block"]

_AT_ONCE = 4
"""Instructions begun in a cycle, for the time that the page gives: a round number that code reaches."""


def block(
    found: tuple[dict[str, Any], list[StageRow]] | None, before: list[tuple[dict[str, Any], list[StageRow]]]
) -> str:
    """Write a table a bundle, and beside each time what it was before, by the first record that has it."""
    if found is None:
        return "Nothing is recorded yet: `python -m benchmarks stages`.\n"
    head, rows = found
    header = ["stage", "before", "one query", "of a call", "reads", "reading that in order"]
    was = {(row.bundle, row.stage): us(row.us) for _, rows in reversed(before) for row in rows}
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
    speeds = ", ".join(f"{gb_s:.1f} GB/s ({bundle})" for bundle, gb_s in head["gb_s"].items())
    parts.append(f"As many bytes as these indexes have a core reads in order, over and over, at {speeds}.\n")
    if any(head["instructions"].values()) and head["ghz"]:
        parts.append(_instructions(head))
    call = us(head["call_us"])
    parts.append(
        f"A call that has next to nothing to search takes {call} where one follows the other; what `search` "
        "takes beyond `core` is as much where a search has filled the nearest caches.\n"
    )
    took = {name: f"{ms:.0f} ms" for name, ms in head["import_ms"].items()}
    parts.append(f"`import lss_rs` takes {took['lss_rs']}, of which {took['numpy']} are numpy's.\n")
    for then, _ in before:
        parts.append(f"Before: commit {then['commit']}, in `{then['record']}`.\n")
    return "\n".join([*parts, measured(head)])


def _instructions(head: dict[str, Any]) -> str:
    """Say what the instructions of searches would take by themselves."""
    each = ", ".join(
        f"{counted:,.0f}, {us(counted / _AT_ONCE / head['ghz'] / 1e3)} ({bundle})"
        for bundle, counted in head["instructions"].items()
        if counted
    )
    return (
        f"Instructions of a search on average, and what they take where {_AT_ONCE} begin in each cycle of "
        f"{head['ghz']:.1f} GHz: {each}. They are no least: they are those of the {KERNEL} kernel, for "
        "valgrind knows no wider vectors, with which there are fewer, and a mean, where times are medians.\n"
    )

"""Figures as people read them, and tables of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from benchmarks.report.choice import TIE

__all__ = [
    "Measure",
    "amount",
    "brackets",
    "count",
    "energy",
    "measured",
    "not_more",
    "seconds",
    "share",
    "table",
    "times",
    "us",
    "verdict",
]


def _three(value: float) -> str:
    """Write three significant digits: "9.70", "104", "1,230"."""
    return f"{value:,.0f}" if value >= 1000 or not value else f"{value:#.3g}".rstrip(".")


def _scaled(value: float | None, units: Sequence[tuple[str, float]]) -> str:
    """Write a value in the largest unit of which it is at least one; units go from small to large."""
    if value is None:
        return ""
    name, size = next((unit for unit in reversed(units) if float(f"{value / unit[1]:.3g}") >= 1), units[0])
    return f"{_three(value / size)} {name}"


def us(value: float | None) -> str:
    """Write a time given in microseconds."""
    return _scaled(value, [("us", 1), ("ms", 1e3), ("s", 1e6)])


def seconds(value: float | None) -> str:
    """Write a time given in seconds."""
    return us(None if value is None else value * 1e6)


def amount(value: float | None) -> str:
    """Write a number of bytes."""
    return _scaled(value, [("B", 1), ("KiB", 2**10), ("MiB", 2**20), ("GiB", 2**30)])


def energy(value: float | None, kind: str) -> str:
    """Write an energy given in microjoules, and beside it whether it is measured or estimated."""
    figure = _scaled(value, [("uJ", 1), ("mJ", 1e3), ("J", 1e6)])
    return f"{figure} {kind}".strip() if figure else ""


def times(ratio: float) -> str:
    """Write a factor: "1.04", "3.9", "93", "1,240"."""
    if ratio < 1.995:
        return f"{ratio:.2f}" if ratio >= 0.1 else f"{ratio:.2g}"
    return f"{ratio:.1f}" if ratio < 9.95 else f"{ratio:,.0f}"


def verdict(ours: float, other: float) -> str:
    """Say how another's time compares with ours."""
    if other > ours * TIE:
        return f"{times(other / ours)} times"
    return "a tie" if other * TIE >= ours else f"{times(ours / other)} times faster than ours"


def share(ratio: float | None, low: float | None = None, high: float | None = None) -> str:
    """Write a share or a precision, with its interval where there is one."""
    if ratio is None or math.isnan(ratio):
        return ""
    return f"{ratio:.4f}" + (f" ({low:.4f}-{high:.4f})" if low is not None and high is not None else "")


def count(value: float | None) -> str:
    """Write a number of things, rounded to a whole one from ten on."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 10 else f"{value:.3g}"


def brackets(*parts: str) -> str:
    """Put what is not empty in brackets, after a space."""
    inside = ", ".join(filter(None, parts))
    return f" ({inside})" if inside else ""


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a table. A column that is empty throughout is left out."""
    rows = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    kept = [i for i in range(len(header)) if i == 0 or any(row[i] for row in rows)]
    lines = [[header[i] for i in kept], ["---"] * len(kept), *([row[i] for i in kept] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


class Measure(NamedTuple):
    """A column of a record of which less is better."""

    field: str
    title: str
    write: Callable[..., str]
    beside: tuple[str, ...] = ()
    """Other columns that writing it takes."""

    def show(self, row: Any) -> str:
        """Write a row's figure."""
        return self.write(*(getattr(row, name) for name in (self.field, *self.beside)))


def not_more(ours: Any, others: Iterable[Any], measures: Iterable[Measure]) -> list[list[str]]:
    """List the measures of which others have less than ours, or as much: title, ours, theirs."""
    others, lines = list(others), []
    for measure in measures:
        mine = getattr(ours, measure.field)
        known = [row for row in others if mine is not None and getattr(row, measure.field) is not None]
        less = [row for row in known if getattr(row, measure.field) <= mine * TIE]
        if less:
            less.sort(key=lambda row: getattr(row, measure.field))
            named = ", ".join(f"{row.engine} {measure.show(row)}" for row in less)
            lines.append([measure.title, measure.show(ours), named])
    return lines


def measured(head: dict[str, Any]) -> str:
    """Say what was measured where, as far as a record's head does."""
    form = {
        "Data": [
            ("m", "m = {:,}"),
            ("d", "d = {:,}"),
            ("k", "k = {}"),
            ("train_queries", "{:,} training queries"),
            ("test_queries", "{:,} test queries"),
            ("groups", "{:,} documents in test"),
            ("labels_a_query", "labels a query: {:.3g}"),
            ("target_recall", "label recall asked for: {}"),
        ],
        "Machine": [
            ("cpu", "{}"),
            ("cores", "{} processors"),
            ("memory_gib", "{:.0f} GiB"),
            ("kernel", "lss-rs on its {} kernel"),
            ("device_name", "{}"),
        ],
        "Run": [
            ("date", "{}"),
            ("commit", "commit {}"),
            ("command", "`{}`"),
            ("rounds", "{} rounds"),
            ("seconds", "{:,.0f} s in all"),
            ("record", "recorded in `{}`"),
        ],
    }
    facts = {
        name: [text.format(head[key]) for key, text in keys if isinstance(head.get(key), int | float | str)]
        for name, keys in form.items()
    }
    facts["Machine"] += [f"processor has {' '.join(head['simd'])}"] if head.get("simd") else []
    facts["Versions"] = [f"{name} {number}" for name, number in head.get("versions", {}).items()]
    facts["Left out"] = [f"{name} ({_first_line(why)})" for name, why in head.get("skipped", {}).items()]
    return "".join(f"- {name}: {', '.join(facts[name])}.\n" for name in facts if facts[name])


def _first_line(text: str) -> str:
    return text.partition("\n")[0]

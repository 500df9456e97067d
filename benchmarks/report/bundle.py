"""A bundle: its line, its section of the page, and where others are as good as ours or better."""

from __future__ import annotations

from typing import Any

from benchmarks.record import REFERENCE, Row
from benchmarks.report import choice
from benchmarks.report.choice import LEVELS, MODES, TARGET, Comparison
from benchmarks.report.markdown import (
    Measure,
    amount,
    brackets,
    count,
    energy,
    measured,
    not_more,
    seconds,
    share,
    table,
    times,
    us,
    verdict,
)
from benchmarks.report.newest import Recorded

__all__ = ["COSTS_HEADER", "SLOWER_HEADER", "costlier", "line", "section", "slower", "summary"]

_PLAIN = "lss-rs"
SLOWER_HEADER = ["bundle", "queries", "level", "ours", "the fastest other", "verdict", "also not slower"]
COSTS_HEADER = ["bundle", "of", "ours", "less, or as much"]

_COSTS = (
    Measure("build_s", "build time", seconds),
    Measure("peak_bytes", "peak memory of the build", amount),
    Measure("size", "index size", amount),
    Measure("bytes_read", "bytes read a query", amount),
    Measure("energy_uj", "energy a query", energy, ("energy_kind",)),
    Measure("one_p95_us", "one query, p95", us),
    Measure("one_p99_us", "one query, p99", us),
)


def line(name: str, rows: list[Row], cpu: str = "") -> str:
    """Say in one line what a record says of ours, of torch and of the best peer."""
    found = choice.compare(rows)
    torch, peer = choice.reference(rows), _best_peer(found)
    parts = [_ours(rows)]
    if torch and torch.one_us is not None:
        parts.append(f"{torch.engine} {us(torch.one_us)}{brackets(_against(found.ours, torch))}")
    if peer:
        verdicts = brackets(_against(found.ours, peer), _setting(peer))
        parts.append(f"best peer {peer.engine} {us(peer.one_us)}{verdicts}")
    else:
        parts.append(f"no peer reaches {TARGET}")
    return f"**{name}**{brackets(cpu)}: {'; '.join(parts)}"


def summary(by_processor: dict[str, list[Recorded]]) -> str:
    """Write the README's table, a line a bundle and processor."""
    lines = []
    for name, head, rows in ((name, *each) for name, records in by_processor.items() for each in records):
        ours, torch = choice.chosen(choice.of_kind(rows, "ours")), choice.reference(rows)
        found = choice.compare(rows)
        peer = _best_peer(found)
        lines.append(
            [
                name,
                head.get("cpu", ""),
                count(head.get("m")),
                count(head.get("d")),
                share(choice.full_precision(rows)),
                share(ours.p1_ratio) + _mark(ours) if ours else "",
                share(ours.p5_ratio) if ours else "",
                us(ours.one_us) if ours else "",
                us(torch.one_us) if torch else "",
                _times(found.ours, torch),
                f"{peer.engine} {us(peer.one_us)}" if peer else "",
                _times(found.ours, peer),
            ]
        )
    header = ["bundle", "processor", "m", "d", "full P@1", "ours: P@1/full", "P@5/full", "one query"]
    return table([*header, "torch", "times", "best peer", "times"], lines)


def section(name: str, head: dict[str, Any], rows: list[Row]) -> str:
    """Write a bundle's section of the page."""
    engines = _engines(rows)
    title = f": {head['title']}" if head.get("title") else ""
    plots = [f"![{name}: share of P@{p} against time](plots/{name}-p{p}.svg)\n" for p in (1, 5)]
    return "\n".join(
        [
            f"## {name}{title}",
            measured(head),
            _paper(engines, choice.reference(rows)),
            *plots,
            "How many times as long as ours the fastest other engine takes, at equal quality:\n",
            _leads(rows),
            "Time of a query, alone or as a share of a batch, each at the engine's best setting for it:\n",
            _batches(engines),
            "One query's tails, means of the quickest and the slowest round, and what building takes:\n",
            _tails(engines),
            f"<details><summary>All {len(rows)} settings</summary>\n",
            _grid(rows),
            "</details>\n",
        ]
    )


def slower(name: str, rows: list[Row]) -> tuple[int, list[list[str]]]:
    """Compare times at every level in every mode: how many comparisons, and those that ours does not win."""
    compared = [choice.compare(rows, level, mode) for mode in MODES for level in LEVELS]
    return sum(bool(each.others) for each in compared), [
        [name, MODES[each.mode], str(each.level), *_loss(each)] for each in compared if each.not_slower
    ]


def costlier(name: str, rows: list[Row]) -> list[list[str]]:
    """List what others need less of than ours, or as much, each at its cheapest setting for one query."""
    found = choice.compare(rows)
    return [[name, *cells] for cells in not_more(found.ours, found.others, _COSTS)] if found.ours else []


def _best_peer(found: Comparison) -> Row | None:
    return next((row for row in found.others if row.name != REFERENCE), None)


def _ours(rows: list[Row]) -> str:
    ours = choice.chosen(choice.of_kind(rows, "ours"))
    if ours is None:
        return "ours was not measured"
    engine = ours.engine if ours.engine != _PLAIN else ""  # of several, the one that has a name of its own
    cost = f"{us(ours.one_us)}{brackets(', '.join(filter(None, (engine, _setting(ours)))))}"
    if choice.reaches(ours, TARGET):
        return f"ours at >= {TARGET} of full P@1 and P@5: {cost}"
    kept = f"{share(ours.p1_ratio)} and {share(ours.p5_ratio)}"
    return f"no setting of ours reaches {TARGET} of full P@1 and P@5; the best is {kept}, in {cost}"


def _against(ours: Row | None, other: Row, mode: str = "one_us") -> str:
    return verdict(getattr(ours, mode), getattr(other, mode)) if ours else ""


def _times(ours: Row | None, other: Row | None) -> str:
    if ours is None or other is None or ours.one_us is None or other.one_us is None:
        return ""
    return times(other.one_us / ours.one_us)


def _setting(row: Row) -> str:
    return ", ".join(filter(None, (row.build, row.search)))


def _mark(row: Row) -> str:
    return "" if choice.reaches(row, TARGET) else " (below)"


def _engines(rows: list[Row]) -> list[tuple[str, list[Row]]]:
    """Titles and rows: full layers first, ours last and bold; in a kind those that reach the target first."""

    def place(each: list[Row]) -> tuple[int, bool, bool, float]:
        row = choice.chosen(each) or each[0]
        kind = ("full", "peer", "ours").index(row.kind)
        return kind, row.name != REFERENCE, not choice.reaches(row, TARGET), row.one_us or 0.0

    engines = sorted(choice.by_engine(rows).values(), key=place)
    return [(f"**{each[0].engine}**" if each[0].kind == "ours" else each[0].engine, each) for each in engines]


def _paper(engines: list[tuple[str, list[Row]]], torch: Row | None) -> str:
    lines = []
    for title, each in engines:
        row = choice.chosen(each) or each[0]
        lines.append(
            [
                title + _mark(row),
                _setting(row),
                row.sees,
                share(row.p1),
                share(row.p5),
                share(row.p1_ratio, row.p1_low, row.p1_high),
                share(row.p5_ratio, row.p5_low, row.p5_high),
                share(row.label_recall),
                count(row.sample),
                us(row.one_us),
                _times(row, torch),
                energy(row.energy_uj, row.energy_kind),
                amount(row.bytes_read),
            ]
        )
    header = ["engine", "setting", "sees", "P@1", "P@5", "P@1/full", "P@5/full", "label recall"]
    return table([*header, "sample size", "one query", "speed, torch = 1", "energy", "bytes read"], lines)


def _leads(rows: list[Row]) -> str:
    def cell(found: Comparison) -> str:
        if found.ours is None:
            return "ours does not reach it" if found.others else "none reaches it"
        return "only ours reaches it" if found.lead is None else times(found.lead)

    lines = [
        [title, *(cell(choice.compare(rows, level, mode)) for level in LEVELS)]
        for mode, title in MODES.items()
        if any(getattr(row, mode) is not None for row in rows)
    ]
    return table(["P@1 and P@5 of full", *(f">= {level}" for level in LEVELS)], lines)


def _batches(engines: list[tuple[str, list[Row]]]) -> str:
    lines = []
    for title, each in engines:
        found = {mode: choice.chosen(each, mode) for mode in MODES}
        cells = [us(getattr(row, mode)) + _mark(row) if row else "" for mode, row in found.items()]
        lines.append([title, *cells])
    return table(["engine", *MODES.values()], lines)


def _tails(engines: list[tuple[str, list[Row]]]) -> str:
    lines = []
    for title, each in engines:
        row = choice.chosen(each) or each[0]
        rounds = f"{us(row.one_least_us)} - {us(row.one_most_us)}" if row.one_least_us is not None else ""
        tails = [us(row.one_us), us(row.one_p95_us), us(row.one_p99_us), rounds]
        built = [seconds(row.build_s), amount(row.peak_bytes), amount(row.size)]
        lines.append([title + _mark(row), *tails, *built])
    return table(
        ["engine", "mean", "p95", "p99", "least - most round", "build time", "peak memory", "index size"],
        lines,
    )


def _grid(rows: list[Row]) -> str:
    lines = [
        [
            row.engine,
            row.build,
            row.search,
            row.documented,
            share(row.p1_ratio),
            share(row.p5_ratio),
            share(row.label_recall),
            count(row.sample),
            *(us(getattr(row, mode)) for mode in MODES),
            seconds(row.build_s),
            amount(row.size),
        ]
        for row in rows
    ]
    header = ["engine", "build", "search", "recommended by", "P@1/full", "P@5/full", "label recall"]
    return table([*header, "sample size", *MODES.values(), "build time", "index size"], lines)


def _loss(found: Comparison) -> list[str]:
    """Ours, the fastest other, the verdict, and who else wins or ties."""

    def cost(row: Row) -> str:
        return us(getattr(row, found.mode))

    first, *more = found.not_slower
    ours = f"{cost(found.ours)}{brackets(_setting(found.ours))}" if found.ours else "none"
    said = _against(found.ours, first, found.mode) or "ours does not reach the level"
    named = ", ".join(f"{row.engine} {cost(row)}" for row in more)
    return [ours, f"{first.engine} {cost(first)}{brackets(_setting(first))}", said, named]

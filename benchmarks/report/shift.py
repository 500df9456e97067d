"""Shift: engines fitted on one domain of text and asked another."""

from __future__ import annotations

from typing import Any

from benchmarks.record import REFERENCE, ShiftRow
from benchmarks.report.choice import TARGET
from benchmarks.report.markdown import measured, share, table, times, us

__all__ = ["line", "losses", "section"]


def line(rows: list[ShiftRow]) -> str:
    """Name the pair of domains of the first bundle that is worst for ours, and the best peer on it."""
    rows = [row for row in rows if row.bundle == rows[0].bundle]
    foreign = [row for row in rows if row.kind == "ours" and row.fitted not in ("", row.served)]
    at_once = [row for row in foreign if not row.observed]
    if not at_once:
        return "**shift**: ours was not measured"
    fixed = min(at_once, key=_least)
    pair = f"fitted on `{fixed.fitted}` and asked `{fixed.served}`, the worst pair"
    there = [row for row in foreign if (row.fitted, row.served) == (fixed.fitted, fixed.served)]
    parts = [f"{_named(row)} keeps {_kept(row)}" for row in there if not row.observed]
    learned = [row for row in there if row.observed and not _stays(row)]
    later = [row for row in learned if not row.refreshed]
    if last := max(later, key=lambda row: (row.observed, _least(row)), default=None):
        parts.append(f"having served {last.observed:,} such queries {_kept(last)}")
    if tuned := max((row for row in learned if row.refreshed), key=_least, default=None):
        parts.append(f"tuned anew after {tuned.observed:,} {_kept(tuned)}")
    peers = [row for row in rows if row.kind == "peer" and _same_case(row, fixed)]
    if best := max(peers, key=_least, default=None):
        parts.append(f"the best peer there, {best.engine}, {_kept(best)}")
    return f"**shift**: {pair}: {'; '.join(parts)}"


def section(head: dict[str, Any], rows: list[ShiftRow]) -> str:
    """Write the section of the page: fitted down, asked across."""
    return "\n".join(
        [
            "## Shift: fitted on one domain of text, asked another",
            measured(head),
            "Shares of the full layer's P@1 and P@5 on the queries asked, with their intervals; then the",
            "time of one query on one thread, median and p99, and the share of the queries for which the",
            "index went on to a scan. A setting is the cheapest of an engine's grid that keeps",
            f"{head.get('target', TARGET)} of both on held-out queries of the domain fitted on. An index",
            "that found its operating point by itself is asked with it (`effort=adaptive`), and with one",
            "that keeps as much without going on (`effort=fixed`, dotted in the plot)." + _tuned(head),
            "![quality and time against queries served from another domain](plots/shift.svg)\n",
            *(_table(bundle, rows) for bundle in dict.fromkeys(row.bundle for row in rows)),
            *_learners(rows),
        ]
    )


def _tuned(head: dict[str, Any]) -> str:
    """Say what tuning anew was."""
    plan = head.get("refresh")
    if not plan:
        return "\n"
    return (
        f" Tuned anew: after {plan['observed']:,} queries served, on the last {plan['queries']:,} of them,"
        f" to keep {plan['target']} of {' and '.join(f'P@{k}' for k in plan['ks'])}"
        f" at a confidence of {plan['confidence']} (circles).\n"
    )


def _learners(rows: list[ShiftRow]) -> list[str]:
    """Write what an index that observes keeps and costs, the more it has served."""
    engines = {row.engine for row in rows if row.observed}
    full = {(row.bundle, row.served): row for row in rows if row.name == REFERENCE}
    lines = []
    for row in sorted(
        (row for row in rows if row.engine in engines),
        key=lambda row: (row.bundle, row.fitted, row.served, row.setting, row.observed, row.refreshed),
    ):
        torch = full.get((row.bundle, row.served))
        known = torch is not None and torch.one_mean_us and row.one_mean_us
        lines.append(
            [
                row.bundle,
                row.fitted,
                row.served,
                row.setting,
                _before(row) or "0",
                share(row.p1_ratio),
                share(row.p5_ratio),
                us(row.one_mean_us),
                times(torch.one_mean_us / row.one_mean_us) if torch and known else "",
                us(row.one_p99_us),
                f"{row.escalated:.1%}" if row.escalated is not None else "",
            ]
        )
    if not lines:
        return []
    header = ["bundle", "fitted on", "asked", "effort", "served before", "P@1/full", "P@5/full"]
    header += ["mean", "torch's mean / that", "p99", "went on"]
    names = ", ".join(sorted(engines))
    return [f"What {names} keeps and costs, the more it served:\n", table(header, lines)]


def _table(bundle: str, rows: list[ShiftRow]) -> str:
    """Write one bundle's table."""
    rows = [row for row in rows if row.bundle == bundle]
    domains = list(dict.fromkeys(row.served for row in rows))
    cells: dict[tuple[str, str, str, str], dict[str, ShiftRow]] = {}
    for row in rows:
        cells.setdefault((row.engine, row.setting, row.fitted, _before(row)), {})[row.served] = row
    lines = []
    for (engine, setting, fitted, before), served in cells.items():
        one = next(iter(served.values()))
        setting = setting or "as it is"
        setting += f", served before: {before}" if before else ""
        on = fitted + (" (its setting alone)" if fitted and one.sees == "rows" else "")
        found = [_cell(served[domain]) if domain in served else "" for domain in domains]
        lines.append([f"**{engine}**" if one.kind == "ours" else engine, setting, on or "rows alone", *found])
    asked = [f"asked {domain}" for domain in domains]
    return f"**{bundle}**\n\n{table(['engine', 'setting', 'fitted on', *asked], lines)}"


def losses(rows: list[ShiftRow]) -> str:
    """List the pairs of domains on which a peer keeps as much as ours or more; full layers keep all."""
    lines = []
    for ours in (row for row in rows if row.kind == "ours" and not row.observed):
        peers = [row for row in rows if row.kind == "peer" and _same_case(row, ours)]
        better = [row for row in peers if row.p1_ratio >= ours.p1_ratio or row.p5_ratio >= ours.p5_ratio]
        if better:
            better.sort(key=_least, reverse=True)
            named = "; ".join(f"{row.engine} {_kept(row)}" for row in better)
            lines.append([ours.bundle, ours.fitted, ours.served, f"{_named(ours)} {_kept(ours)}", named])
    if not lines:
        return "Shift: on no pair of domains does a peer keep as much as ours.\n"
    title = "Shift: pairs of domains on which a peer keeps as much as ours of P@1 or of P@5, or more:\n"
    return f"{title}\n{table(['bundle', 'fitted on', 'asked', 'ours', 'peers'], lines)}"


def _before(row: ShiftRow) -> str:
    """Say what an index has served before; nothing if nothing."""
    if not row.observed:
        return ""
    of = f" of {row.learned}" if row.learned != row.served else ""
    return f"{row.observed:,}{of}" + (", tuned anew" if row.refreshed else "")


def _named(row: ShiftRow) -> str:
    return f"{row.engine}, tables alone," if _stays(row) else row.engine


def _stays(row: ShiftRow) -> bool:
    """Whether searches stay with the tables."""
    return "effort=fixed" in row.setting


def _least(row: ShiftRow) -> float:
    return min(row.p1_ratio, row.p5_ratio)


def _same_case(row: ShiftRow, ours: ShiftRow) -> bool:
    """Whether a row answers the same queries, fitted on the same domain or on none."""
    return (row.bundle, row.served) == (ours.bundle, ours.served) and row.fitted in ("", ours.fitted)


def _kept(row: ShiftRow) -> str:
    taken = row.one_mean_us if row.escalated else row.one_us
    cost = f" in {us(taken)}" if taken is not None else ""
    return f"{share(row.p1_ratio)} of P@1 and {share(row.p5_ratio)} of P@5{cost}"


def _cell(row: ShiftRow) -> str:
    tail = f", p99 {us(row.one_p99_us)}" if row.one_p99_us is not None else ""
    mean = f", mean {us(row.one_mean_us)}" if row.escalated else ""
    parts = [
        f"P@1 {share(row.p1_ratio, row.p1_low, row.p1_high)}",
        f"P@5 {share(row.p5_ratio, row.p5_low, row.p5_high)}",
        f"{us(row.one_us)}{mean}{tail}",
        f"{row.escalated:.1%} went on" if row.escalated is not None else "",
    ]
    return "<br>".join(filter(None, parts))

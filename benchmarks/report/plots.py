"""Plots of the records, as SVG for light and dark ground: grey text, colours of middle lightness."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from benchmarks.record import FOLDER, MethodRow, Row, ScaleRow, ShiftRow
from benchmarks.report import choice, stamp
from benchmarks.report import figures as expected
from benchmarks.report.markdown import us
from benchmarks.report.newest import load
from benchmarks.report.scale import by_size

__all__ = ["draw"]

GREY = "#797979"
"""Of equal contrast, 4.3, with white and with the darkest grounds in use."""
OURS = "#e0522b"
COLOURS = ("#2f7fc1", "#159a74", "#a06cd5", "#a88410", "#d0569a", "#1c9db0")
MARKERS = "osD^vPX<>hp*8d"
LEAST, MOST = 0.8, 0.9995
"""Shares between which the frontier plots show differences."""
TICKS = (0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999)
STYLE = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "lss-rs",  # ids of elements are the same at every run
    "font.family": "sans-serif",
    "font.size": 10,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), GREY),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GREY,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
}


class Style(NamedTuple):
    """How an engine looks in every plot."""

    color: str
    marker: str
    linestyle: str
    linewidth: float
    zorder: float


def draw(records: Path = FOLDER) -> dict[Path, str]:
    """Draw every plot there should be: SVGs by path below the repository."""
    found = load(records)
    everything: Iterable[Any] = chain(
        *(rows for _, rows in found.bundles.values()), found.scale[1] if found.scale else ()
    )
    styles = _styles({row.engine: row.kind for row in everything})
    figures: dict[Path, Figure] = {}
    with matplotlib.rc_context(STYLE):
        for name, (_, rows) in found.bundles.items():
            for p in ("p1", "p5"):
                figures[Path(f"docs/plots/{name}-{p}.svg")] = _frontiers(name, rows, p, styles)
        if found.scale:
            figures[Path("docs/plots/scale.svg")] = _scale(found.scale[1], styles)
        if found.shift:
            figures[Path("docs/plots/shift.svg")] = _shift(found.shift[1])
        if found.methods:
            figures[Path("docs/plots/methods.svg")] = _methods(found.methods[1])
        return {path: _svg(figures[path], stamp(shown)) for path, shown in expected(records).items()}


def _styles(kinds: dict[str, str]) -> dict[str, Style]:
    """Ours red and thick, full layers grey, peers a pair of colour and shape each."""
    styles = {}
    for kind in ("full", "peer", "ours"):
        for i, engine in enumerate(sorted(name for name in kinds if kinds[name] == kind)):
            color = {"full": GREY, "ours": OURS}.get(kind, COLOURS[i % len(COLOURS)])
            dash = "-" if i < len(COLOURS) else "--"
            thick = kind == "ours"
            marker = MARKERS[i % len(MARKERS)]
            styles[engine] = Style(color, marker, dash, 2.6 if thick else 1.3, 4 if thick else 3)
    return styles


def _frontiers(name: str, rows: list[Row], p: str, styles: dict[str, Style]) -> Figure:
    """Draw the share of the full layer's precision against time, on a scale of what is lost."""
    figure, axes = _figure(8.6, 4.9)
    poor = []
    for engine, each in _by_speed(rows).items():
        line, points = choice.frontier(each, f"{p}_ratio"), [row for row in each if row.one_us is not None]
        if not line:
            continue
        best = getattr(line[-1], f"{p}_ratio")
        if best < LEAST:
            poor.append(f"{engine} ({best:.2f})")
            continue
        style = styles[engine]
        seen = {"color": style.color, "marker": style.marker, "zorder": style.zorder, "markeredgewidth": 0}
        x, y = _curve(points, p)
        axes.plot(x, y, linestyle="", markersize=4, alpha=0.3, **seen)
        x, y = _curve(line, p)
        dash = style.linestyle if len(line) > 1 else ""
        axes.plot(x, y, linestyle=dash, linewidth=style.linewidth, markersize=6, label=engine, **seen)
    axes.set(xscale="log", yscale="log", ylim=(1 - LEAST, 0.8 * (1 - MOST)))
    axes.axhline(1 - choice.TARGET, color=GREY, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    _times(axes.xaxis)
    losses = {1 - tick: f"{tick:g}" for tick in TICKS} | {1 - MOST: f">= {MOST}"}
    axes.yaxis.set(major_locator=FixedLocator(list(losses)), minor_locator=NullLocator())
    axes.yaxis.set_ticklabels(list(losses.values()))
    axes.set_xlabel("time of one query on one thread")
    axes.set_title(f"{name}: share of the full layer's P@{p[1]}", loc="left", fontsize=11)
    if poor:
        below = textwrap.fill(f"Below {LEAST} at best: {', '.join(poor)}", 100)
        axes.annotate(below, (0, -0.17), xycoords="axes fraction", fontsize=8.5, va="top")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.02), fontsize=9, labelspacing=0.35)
    return figure


def _curve(rows: list[Row], p: str) -> tuple[list[float | None], list[float]]:
    """Return times, and what is lost of the full layer's precision."""
    return [row.one_us for row in rows], [max(1 - getattr(row, f"{p}_ratio"), 1 - MOST) for row in rows]


def _by_speed(rows: list[Row]) -> dict[str, list[Row]]:
    """Sort rows by engine for the legend: ours, those that reach the target by time, then others."""

    def place(engine: tuple[str, list[Row]]) -> tuple[bool, bool, float]:
        row = choice.chosen(engine[1]) or engine[1][0]
        return row.kind != "ours", not choice.reaches(row, choice.TARGET), row.one_us or 0.0

    return dict(sorted(choice.by_engine(rows).items(), key=place))


def _scale(rows: list[ScaleRow], styles: dict[str, Style]) -> Figure:
    """Draw the time of one query and of building against the number of rows."""
    figure, query, build = _figure(8.6, 4.9, 2)
    for axes, title, field, unit in (
        (query, "one query", "one_us", 1.0),
        (build, "building", "build_s", 1e6),
    ):
        for engine, each in by_size(rows).items():
            points = [(row.m, getattr(row, field) * unit) for row in each if getattr(row, field)]
            if not points:
                continue
            style, e = styles[engine], choice.exponent(points)
            axes.plot(
                *zip(*points, strict=True),
                label=engine if e is None else f"{engine}: m^{e:.2f}",
                markeredgewidth=0,
                **style._asdict(),
            )
        axes.set(xscale="log", yscale="log", xlabel="rows m")
        axes.set_title(title, loc="left", fontsize=11)
        sizes = sorted({row.m for row in rows})
        axes.xaxis.set(major_locator=FixedLocator(sizes), minor_locator=NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda m, _: _short(m)))
        _times(axes.yaxis)
        axes.legend(loc="upper left", bbox_to_anchor=(0, -0.16), fontsize=9, borderpad=0.8)
    return figure


def _shift(rows: list[ShiftRow]) -> Figure:
    """Draw what an index that observes keeps, and how long it takes, against the queries it has served."""
    figure, quality, cost = _figure(8.6, 4.2, 2)
    learners = {row.engine for row in rows if row.observed}
    rows = [row for row in rows if row.bundle == rows[0].bundle]
    lines: dict[tuple[str, str, str], list[ShiftRow]] = {}
    foreign = [row for row in rows if row.engine in learners and row.fitted != row.served]
    anew: dict[tuple[str, str, str], ShiftRow] = {}
    for row in sorted(foreign, key=lambda row: row.observed):
        key = row.fitted, row.served, row.setting
        if row.refreshed:
            anew[key] = row
        else:
            lines.setdefault(key, []).append(row)
    pairs = list(dict.fromkeys((fitted, served) for fitted, served, _ in lines))
    for (fitted, served, setting), line in lines.items():
        i, fixed = pairs.index((fitted, served)), "fixed" in setting
        at = [max(row.observed, 300) for row in line]  # a log scale has no 0
        look: dict[str, Any] = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}
        look |= {"linestyle": ":"} if fixed else {"label": f"{fitted}, asked {served}"}
        quality.plot(at, [row.p1_ratio for row in line], **look)
        cost.plot(at, [row.one_mean_us or row.one_us for row in line], **look)
        tuned = anew.get((fitted, served, setting))
        if tuned and not fixed:
            ring: dict[str, Any] = {"marker": "o", "markersize": 11, "fillstyle": "none"}
            ring["color"] = look["color"]
            quality.plot([tuned.observed], [tuned.p1_ratio], **ring)
            cost.plot([tuned.observed], [tuned.one_mean_us or tuned.one_us], **ring)
    for axes, title in ((quality, "share of the full layer's P@1"), (cost, "mean time of one query")):
        axes.set(xscale="log", xlabel="queries served before")
        axes.set_title(title, loc="left", fontsize=11)
        axes.xaxis.set(major_locator=FixedLocator([300, 1000, 5000, 20_000]), minor_locator=NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda n, _: "0" if n == 300 else _short(n)))
    cost.set(yscale="log")
    _times(cost.yaxis)
    quality.legend(loc="upper left", bbox_to_anchor=(0, -0.16), fontsize=8.5, ncols=2)
    return figure


def _methods(rows: list[MethodRow]) -> Figure:
    """Draw label recall against work: the sample where rows are hashed, else entries."""
    bundles = list(dict.fromkeys(row.bundle for row in rows))
    kinds = [
        ([row for row in rows if row.fill == fill], field, title)
        for fill, field, title in (
            ("rows", "sample", "rows scored"),
            ("queries", "entries", "training queries met"),
        )
    ]
    kinds = [kind for kind in kinds if kind[0]]
    figure = Figure(figsize=(8.6, 3.2 * len(kinds)), layout="constrained")
    grid = figure.subplots(len(kinds), len(bundles), squeeze=False)
    for line, (some, field, title) in zip(grid, kinds, strict=True):
        for axes, bundle in zip(line, bundles, strict=True):
            for i, method in enumerate(dict.fromkeys(row.method for row in some)):
                each = [row for row in some if (row.bundle, row.method) == (bundle, method)]
                ours = method == "refined"
                axes.plot(
                    [getattr(row, field) for row in each],
                    [row.label_recall for row in each],
                    color=OURS if ours else COLOURS[i % len(COLOURS)],
                    linewidth=2.2 if ours else 1.3,
                    marker=MARKERS[i % len(MARKERS)],
                    markersize=4,
                    label=method,
                )
            axes.set(xscale="log", xlabel=title)
            axes.set_title(bundle, loc="left", fontsize=10)
        line[0].set_ylabel("label recall")
        line[-1].legend(loc="upper left", bbox_to_anchor=(1.0, 1.02), fontsize=8.5)
    return figure


def _short(m: float) -> str:
    return f"{m / 1e6:g}M" if m >= 1e6 else f"{m / 1e3:g}k"


def _times(axis: Any) -> None:
    """Label decades of microseconds in units."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: us(value).replace(".00", "").replace(".0", "")))


def _figure(width: float, height: float, columns: int = 1) -> tuple[Any, ...]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, *figure.subplots(1, columns, squeeze=False)[0]


def _svg(figure: Figure, line: str) -> str:
    """Write a figure, the same bytes at every run, with a line after the XML declaration."""
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    declaration, rest = text.getvalue().split("\n", 1)
    return f"{declaration}\n{line}\n{rest}"

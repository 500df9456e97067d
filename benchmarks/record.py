"""What a run measured, as CSV: a line a setting of an engine, below lines that say of what and where.

A file is ``record/<processor>/<date>-<name>.csv``. Lines that begin with ``# `` are the head, ``key: JSON``.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, get_type_hints

__all__ = [
    "DENSE",
    "FOLDER",
    "REFERENCE",
    "DefaultRow",
    "DeviceRow",
    "FitRow",
    "GenerateRow",
    "HeadRow",
    "MethodRow",
    "QueriesRow",
    "Row",
    "ScaleRow",
    "ShiftRow",
    "StageRow",
    "latest",
    "read",
    "write",
]

FOLDER = Path(__file__).parent / "record"
DENSE = "dense"
"""Of ways to the best labels on a device, the full layer there."""
REFERENCE = "torch_f32"
"""The full layer whose answers are the measure of all."""


class Row(NamedTuple):
    """An engine at one setting, on one bundle.

    Times are microseconds a query. Quality is a share of the full layer's on the same queries, with the ends
    of a 95 % interval. None: not known, or not applicable.
    """

    engine: str
    """Title for people: "faiss IVF flat"."""
    name: str
    """File in engines/: "faiss_ivf"."""
    kind: str
    """"full", "peer" or "ours"."""
    sees: str
    """"rows", or "rows, queries"."""
    build: str
    """Settings of the build, as text: "nlist=887"."""
    search: str
    """Settings of the search, as text: "nprobe=32"."""
    documented: str
    """Whose recommendation the setting is, empty where nobody's."""
    p1: float
    p1_ratio: float
    p1_low: float | None
    p1_high: float | None
    p5: float
    p5_ratio: float
    p5_low: float | None
    p5_high: float | None
    label_recall: float | None
    """Share of true labels in the sample."""
    sample: float | None
    """Rows of which something is computed, a query."""
    bytes_read: float | None
    """Bytes of the index read, a query, counted without caches."""
    size: int
    """Bytes of the index, rows included."""
    build_s: float
    """Seconds on all threads, learning included."""
    peak_bytes: int | None
    """Memory that building needed at its worst, beyond the arrays given."""
    one_us: float | None
    """One query at a time on one thread: median over rounds of a round's mean."""
    one_p95_us: float | None
    one_p99_us: float | None
    one_least_us: float | None
    """The quickest round's mean, and the slowest's: how noisy the machine was."""
    one_most_us: float | None
    one_2t_us: float | None
    """One query at a time, two threads allowed."""
    b64_us: float | None
    """A batch of 64 on one thread, a query's share of it; then 2 threads; then batches of 1,024."""
    b64_2t_us: float | None
    b1024_us: float | None
    b1024_2t_us: float | None
    energy_uj: float | None
    """Microjoules of one query on one thread."""
    energy_kind: str
    """"measured", "estimated", or empty."""


class ShiftRow(NamedTuple):
    """An engine fitted on queries of one domain, asked those of another."""

    bundle: str
    engine: str
    name: str
    kind: str
    sees: str
    setting: str
    """The cheapest of its grid that keeps 0.99 of P@1 and P@5 on held-out queries of the domain fitted on."""
    fitted: str
    """Domain. An engine that sees rows alone is the same wherever it is fitted but for its setting."""
    served: str
    learned: str
    """Domain of the queries that it has learned from since; empty where none."""
    observed: int
    """How many these are."""
    refreshed: int
    """On how many of these, the last, it was tuned anew."""
    p1: float
    p1_ratio: float
    p1_low: float | None
    p1_high: float | None
    p5: float
    p5_ratio: float
    p5_low: float | None
    p5_high: float | None
    sample: float | None
    escalated: float | None
    """Share of the queries for which the index went on beyond its first answer, where it can."""
    one_us: float | None
    one_mean_us: float | None
    one_p99_us: float | None


class ScaleRow(NamedTuple):
    """An engine on synthetic rows, at the cheapest setting that reaches the label recall asked for."""

    engine: str
    name: str
    kind: str
    m: int
    d: int
    queries: int
    """Training queries."""
    setting: str
    label_recall: float
    """Share of planted labels among the 5 answers."""
    sample: float | None
    bytes_read: float | None
    one_us: float
    one_p99_us: float
    build_s: float
    """Seconds on all threads, learning included."""
    tables_s: float | None
    """Seconds of that for tables and sketches."""
    peak_bytes: int | None
    size: int


class DefaultRow(NamedTuple):
    """A setting of the index beside its defaults."""

    setting: str
    p1_ratio: float
    p5_ratio: float
    entries: float
    """Entries read from buckets, a query."""
    candidates: float
    share: float
    """Candidates by rows."""
    tables_bytes: int


class MethodRow(NamedTuple):
    """Planes of one method on one bundle, at one budget of search."""

    bundle: str
    method: str
    build: str
    fill: str
    """What a bucket holds: "rows" or "queries"."""
    budget: str
    p1_ratio: float
    p1_low: float | None
    p1_high: float | None
    p5_ratio: float
    p5_low: float | None
    p5_high: float | None
    label_recall: float
    """Share of true labels among the candidates."""
    sample: float
    """Candidates: rows that are scored, a query."""
    entries: float
    """Entries read from buckets, a query."""
    learn_s: float
    """Seconds until there were planes."""
    beside: str
    """Another method, or empty. Its searches looked at about as much, as near as their numbers allow:"""
    beside_sample: float | None
    beside_entries: float | None
    gain: float | None
    """What of the label recall is more than the other's, and a 95 % interval."""
    gain_low: float | None
    gain_high: float | None


class FitRow(NamedTuple):
    """What ``fit`` found with no argument but queries and labels, on test queries."""

    bundle: str
    queries: int
    """Training queries, the held-out ones among them."""
    point: str
    """The operating point, "exact" where none kept the target."""
    p1_ratio: float
    p1_low: float | None
    p1_high: float | None
    p5_ratio: float
    p5_low: float | None
    p5_high: float | None
    fit_s: float
    """Seconds of all of it on all threads: learning, filling, tuning."""
    teacher_us: float
    """Microseconds a query, on all threads, in which the teacher finds the best labels of all rows."""
    torch_us: float
    """The same by torch's product and its ``topk``."""
    numpy_us: float
    """Those of numpy's product alone."""


class QueriesRow(NamedTuple):
    """An index fitted from some of the training queries, at a fixed cost of a search."""

    bundle: str
    queries: int
    """Training queries given."""
    capacity: int | None
    """How many of them it keeps at most; None: all."""
    kept: int
    """Training queries in its tables."""
    point: str
    p1_ratio: float
    p1_low: float | None
    p1_high: float | None
    p5_ratio: float
    p5_low: float | None
    p5_high: float | None
    entries: float
    """Entries read from buckets, a query."""
    sample: float
    """Candidates, a query."""
    size: int
    """Bytes of the index, rows included."""
    seconds: float
    """Of fitting and observing so far, on all threads."""


class GenerateRow(NamedTuple):
    """Greedy generation with one kind of logits, on so many threads, which do not change what is said."""

    way: str
    threads: int
    identical: float
    """Share of tokens that are the full layer's at the same place."""
    same_texts: float
    """Share of continuations that are the full layer's throughout."""
    diverged_at: float | None
    """Place of the first other token: median over the continuations that have one."""
    perplexity: float
    """Of the continuations, under the full layer."""
    mass: float
    """Full-softmax probability of the candidates, on average, and its 5th percentile."""
    mass_p05: float
    kl: float
    """Divergence, at temperature 1, of the distribution over candidates from the full one."""
    tokens_s: float
    """Tokens a second, one prompt at a time, end to end."""
    layer_share: float
    """Share of that time in the output layer."""


class HeadRow(NamedTuple):
    """A synthetic output layer, and the body of a model of its width."""

    body: str
    m: int
    d: int
    threads: int
    body_us: float
    """A token, without the output layer."""
    layer_us: float
    half_us: float
    """The full layer in bfloat16."""
    ours_us: float
    """A greedy decoder's step, as a patched model takes it."""
    same: float
    """Share of test queries whose best label is the full layer's."""
    core_us: float
    core_same: float
    """The same with path "core"."""
    layer_share: float
    """Share of a step that is the full layer."""
    gain: float
    """Tokens a second with the index, by those with the full layer, as these times add up."""
    point: str
    """What a search does, as tuned."""


class DeviceRow(NamedTuple):
    """A way to the best labels on a device, in one dtype, with batches of one size."""

    dtype: str
    """Of rows and queries: "bfloat16"."""
    way: str
    """"dense", or a path of a Scorer: "scan"."""
    batch: int
    us: float
    """A whole batch, its end waited for: median over rounds of a round's median."""
    least_us: float
    """The quickest round's median, and the slowest's: how noisy the machine was."""
    most_us: float
    calls: int
    """Batches timed."""
    p1_ratio: float
    """Share of the P@1 of the dense layer in float32, and of its P@k; batches do not change what is found."""
    pk_ratio: float
    same_label: float
    """Share of test queries whose best label is that of the dense layer in float32."""


class StageRow(NamedTuple):
    """A stage of a search for one query, on one thread, or the whole call."""

    bundle: str
    stage: str
    us: float
    """Median over test queries."""
    share: float
    """Of a whole call's."""
    nbytes: float
    """Bytes that it reads, on average."""
    least_us: float
    """What reading as many bytes in order takes."""


R = TypeVar("R", bound=NamedTuple)


def write(path: Path, head: dict[str, Any], rows: Iterable[NamedTuple]) -> None:
    """Write a record whole or not at all.

    Parameters
    ----------
    path : Path
    head : dict
        What ``json.dumps`` takes.
    rows : iterable of rows
        All of one type, at least one.
    """
    rows = list(rows)
    text = io.StringIO()
    for key, value in head.items():
        text.write(f"# {key}: {json.dumps(value)}\n")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(rows[0]._fields)
    table.writerows([_text(value) for value in row] for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(text.getvalue(), encoding="utf-8")
    part.replace(path)


def read(path: Path, kind: type[R]) -> tuple[dict[str, Any], list[R]]:
    """Read head and rows of a record.

    Raises
    ------
    ValueError
        If its columns are not those of `kind`.
    """
    rest = path.read_text(encoding="utf-8")
    head = {}
    while rest.startswith("# "):
        line, rest = rest[2:].split("\n", 1)
        key, value = line.split(": ", 1)
        head[key] = json.loads(value)
    table = list(csv.reader(io.StringIO(rest, newline="")))
    if tuple(table[0]) != kind._fields:
        raise ValueError(f"{path.name} has columns {table[0]}, not those of {kind.__name__}: record it anew")
    types = list(get_type_hints(kind).values())
    return head, [kind(*map(_value, row, types)) for row in table[1:]]


def newest_of_each(name: str, folder: Path = FOLDER) -> list[Path]:
    """Find the newest record of this name of each processor, by the processors' names."""
    found = sorted(path for path in folder.glob(f"*/*-{name}.csv") if path.stem[11:] == name)
    return list({path.parent: path for path in found}.values())


def latest(name: str, folder: Path = FOLDER) -> Path | None:
    """Find the newest record of this name; of one day, the last by the processors' names; None of none."""
    return max(newest_of_each(name, folder), key=lambda path: (path.name, str(path)), default=None)


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _value(text: str, kind: Any) -> Any:
    if kind is str:
        return text
    if text == "":
        return None
    return int(text) if kind is int or kind == (int | None) else float(text)

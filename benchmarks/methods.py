"""Where planes come from: random, the paper's, the closed form, refined. Quality against work."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm.auto import tqdm

from benchmarks import record, run
from benchmarks.bundles import Labels, load
from benchmarks.bundles.training import take
from benchmarks.definitions import read_toml
from benchmarks.engines import Data, load_engine
from lss_rs import Index, metrics

__all__ = ["ALL", "DEFINITION", "measure"]

DEFINITION = read_toml("methods")
ALL = 2**31 - 1
"""Candidates to rescore, where tables alone are judged."""
_FILLING = ("teacher", "build")
"""Stages of a fit that learn no planes."""
_CLOSE, _TRIES, _SOME = 0.01, 6, 2048
"""How near to as much work, how often numbers are turned until it is, and of how many queries at most."""
_GAINS = ("gain", "gain_low", "gain_high")


class _Met(NamedTuple):
    """What searches looked at: means over queries, and label recall query by query."""

    entries: float
    sample: float
    recall: np.ndarray


class _Asked(NamedTuple):
    """Test queries, their labels and documents, the full layer's answers, and some of the queries."""

    queries: np.ndarray
    truth: Labels
    unit: np.ndarray | None
    full: np.ndarray
    some: tuple[np.ndarray, Labels]


def measure(
    bundles: Iterable[str] | None = None,
    path_of: Callable[[str], Path] = run.bundle_path,
    methods: Iterable[dict[str, Any]] = tuple(DEFINITION["method"]),
    budgets: dict[str, list[dict[str, int]]] = DEFINITION["budgets"],
) -> tuple[dict[str, Any], list[record.MethodRow]]:
    """Measure every method on every bundle.

    Parameters
    ----------
    bundles : iterable of str, optional
        By default those of definitions/methods.toml.
    path_of : callable
        Folder of a bundle.
    methods : iterable of dict
        Tables as in definitions/methods.toml.
    budgets : dict of list of dict
        Operating points, by what a bucket holds.

    Returns
    -------
    (head, rows)
        For :func:`benchmarks.record.write`.
    """
    methods = list(methods)
    rows: list[record.MethodRow] = []
    for name in bundles or DEFINITION["bundles"]:
        path = path_of(name)
        asked = _ask(path)
        built: dict[str, Any] = {}
        for method in tqdm(methods, f"{name}: methods"):
            engine: Any = load_engine(method["engine"])(
                Data(*load(path, "train")), os.cpu_count() or 1, **method["build"]
            )
            if any(each.get("beside") == method["title"] for each in methods):
                built[method["title"]] = engine
            beside = built.get(method.get("beside", ""))
            for budget in budgets[engine.index.params["fill"]]:
                rows.append(_row(name, method, engine, budget, beside, asked))
    return run.head({"torch"}), rows


def _ask(path: Path) -> _Asked:
    """Ask the full layer the test queries."""
    W, b, Q, truth = load(path, "test")
    queries = np.ascontiguousarray(Q, np.float32)
    full = Index.from_weights(W, b).search(queries, run.K, exact=True).labels
    step = -(-len(queries) // _SOME)
    some = np.ascontiguousarray(queries[::step]), take(truth, np.arange(0, len(queries), step))
    return _Asked(queries, truth, run.groups_of(path, "test"), full, some)


def _row(
    bundle: str, method: dict[str, Any], engine: Any, budget: dict[str, int], beside: Any, asked: _Asked
) -> record.MethodRow:
    """Judge one method within one budget."""
    engine.configure(
        **budget, reach=None, **({"n_rescore": ALL} if engine.index.params["sketch_bytes"] else {})
    )
    answers = engine.index.search(asked.queries, run.K).labels
    one, five = (run.judge(answers, asked.full, asked.truth, k, asked.unit) for k in (1, run.K))
    met = _look(engine, budget, asked.queries, asked.truth)
    compared: dict[str, Any] = dict.fromkeys(("beside_sample", "beside_entries", *_GAINS))
    if beside is not None:
        other = _look(beside, _as_much(beside, budget, engine, asked.some), asked.queries, asked.truth)
        compared = {"beside_sample": other.sample, "beside_entries": other.entries}
        compared |= zip(_GAINS, _gain(met, other, asked.unit), strict=True)
    seconds = [taken for stage, taken in engine.stages().items() if stage not in _FILLING]
    return record.MethodRow(
        bundle=bundle,
        method=method["title"],
        build=run.text(method["build"]),
        fill=engine.index.params["fill"],
        budget=run.text(budget),
        **run.ratio("p1", one.ratio),
        **run.ratio("p5", five.ratio),
        label_recall=float(np.nanmean(met.recall)),
        sample=met.sample,
        entries=met.entries,
        learn_s=sum(seconds),
        beside=method.get("beside", ""),
        **compared,
    )


def _look(engine: Any, budget: dict[str, int], queries: np.ndarray, truth: Labels) -> _Met:
    """See what searches within a budget look at."""
    engine.configure(**budget, reach=None)  # methods are compared at equal entries
    stats = engine.index.search(queries, run.K, stats=True).stats
    recall = metrics.label_recall_per_query(engine.index.candidates(queries), (truth.indptr, truth.indices))
    return _Met(float(stats["entries"].mean()), float(stats["candidates"].mean()), recall)


def _as_much(
    engine: Any, budget: dict[str, int], other: Any, some: tuple[np.ndarray, Labels]
) -> dict[str, int]:
    """Turn an index's numbers until it looks at as many entries and candidates as another does."""
    met = _look(other, budget, *some)
    point = budget | {"n_neighbors": engine.index.params["n_neighbors"]}
    nearest = np.inf, point
    for _ in range(_TRIES):
        found = _look(engine, point, *some)
        by = {"max_entries": met.entries / found.entries, "n_neighbors": met.sample / found.sample}
        off = max(abs(share - 1) for share in by.values())
        nearest = min(nearest, (off, point), key=lambda each: each[0])
        if off < _CLOSE:
            break
        point = point | {name: max(1, round(point[name] * share)) for name, share in by.items()}
    return nearest[1]


def _gain(met: _Met, other: _Met, unit: np.ndarray | None) -> tuple[float, float, float]:
    """Compare the labels found, query by query."""
    labelled = ~np.isnan(met.recall)
    gain = metrics.paired_bootstrap(
        met.recall[labelled],
        other.recall[labelled],
        statistic="difference",
        groups=None if unit is None else unit[labelled],
    )
    return gain.estimate, gain.low, gain.high

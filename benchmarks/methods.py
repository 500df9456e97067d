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
from benchmarks.definitions import read_toml
from benchmarks.engines import Data, load_engine
from lss_rs import metrics

__all__ = ["ALL", "DEFINITION", "measure"]

DEFINITION = read_toml("methods")
ALL = 2**31 - 1
"""Candidates to rescore, where tables alone are judged."""
_FILLING = ("teacher", "build")
"""Stages of a fit that learn no planes."""
_CLOSE, _TRIES = 0.01, 6
"""How near to as much work, and how often numbers are turned until it is."""


class _Met(NamedTuple):
    """What searches looked at: means over queries, and label recall query by query."""

    entries: float
    sample: float
    recall: np.ndarray


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
    rows = []
    for name in bundles or DEFINITION["bundles"]:
        path = path_of(name)
        test = load(path, "test")
        truth, queries = test.Y, np.ascontiguousarray(test.Q, np.float32)
        unit = run.groups_of(path, "test")
        full = None
        built: dict[str, Any] = {}
        for method in tqdm(methods, f"{name}: methods"):
            build, title = method["build"], method["title"]
            engine: Any = load_engine(method["engine"])(
                Data(*load(path, "train")), os.cpu_count() or 1, **build
            )
            if any(each.get("beside") == title for each in methods):
                built[title] = engine
            index, stages = engine.index, engine.stages()
            full = index.search(queries, run.K, exact=True).labels if full is None else full
            fill = index.params["fill"]
            for budget in budgets[fill]:
                _configure(engine, budget)
                answers = index.search(queries, run.K).labels
                judged = {k: run.judge(answers, full, truth, k, unit) for k in (1, run.K)}
                met = _look(engine, budget, queries, truth)
                beside, gain = None, None
                if base := method.get("beside"):
                    beside = _as_much(built[base], budget, met, queries, truth)
                    labelled = ~np.isnan(met.recall)
                    gain = metrics.paired_bootstrap(
                        met.recall[labelled],
                        beside.recall[labelled],
                        statistic="difference",
                        groups=None if unit is None else unit[labelled],
                    )
                rows.append(
                    record.MethodRow(
                        bundle=name,
                        method=title,
                        build=run.text(build),
                        fill=fill,
                        budget=run.text(budget),
                        **run.ratio("p1", judged[1].ratio),
                        **run.ratio("p5", judged[run.K].ratio),
                        label_recall=float(np.nanmean(met.recall)),
                        sample=met.sample,
                        entries=met.entries,
                        learn_s=sum(seconds for stage, seconds in stages.items() if stage not in _FILLING),
                        beside=method.get("beside", ""),
                        beside_sample=beside and beside.sample,
                        beside_entries=beside and beside.entries,
                        gain=gain and gain.estimate,
                        gain_low=gain and gain.low,
                        gain_high=gain and gain.high,
                    )
                )
    return run.head({"torch"}), rows


def _configure(engine: Any, budget: dict[str, int]) -> None:
    """Search within a budget, every candidate rescored."""
    engine.configure(**budget, **({"n_rescore": ALL} if engine.index.params["sketch_bytes"] else {}))


def _look(engine: Any, budget: dict[str, int], queries: np.ndarray, truth: Labels) -> _Met:
    """See what searches within a budget look at."""
    engine.configure(**budget)
    stats = engine.index.search(queries, run.K, stats=True).stats
    recall = metrics.label_recall_per_query(engine.index.candidates(queries), (truth.indptr, truth.indices))
    return _Met(float(stats["entries"].mean()), float(stats["candidates"].mean()), recall)


def _as_much(engine: Any, budget: dict[str, int], met: _Met, queries: np.ndarray, truth: Labels) -> _Met:
    """Let another index of queries look at as many entries and candidates, turning its numbers."""
    point = budget | {"n_neighbors": engine.index.params["n_neighbors"]}
    nearest: tuple[float, _Met] | None = None
    for _ in range(_TRIES):
        found = _look(engine, point, queries, truth)
        by = {"max_entries": met.entries / found.entries, "n_neighbors": met.sample / found.sample}
        off = max(abs(share - 1) for share in by.values())
        if nearest is None or off < nearest[0]:
            nearest = off, found
        if off < _CLOSE:
            break
        point = point | {name: max(1, round(point[name] * share)) for name, share in by.items()}
    assert nearest is not None
    return nearest[1]

"""Where planes come from: random, the paper's, the closed form, refined. Quality against work."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from benchmarks import record, run
from benchmarks.bundles import Labels, load
from benchmarks.definitions import read_toml
from benchmarks.engines import Data, load_engine
from lss_rs import metrics

__all__ = ["DEFINITION", "measure"]

DEFINITION = read_toml("methods")
_ALL = 2**31 - 1
_FILLING = ("teacher", "build")
"""Stages of a fit that learn no planes."""


def measure(
    bundles: Iterable[str] | None = None,
    path_of: Callable[[str], Path] = run.bundle_path,
    methods: Iterable[dict[str, Any]] = tuple(DEFINITION["method"]),
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

    Returns
    -------
    (head, rows)
        For :func:`benchmarks.record.write`.
    """
    plan = [(name, method) for name in bundles or DEFINITION["bundles"] for method in methods]
    recalls: dict[tuple[str, str, str], np.ndarray] = {}
    rows = []
    for name, method in tqdm(plan, "methods"):
        path = path_of(name)
        test = load(path, "test")
        truth, queries = test.Y, np.ascontiguousarray(test.Q, np.float32)
        unit = run.groups_of(path, "test")
        build = method["build"]
        engine: Any = load_engine(method["engine"])(Data(*load(path, "train")), os.cpu_count() or 1, **build)
        index, stages = engine.index, engine.stages()
        full = index.search(queries, run.K, exact=True).labels
        for budget in method["budgets"]:
            sketched = {"n_rescore": _ALL} if index.params["sketch_bytes"] else {}
            engine.configure(**budget, **sketched)
            found = index.search(queries, run.K, stats=True)
            judged = {k: run.judge(found.labels, full, truth, k, unit) for k in (1, run.K)}
            at = run.text(budget)
            recall = recalls[name, method["title"], at] = _recall(index.candidates(queries), truth)
            gain = None
            if base := method.get("beside"):
                labelled = ~np.isnan(recall)
                gain = metrics.paired_bootstrap(
                    recall[labelled],
                    recalls[name, base, at][labelled],
                    statistic="difference",
                    groups=None if unit is None else unit[labelled],
                )
            rows.append(
                record.MethodRow(
                    bundle=name,
                    method=method["title"],
                    build=run.text(build),
                    budget=at,
                    **run.ratio("p1", judged[1].ratio),
                    **run.ratio("p5", judged[run.K].ratio),
                    label_recall=float(np.nanmean(recall)),
                    gain=gain and gain.estimate,
                    gain_low=gain and gain.low,
                    gain_high=gain and gain.high,
                    sample=float(found.stats["candidates"].mean()),
                    entries=float(found.stats["entries"].mean()),
                    learn_s=sum(seconds for stage, seconds in stages.items() if stage not in _FILLING),
                )
            )
    return run.head({"torch"}), rows


def _recall(candidates: tuple[np.ndarray, np.ndarray], truth: Labels) -> np.ndarray:
    return metrics.label_recall_per_query(candidates, (truth.indptr, truth.indices))

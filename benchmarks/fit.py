"""``fit(target=0.99)`` as a user calls it: the point it finds on held-out queries, judged on others."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from benchmarks import record, run
from benchmarks.bundles import load
from benchmarks.methods import DEFINITION
from lss_rs import Index

__all__ = ["measure"]


def measure(
    bundles: Iterable[str] | None = None, path_of: Callable[[str], Path] = run.bundle_path
) -> tuple[dict[str, Any], list[record.FitRow]]:
    """Fit an index on every bundle, and judge it on test queries.

    Parameters
    ----------
    bundles : iterable of str, optional
        By default those of definitions/methods.toml.
    path_of : callable
        Folder of a bundle.

    Returns
    -------
    (head, rows)
        For :func:`benchmarks.record.write`.
    """
    rows = []
    for name in tqdm(list(bundles or DEFINITION["bundles"]), "fits"):
        path = path_of(name)
        W, b, Q, Y = load(path, "train")
        index = Index.from_weights(W, b)
        labels = Y.lists()
        start = time.perf_counter()
        index.fit(Q, labels, progress=False)
        seconds = time.perf_counter() - start
        test, unit = load(path, "test"), run.groups_of(path, "test")
        queries = np.ascontiguousarray(test.Q, np.float32)
        full = index.search(queries, run.K, exact=True).labels
        found = index.search(queries, run.K).labels
        one, five = (run.judge(found, full, test.Y, k, unit) for k in (1, run.K))
        # The judge's weights say nothing to a reader.
        point = {name: value for name, value in index.operating_point._asdict().items() if name != "judge"}
        point["trust"] = round(point["trust"], 3)
        point["scan_trust"] = round(point["scan_trust"], 3)
        exact = point.pop("exact")
        rows.append(
            record.FitRow(
                bundle=name,
                queries=len(Q),
                point="exact" if exact else run.text(point),
                **run.ratio("p1", one.ratio),
                **run.ratio("p5", five.ratio),
                fit_s=seconds,
            )
        )
    return run.head(set()), rows

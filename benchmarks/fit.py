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

_TAUGHT, _BLOCK, _ROUNDS = 4096, 512, 5
"""Queries whose best labels are found, those that torch and numpy multiply at a time, and rounds."""


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
                **_teachers(index, W, Q),
            )
        )
    return run.head(set()), rows


def _teachers(index: Index, W: np.ndarray, Q: np.ndarray) -> dict[str, float]:
    """Time ways to find the best labels of all rows: microseconds a query, the median of rounds in turns."""
    import torch

    top = index.params["teacher_top"]
    rows, some = np.array(W, np.float32), np.ascontiguousarray(Q[:_TAUGHT], np.float32)
    blocks = [some[lo : lo + _BLOCK] for lo in range(0, len(some), _BLOCK)]
    by_torch = torch.from_numpy(rows).T

    def of_torch() -> None:
        for block in blocks:
            torch.topk(torch.from_numpy(block) @ by_torch, min(top, len(rows)))

    def of_numpy() -> None:
        for block in blocks:
            block @ rows.T

    ways = {"teacher_us": lambda: index._core.teacher(some, top), "torch_us": of_torch, "numpy_us": of_numpy}
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(_ROUNDS):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            taken[name].append(1e6 * (time.perf_counter() - start) / len(some))
    return {name: float(np.median(values)) for name, values in taken.items()}

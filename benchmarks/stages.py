"""How long each stage of a search takes, beside how long reading its bytes in order would."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

import lss_rs
from benchmarks import record, run
from benchmarks.bundles import load
from benchmarks.definitions import read_toml
from benchmarks.engines import lss_regions
from benchmarks.engines.lss import EXEMPLAR_BYTES, LISTED_BYTES, labels_an_exemplar
from lss_rs import Index, ListPoint, OperatingPoint

__all__ = ["DEFINITION", "LISTS", "WHOLE", "measure"]

DEFINITION = read_toml("stages")
WHOLE = "search"
"""What a call from Python takes, stages and all."""
LISTS = ", lists by region"
"""What is added to the name of a bundle where the first step is to read a list."""
_LINE = 64


def measure(
    plan: dict[str, Any] = DEFINITION, folder_of: Callable[[str], Path] = run.folder
) -> tuple[dict[str, Any], list[record.StageRow]]:
    """Measure the stages, and the whole.

    Parameters
    ----------
    plan : dict
        As definitions/stages.toml.
    folder_of : callable
        Folder of a bundle.

    Returns
    -------
    (head, rows)
        For :func:`benchmarks.record.write`.
    """
    bytes_a_us = _bandwidth(plan["bandwidth_mib"])
    rows: list[record.StageRow] = []
    indexes = [(bundle, lists) for bundle in plan["bundles"] for lists in (False, True)]
    for bundle, lists in tqdm(indexes, "indexes"):
        path = folder_of(bundle)
        W, b, Q, Y = load(path, "train")
        config = lss_regions.Engine.config(len(Q)) if lists else None
        index = Index.from_weights(W, b, config).fit(Q, Y.lists(), target=None, progress=False)
        if lists:
            index.apply(_reading(index, plan))
        asked = np.asarray(load(path, "test").Q, np.float32)
        asked = asked[np.random.default_rng(plan["seed"]).permutation(len(asked))]
        before = lss_rs.get_num_threads()
        lss_rs.set_num_threads(1)
        try:
            taken, whole = _times(index, asked, plan)
        finally:
            lss_rs.set_num_threads(before)
        stats: Any = index.search(asked, plan["k"], stats=True).stats
        first = stats["step"] == stats["step"].min()
        read = _bytes(index, {name: float(np.mean(values[first])) for name, values in stats.items()})
        for stage, us in [*((stage, us) for stage, us in taken.items() if stage in read), (WHOLE, whole)]:
            nbytes = read.get(stage, sum(read.values()))
            rows.append(
                record.StageRow(bundle + LISTS * lists, stage, us, us / whole, nbytes, nbytes / bytes_a_us)
            )
    return run.head(set()) | {"gb_s": bytes_a_us / 1e3, "definition": plan}, rows


def _reading(index: Index, plan: dict[str, Any]) -> OperatingPoint:
    """Make a point at which every answer comes from a list, whatever that is worth."""
    at = ListPoint(**plan["list"], trust=0.0, judge=(0.0,) * 9)
    return index.operating_point._replace(judge=(float(plan["k"]), *[0.0] * 10), list=at)


def _times(index: Index, asked: np.ndarray, plan: dict[str, Any]) -> tuple[dict[str, float], float]:
    """Median microseconds of each stage, and of a call."""
    for _ in range(plan["passes"]):
        stages, seconds = index._core.profile(asked, plan["k"])
        calls = []
        for query in asked:
            begin = time.perf_counter()
            index.search(query, plan["k"])
            calls.append(time.perf_counter() - begin)
    taken = 1e6 * np.median(seconds, axis=0)
    return dict(zip(stages, taken.tolist(), strict=True)), 1e6 * float(np.median(calls))


def _bytes(index: Index, work: dict[str, float]) -> dict[str, float]:
    """Bytes that each stage of the first step reads for a query: ids of lists, sketches, rows."""
    params = index.params
    at = index.operating_point.list if work["step"] == 0 else None
    rescored = work["rescored"] * params["nbytes"]["rows"] / index.m
    if at is not None:
        return {
            "project": params["lead_nbytes"],
            "region": params["region_nbytes"],
            "columns": work["candidates"] * LISTED_BYTES,
            "sketch": at.n_rescore * params["row_nbytes"],
            "rescore": rescored,
        }
    return {
        "project": params["nbytes"]["maps"],
        "probe": work["probes"] * _LINE,
        "exemplars": work["entries"] * (EXEMPLAR_BYTES + 4),
        "candidates": work["neighbors"] * labels_an_exemplar(params) * 4,
        "sketch": work["candidates"] * params["sketch_bytes"],
        "rescore": rescored,
    }


def _bandwidth(mib: int) -> float:
    """Bytes a microsecond that a core reads in order, from more than caches hold."""
    values = np.ones(mib << 18, np.float32)
    best = np.inf
    for _ in range(5):
        begin = time.perf_counter()
        values.max()
        best = min(best, time.perf_counter() - begin)
    return values.nbytes / best / 1e6

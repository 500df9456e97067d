"""How long each stage of a search takes, beside how long reading its bytes in order would."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

import lss_rs
from benchmarks import instructions, machine, record, run
from benchmarks.bundles import load
from benchmarks.definitions import read_toml
from benchmarks.engines import lss_regions
from benchmarks.engines.lss import EXEMPLAR_BYTES, LISTED_BYTES, entry_bytes, labels_an_exemplar
from lss_rs import Index, ListPoint, OperatingPoint

__all__ = ["CORE", "DEFINITION", "LISTS", "WHOLE", "measure"]

DEFINITION = read_toml("stages")
CORE = "core"
"""What the whole search takes there: beside stages it finds out whether the answer is to be trusted."""
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
    gb_s: dict[str, float] = {}
    counted: dict[str, float | None] = {}
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
            taken = _times(index, asked, plan)
        finally:
            lss_rs.set_num_threads(before)
        stats: Any = index.search(asked, plan["k"], stats=True).stats
        name = bundle + LISTS * lists
        bytes_a_us = _bandwidth(sum(index.params["nbytes"].values()))
        gb_s[name] = bytes_a_us / 1e3
        if plan["counted"]:
            counted[name] = instructions.a_search(index, asked[: plan["counted"]], plan["k"])
        first = stats["step"] == stats["step"].min()
        read = _bytes(index, {name: float(np.mean(values[first])) for name, values in stats.items()})
        for stage, us in taken.items():
            nbytes = read.get(stage, sum(read.values()))
            if stage in read or stage in (CORE, WHOLE):
                least = nbytes / bytes_a_us
                rows.append(record.StageRow(name, stage, us, us / taken[WHOLE], nbytes, least))
    about = {
        "gb_s": gb_s,
        "instructions": counted,
        "ghz": machine.clock_ghz(),
        "call_us": _call_us(plan),
        "import_ms": {name: _import_ms(name, plan["imports"]) for name in ("numpy", "lss_rs")},
        "definition": plan,
    }
    return run.head(set()) | about, rows


def _reading(index: Index, plan: dict[str, Any]) -> OperatingPoint:
    """Make a point at which every answer comes from a list, whatever that is worth."""
    at = ListPoint(**plan["list"], trust=0.0, judge=(0.0,) * 9)
    return index.operating_point._replace(judge=(float(plan["k"]), *[0.0] * 10), list=at)


def _times(index: Index, asked: np.ndarray, plan: dict[str, Any]) -> dict[str, float]:
    """Median microseconds of each stage, of the core, and of a call."""
    for _ in range(plan["passes"]):
        stages, seconds, whole = index._core.profile(asked, plan["k"])
        calls = _calls(index, asked, plan["k"])
    each = [*seconds.T, whole, calls]
    return {
        name: 1e6 * float(np.median(taken)) for name, taken in zip([*stages, CORE, WHOLE], each, strict=True)
    }


def _call_us(plan: dict[str, Any]) -> float:
    """Median microseconds of a call that has next to nothing to search, one after the other."""
    rng = np.random.default_rng(plan["seed"])
    W, Q = (rng.standard_normal((n, 8), dtype=np.float32) for n in (8, 1000))
    index = Index.from_weights(W).fit(Q, target=None, progress=False)
    index.apply(index.operating_point._replace(exact=True))
    return 1e6 * float(np.median(_calls(index, Q, plan["k"])))


def _calls(index: Index, asked: np.ndarray, k: int) -> list[float]:
    """Seconds of each call."""
    taken = []
    for query in asked:
        begin = time.perf_counter()
        index.search(query, k)
        taken.append(time.perf_counter() - begin)
    return taken


def _import_ms(module: str, times: int) -> float:
    """Median milliseconds that importing it takes, in processes of their own."""
    program = f"import time; begin = time.perf_counter(); import {module}; print(time.perf_counter() - begin)"
    run_it = [sys.executable, "-c", program]
    taken = [float(subprocess.run(run_it, check=True, capture_output=True).stdout) for _ in range(times)]
    return 1e3 * float(np.median(taken))


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
        "exemplars": work["entries"] * (EXEMPLAR_BYTES + entry_bytes(params)),
        "candidates": work["neighbors"] * labels_an_exemplar(params) * 4,
        "sketch": work["candidates"] * params["sketch_bytes"],
        "rescore": rescored,
    }


def _bandwidth(nbytes: int) -> float:
    """Bytes a microsecond that a core reads in order, of so many, again and again."""
    values = np.ones(nbytes // 4, np.float32)
    best = np.inf
    for _ in range(5):
        begin = time.perf_counter()
        values.max()
        best = min(best, time.perf_counter() - begin)
    return values.nbytes / best / 1e6

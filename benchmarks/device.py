"""The best labels by each path of a ``Scorer`` on a device, beside the dense layer on the same device.

The device is CUDA's where there is one, else Metal's, else the CPU. Rows and queries are there before a clock
starts, both in the dtype that is measured, as a model of that dtype has them.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from tqdm.auto import tqdm

import lss_rs
from benchmarks import record, run
from benchmarks.bundles import load
from benchmarks.definitions import read_toml
from benchmarks.record import DENSE
from lss_rs import Index, metrics

if TYPE_CHECKING:
    import torch

__all__ = ["DEFINITION", "DENSE", "PATHS", "find", "measure"]

DEFINITION = read_toml("device")
PATHS = ("scan", "tables", "core", "core-scan")
_WARM_UP = 3
"""Calls before a clock starts: what is compiled, chosen or allocated at first is no part of a time."""

Search = Callable[["torch.Tensor"], Any]
"""Queries in, what ``torch.topk`` returns out."""


def find() -> str:
    """Say what is measured on: "cuda", "mps" or "cpu"."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def measure(
    plan: dict[str, Any] = DEFINITION, folder_of: Callable[[str], Path] = run.folder
) -> tuple[dict[str, Any], list[record.DeviceRow]]:
    """Measure every path and the dense layer, in every dtype, with batches of every size.

    Parameters
    ----------
    plan : dict
        As definitions/device.toml.
    folder_of : callable
        Folder of a bundle.

    Returns
    -------
    (head, rows)
        For :func:`benchmarks.record.write`.
    """
    import torch

    device, path, k = find(), folder_of(plan["bundle"]), plan["k"]
    W, b, Q, Y = load(path, "train")
    index = Index.from_weights(W, b).fit(Q, Y.lists(), groups=run.groups_of(path, "train"), progress=False)
    test = load(path, "test")
    truth = test.Y.lists()
    asked = torch.from_numpy(np.array(test.Q, np.float32)).to(device)
    rows: list[record.DeviceRow] = []
    with torch.inference_mode():
        full = _answers(_ways(index, W, b, device, "float32", k)[DENSE], asked, max(plan["batches"]))
        theirs = {n: metrics.precision_at_k(full, truth, n) for n in (1, k)}
        for dtype in tqdm(plan["dtypes"], "dtypes"):
            queries = asked.to(getattr(torch, dtype))
            ways = _ways(index, W, b, device, dtype, k)
            quality = {}
            for way, search in ways.items():
                found = _answers(search, queries, min(plan["batches"]))  # larger ones may be scored in full
                p1, pk = (metrics.precision_at_k(found, truth, n) / theirs[n] for n in (1, k))
                quality[way] = p1, pk, float((found[:, 0] == full[:, 0]).mean())
            for batch in tqdm(plan["batches"], f"{dtype}: batches"):
                times = _times(ways, queries, batch, device, plan)
                rows += [record.DeviceRow(dtype, way, batch, *times[way], *quality[way]) for way in ways]
    about = run.head(set()) | {
        "device": device,
        **_name(device),
        "threads": {"torch": torch.get_num_threads(), "lss-rs": lss_rs.get_num_threads()},
        "float32_products": torch.get_float32_matmul_precision(),
        "m": len(W),
        "d": W.shape[1],
        "k": k,
        "train_queries": len(Q),
        "test_queries": len(test.Q),
        "point": run.point(index),
        "definition": plan,
    }
    return about, rows


def _name(device: str) -> dict[str, str]:
    """Say whose device it is; the processor has its own place in a record."""
    import torch

    if device == "cpu":
        return {}
    return {"device_name": torch.cuda.get_device_name() if device == "cuda" else "Apple Metal"}


def _ways(index: Index, W: np.ndarray, b: np.ndarray, device: str, dtype: str, k: int) -> dict[str, Search]:
    """Everything that answers, over one copy of the rows on the device."""
    import torch

    from lss_rs.torch import Scorer

    weight = torch.from_numpy(np.array(W)).to(device, getattr(torch, dtype))
    # A model without a bias does not add one.
    bias = torch.from_numpy(np.array(b)).to(weight) if b.any() else None

    def dense(queries: torch.Tensor) -> Any:
        return torch.nn.functional.linear(queries, weight, bias).topk(k)

    def by(scorer: Scorer) -> Search:
        return lambda queries: scorer.topk(queries, k)

    return {DENSE: dense} | {path: by(Scorer(index, weight, path=path)) for path in PATHS}


def _answers(search: Search, queries: torch.Tensor, batch: int) -> np.ndarray:
    """Labels of all queries, (n, k)."""
    return np.concatenate([search(part).indices.cpu().numpy() for part in queries.split(batch)])


def _synchronize(device: str) -> None:
    """Wait until the device has done what it was told."""
    import torch

    if device != "cpu":
        getattr(torch, device).synchronize()


class _Times(NamedTuple):
    """Microseconds a batch: median over rounds of a round's median, the quickest round's, the slowest's."""

    us: float
    least_us: float
    most_us: float
    calls: int


def _times(
    ways: dict[str, Search], queries: torch.Tensor, batch: int, device: str, plan: dict[str, Any]
) -> dict[str, _Times]:
    """Time batches, the ways in turns."""
    import torch

    # Where there are too few, some are asked again.
    asked = torch.cat([queries] * -(-batch // len(queries)))
    parts = [part for part in asked.split(batch) if len(part) == batch]
    taken: dict[str, list[np.ndarray]] = {way: [] for way in ways}
    for search in ways.values():
        for i in range(_WARM_UP):
            search(parts[i % len(parts)])
    turns, shuffled, asked_so_far = list(ways), random.Random(0), 0
    begin = time.perf_counter()
    for _ in range(plan["rounds"]):
        shuffled.shuffle(turns)
        for way in turns:
            search, spent = ways[way], list[float]()
            while not spent or sum(spent) < plan["seconds"]:
                part = parts[asked_so_far % len(parts)]
                _synchronize(device)
                start = time.perf_counter()
                search(part)
                _synchronize(device)
                spent.append(time.perf_counter() - start)
                asked_so_far += 1
            taken[way].append(np.array(spent) * 1e6)
        if time.perf_counter() - begin > plan["at_most_seconds"]:
            break
    return {
        way: _Times(
            run.middle(rounds),
            min(float(np.median(values)) for values in rounds),
            max(float(np.median(values)) for values in rounds),
            sum(map(len, rounds)),
        )
        for way, rounds in taken.items()
    }

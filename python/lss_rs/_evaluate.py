"""An index beside a full layer: precision, work and time, for the command line and for benchmarks.

Needs the extra ``cli``; :class:`TorchLayer` imports torch when it is asked.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from tqdm.auto import tqdm

from lss_rs import _core, get_num_threads, metrics

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike, NDArray

    from lss_rs._arrays import Labels, QueryRows
    from lss_rs.index import Index

BLOCK = 1024
"""Queries answered between two steps of a progress bar, and in the batch that is timed."""

_TIMED, _TIMED_FULL = 2000, 200
"""Queries timed one by one: on the index, and, in turns with it, on the full layer."""
_ROUNDS = 20


class Layer(Protocol):
    """A full layer to be timed: the k best of one query (d,), or of a batch (n, d)."""

    name: str

    def one(self, query: NDArray[np.float32], k: int) -> object:
        """Answer one query on one thread."""

    def batch(self, queries: NDArray[np.float32], k: int) -> object:
        """Answer a batch on as many threads as the index uses."""


class _CoreLayer:
    """The index's own rows, all of them."""

    name = "full layer"

    def __init__(self, index: Index) -> None:
        self._index = index

    def one(self, query: NDArray[np.float32], k: int) -> object:
        return self._index.search(query, k, exact=True)

    def batch(self, queries: NDArray[np.float32], k: int) -> object:
        return self._index._core.teacher(queries, min(k, self._index.m))


def full_answers(index: Index, rows: QueryRows, k: int) -> NDArray[np.int64]:
    """Return the full layer's best labels, (n, k); -1 where there are fewer rows.

    Parameters
    ----------
    index : Index
        Holds the rows; need not be fitted.
    rows : QueryRows
    k : int
    """
    answers = np.full((rows.n, k), -1, np.int64)
    done, top = 0, min(k, index.m)
    for block in progress(rows, "full layer"):
        answers[done : done + len(block), :top] = index._core.teacher(block, top)[0]
        done += len(block)
    return answers


def evaluate(
    index: Index,
    rows: QueryRows,
    truth: Labels,
    ks: list[int],
    *,
    groups: ArrayLike | None = None,
    full: NDArray[np.int64] | None = None,
    layer: Layer | None = None,
) -> dict[str, Any]:
    """Compare an index with a full layer: precision, work and time.

    Queries are timed one by one, on one thread, the full layer in between; batches on the package's number of
    threads.

    Parameters
    ----------
    index : Index
        Fitted.
    rows : QueryRows
        Queries it was not fitted on, at least one.
    truth : Labels
        Their true labels.
    ks : list of int
        Answers to judge.
    groups : array-like, shape (n,), optional
        What to resample as a whole.
    full : ndarray of int64, shape (n, max(ks)), optional
        Answers of the full layer, if known: by default :func:`full_answers`.
    layer : Layer, optional
        What to time as the full layer, by default the index's own rows.

    Returns
    -------
    dict
        "full", "index" and "ratio" with the same names inside, for ``json.dumps``.
    """
    if rows.n == 0:
        raise ValueError(f"'{rows.arg}' must be at least one query. Got 0 instead.")
    top = max(ks)
    index.candidates(rows.slice(0, 1))  # not fitted: better now than after the full layer's work
    full = full_answers(index, rows, top) if full is None else full
    found, work, recall = _answers(index, rows, truth, top)
    precision: dict[str, dict[int, Any]] = {"full": {}, "index": {}, "ratio": {}}
    for k in ks:
        ours = metrics.precision_per_query(found, truth, k)
        theirs = metrics.precision_per_query(full, truth, k)
        precision["index"][k], precision["full"][k] = float(ours.mean()), float(theirs.mean())
        if rows.n > 1:
            precision["ratio"][k] = metrics.paired_bootstrap(ours, theirs, groups=groups)._asdict()
    layer = _CoreLayer(index) if layer is None else layer
    one, one_full = _time_one_by_one(index, layer, rows, top)
    sample = _sample(rows, BLOCK)
    batch, batch_full = _time_batches(index, layer, sample, top)
    return {
        "queries": rows.n,
        "threads": get_num_threads(),
        "kernel": _core.active_kernel(),
        "batch_size": len(sample),
        "full": {
            "name": layer.name,
            "precision": precision["full"],
            "candidates": index.m,
            "one_query_us": _percentiles(one_full),
            "batch_ms": batch_full,
        },
        "index": {
            "name": "index",
            "precision": precision["index"],
            **work,
            "label_recall": recall,
            "one_query_us": _percentiles(one),
            "batch_ms": batch,
        },
        "ratio": {
            "precision": precision["ratio"],
            "one_query": float(np.median(one_full) / np.median(one)),
            "batch": batch_full / batch,
        },
    }


def _answers(
    index: Index, rows: QueryRows, truth: Labels, k: int
) -> tuple[NDArray[np.int64], dict[str, float], float | None]:
    """Answers of the index (n, k), its mean work a query, and its label recall, if there are labels."""
    answers = np.empty((rows.n, k), np.int64)
    work: dict[str, float] = {}
    done = labelled = 0
    recalled = 0.0
    exact = index.params["exact"]
    for block in progress(rows, "index"):
        lo, hi = done, done + len(block)
        result = index.search(block, k, stats=True)
        answers[lo:hi] = result.labels
        for name, values in (result.stats or {}).items():
            work[name] = work.get(name, 0.0) + float(values.sum(dtype=np.float64))
        here = truth.slice(lo, hi)
        if n := int(np.count_nonzero(np.diff(here.indptr))):
            # of an exact index all labels are candidates, which need not be written out
            met = 1.0 if exact else metrics.label_recall(index.candidates(block), (here.indptr, here.indices))
            recalled += met * n
            labelled += n
        done = hi
    # an index that has not learned what to trust has no number for it
    means = {name: total / rows.n for name, total in work.items() if not np.isnan(total)}
    return answers, means, recalled / labelled if labelled else None


def _time_one_by_one(
    index: Index, layer: Layer, rows: QueryRows, k: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Microseconds of each query on the index and on the full layer.

    The two take turns in rounds, so that both meet the machine's slow and fast times; a round is long enough
    that most queries find the caches as their own kind left them.
    """
    now = time.perf_counter_ns
    ours, full = [], []
    sample = _sample(rows, _TIMED)
    for part in tqdm(np.array_split(sample, _ROUNDS), "one by one", unit="round", leave=False):
        for query in part[: _TIMED_FULL // _ROUNDS]:
            start = now()
            layer.one(query, k)
            full.append(now() - start)
        for query in part:
            start = now()
            index.search(query, k)
            ours.append(now() - start)
    return np.array(ours) / 1e3, np.array(full) / 1e3


def _time_batches(index: Index, layer: Layer, queries: NDArray[np.float32], k: int) -> tuple[float, float]:
    """Median milliseconds of a batch on the index and on the full layer, in turns."""
    clock = Clock()
    ours, full = [], []
    layer.batch(queries[:64], k)  # threads
    index.search(queries[:64], k)
    for _ in tqdm(range(3), "batches", leave=False):
        clock()
        layer.batch(queries, k)
        full.append(clock())
        index.search(queries, k)
        ours.append(clock())
    return float(np.median(ours)) * 1e3, float(np.median(full)) * 1e3


def _sample(rows: QueryRows, n: int) -> NDArray[np.float32]:
    """At most n queries, evenly spaced."""
    return np.concatenate(list(rows.blocks(-(-rows.n // n))))


def _percentiles(values: NDArray[np.float64]) -> dict[str, float]:
    return {"n": len(values), **{f"p{p}": float(np.percentile(values, p)) for p in (50, 99)}}


class TorchLayer:
    """A full layer as torch computes it, and torch's top-k.

    Parameters
    ----------
    head : torch.nn.Module
        The output layer.
    num_threads : int
        Torch's threads for a batch; a single query is answered on one.
    """

    name = "full layer (torch)"

    def __init__(self, head: Any, num_threads: int) -> None:
        self._head = head
        self._num_threads = num_threads

    def one(self, query: NDArray[np.float32], k: int) -> Any:
        """Values and labels of the k best for one query (d,)."""
        return self._answer(query, k, 1)

    def batch(self, queries: NDArray[np.float32], k: int) -> Any:
        """Values and labels of the k best for each query of (n, d)."""
        return self._answer(queries, k, self._num_threads)

    def _answer(self, x: NDArray[np.float32], k: int, num_threads: int) -> Any:
        import torch

        torch.set_num_threads(num_threads)
        with torch.inference_mode():
            return torch.topk(self._head(torch.from_numpy(x)), k)


# Small things


class Clock:
    """Called, it returns the seconds since it was last called."""

    def __init__(self) -> None:
        self._last = time.perf_counter()

    def __call__(self) -> float:
        last, self._last = self._last, time.perf_counter()
        return self._last - last


def progress(rows: QueryRows, name: str) -> Iterator[NDArray[np.float32]]:
    """Yield the queries in blocks, with a bar where it takes longer than a second."""
    with tqdm(total=rows.n, desc=name, unit="query", leave=False, delay=1) as bar:
        for lo in range(0, rows.n, BLOCK):
            block = rows.slice(lo, min(lo + BLOCK, rows.n))
            yield block
            bar.update(len(block))


@contextmanager
def step(name: str) -> Iterator[None]:
    """Show what goes on where nothing can be counted."""
    with tqdm(total=1, desc=name, bar_format="{desc} ...", leave=False):
        yield

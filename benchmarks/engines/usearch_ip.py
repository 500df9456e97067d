"""usearch's graph."""

from __future__ import annotations

import numpy as np
from usearch.index import BatchMatches, Index, Matches

from benchmarks.engines import BaseEngine, Data, Work
from benchmarks.engines._mips import products

_METRICS = {"ip": "ip", "l2": "l2sq"}


class Engine(BaseEngine):
    """A graph over rows, walked greedily; where no scalars are given, usearch chooses them for the CPU."""

    title = "usearch"
    library = "usearch"

    def __init__(
        self, data: Data, num_threads: int, *, links: int, ef: int, metric: str, scalars: str | None = None
    ) -> None:
        rows, self._prepare = products(data, metric, multiple=16)
        self._links = links
        self._index = Index(
            ndim=rows.shape[1], metric=_METRICS[metric], dtype=scalars, connectivity=links, expansion_add=ef
        )
        self._index.add(np.arange(len(rows)), np.ascontiguousarray(rows), threads=num_threads)
        self._threads = num_threads

    def configure(self, ef: int) -> None:
        self._index.expansion_search = ef

    def set_num_threads(self, n: int) -> None:
        self._threads = n

    def prepare(self, Q: np.ndarray) -> np.ndarray:
        return self._prepare(Q)[:, None]

    def one(self, q: np.ndarray, k: int) -> Matches:
        return self._index.search(q, k, threads=self._threads)

    def batch(self, Q: np.ndarray, k: int) -> BatchMatches | Matches:
        return self._index.search(Q[:, 0], k, threads=self._threads)

    def labels(self, answer: BatchMatches | Matches) -> np.ndarray:
        found = np.atleast_2d(answer.keys).astype(np.int64)
        if isinstance(answer, BatchMatches):
            found[np.arange(found.shape[1]) >= answer.counts[:, None]] = -1
        return found

    def size(self) -> int:
        return self._index.serialized_length

    def work(self, Q: np.ndarray) -> Work:
        found = self._index.search(Q[:, 0], 5, threads=1)
        rows, visits = found.computed_distances / len(Q), found.visited_members / len(Q)
        row = self._index.ndim * int(self._index.dtype.name.lstrip("BFI")) // 8
        return Work(rows, rows * row + visits * 2 * self._links * 4)

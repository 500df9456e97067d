"""ScaNN with a tree."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from scann.partitioning.partitioner_pb2 import SerializedPartitioner

from benchmarks.engines import Work
from benchmarks.engines._scann import ScannEngine


class Engine(ScannEngine):
    """Leaves of rows by k-means, asymmetric hashing in the best few, then the best rows exactly."""

    title = "ScaNN tree"

    def configure(self, leaves: int, reorder: int) -> None:
        super().configure(reorder)
        self._leaves = leaves

    def work(self, Q: np.ndarray) -> Work:
        centers, sizes = self._tree
        leaves = min(self._leaves, len(sizes))
        read = np.argpartition(Q @ centers.T, -leaves, axis=1)[:, -leaves:]
        # A row in two leaves (SOAR) is computed twice where both are read.
        sample = float(sizes[read].sum(1).mean())
        return Work(
            min(sample, self._m),
            centers.nbytes + sample * self._code_bytes + min(self._reorder, sample) * self._d * 4,
        )

    @cached_property
    def _tree(self) -> tuple[np.ndarray, np.ndarray]:
        """Centers of the leaves and their numbers of rows, which only ScaNN's files tell."""
        with TemporaryDirectory() as folder:
            self._searcher.serialize(folder)
            saved = (Path(folder) / "serialized_partitioner.pb").read_bytes()
            leaf_of = np.load(Path(folder) / "datapoint_to_token.npy")
        root = SerializedPartitioner.FromString(saved).kmeans.kmeans_tree.root
        centers = np.array([center.dimension for center in root.centers], np.float32)
        return centers, np.bincount(leaf_of[leaf_of >= 0], minlength=len(centers))

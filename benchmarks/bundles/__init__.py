"""Data bundles: an output layer, queries that reach it and their true labels, as plain .npy files."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

__all__ = ["SPLITS", "Bundle", "Labels", "groups", "load"]

SPLITS = ("train", "val", "test")


class Labels(NamedTuple):
    """True labels of n queries as CSR: those of query i are ``indices[indptr[i]:indptr[i + 1]]``."""

    indptr: np.ndarray
    indices: np.ndarray

    def lists(self) -> list[np.ndarray]:
        """Labels query by query."""
        return [self.indices[lo:hi] for lo, hi in pairwise(self.indptr)]

    def sparse(self, m: int) -> Any:
        """Labels as a matrix (n, m), which takes far less memory for millions of queries."""
        from scipy.sparse import csr_array

        ones = np.ones(len(self.indices), np.int8)
        return csr_array((ones, self.indices, self.indptr), (len(self.indptr) - 1, m))


class Bundle(NamedTuple):
    """One split of a bundle: rows W (m, d), bias b (m,), queries Q (n, d), all float32, and labels Y."""

    W: np.ndarray
    b: np.ndarray
    Q: np.ndarray
    Y: Labels


def load(path: str | Path, split: str) -> Bundle:
    """Open one split of a bundle, memory-mapped.

    Parameters
    ----------
    path : str or Path
        A bundle's folder. Where a bundle has several domains over one layer, a domain's folder: W and b are
        then found in its parent.
    split : {"train", "val", "test"}

    Returns
    -------
    Bundle
        ``(W, b, Q, Y)``, read-only.

    Raises
    ------
    FileNotFoundError
        If the split is not built.
    """
    path = Path(path)
    layer = path if (path / "W.npy").is_file() else path.parent
    W, b = _map(layer, "W"), _map(layer, "b")
    indptr, indices = (_map(path, f"Y_{_known(split)}_{part}") for part in Labels._fields)
    return Bundle(W, b, _map(path, f"Q_{split}"), Labels(indptr, indices))


def groups(path: str | Path, split: str) -> np.ndarray:
    """Open the number of each query's document (n,), where a bundle keeps them: ``fit(groups=...)``."""
    return _map(Path(path), f"groups_{_known(split)}")


def _known(split: str) -> str:
    if split not in SPLITS:
        raise ValueError(f"The 'split' parameter must be one of {', '.join(SPLITS)}. Got {split!r} instead.")
    return split


def _map(folder: Path, name: str) -> np.ndarray:
    file = folder / f"{name}.npy"
    if not file.is_file():
        raise FileNotFoundError(f"{file} is not built; benchmarks/bundles/README.md says how")
    return np.load(file, mmap_mode="r")

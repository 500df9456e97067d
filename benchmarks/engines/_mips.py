"""Rows for libraries that know vectors alone: the bias becomes a coordinate, the product a distance."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from benchmarks.engines import Data

__all__ = ["products", "with_bias", "with_one"]

Prepare = Callable[[np.ndarray], np.ndarray]


def products(data: Data, metric: str, multiple: int = 1) -> tuple[np.ndarray, Prepare]:
    """Rows whose nearest are those of the largest logits, and what brings queries into their form.

    Parameters
    ----------
    data : Data
    metric : {"ip", "l2"}
        "ip": rows as they are, for a search by inner product. "l2": one more coordinate gives every row the
        length of the longest, so that the Euclidean distance orders them as the product does (Bachrach et al.
        2014); its value is 0 in queries. Either way the median is taken from all biases, which changes no
        order: where they are far from 0, nothing but the bias would count.
    multiple : int
        Of the width, wherever a column is added anyway.
    """
    data = data._replace(b=data.b - np.median(data.b))
    if metric == "ip":
        rows, added = with_bias(data, multiple)
        return rows, lambda Q: with_one(Q, added)
    rows, added = with_bias(data)
    m, d = rows.shape
    width = -(-(d + 1) // multiple) * multiple
    squares = np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
    longer = np.zeros((m, width), np.float32)
    longer[:, :d], longer[:, d] = rows, np.sqrt(squares.max() - squares)

    def prepare(Q: np.ndarray) -> np.ndarray:
        queries = np.zeros((len(Q), width), np.float32)
        queries[:, :d] = with_one(Q, added)
        return queries

    return longer, prepare


def with_bias(data: Data, multiple: int = 1) -> tuple[np.ndarray, int]:
    """Rows for an engine that knows inner products alone: ``[w, b]``, and the number of columns added.

    Where the bias is zero nothing is added. Otherwise zeros follow, so that the width is a multiple of
    `multiple`. :func:`with_one` is the other side.
    """
    W, b = np.asarray(data.W), np.asarray(data.b)
    if not b.any():
        return W, 0
    m, d = W.shape
    width = -(-(d + 1) // multiple) * multiple
    rows = np.zeros((m, width), np.float32)
    rows[:, :d], rows[:, d] = W, b
    return rows, width - d


def with_one(Q: np.ndarray, added: int) -> np.ndarray:
    """Return queries ``[q, 1, 0...]`` for the rows of :func:`with_bias`, unchanged if nothing was added."""
    if not added:
        return Q
    n, d = Q.shape
    queries = np.zeros((n, d + added), np.float32)
    queries[:, :d], queries[:, d] = Q, 1.0
    return queries

"""Rows for libraries that know vectors alone: the bias becomes a coordinate, the product a distance."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from benchmarks.engines import Data, with_bias, with_one

__all__ = ["products"]

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

"""How far down its list a query needs to read.

A list is read as far as its region's queries need on average, but they differ: the labels of some come early,
and others need what few do. How far is foreseen from what a search knows before it reads: how far the query
lies from centers, from the mean query of all and from that of its region, and where. The logarithm of the
place at which the last of its labels stands is linear in these, beside where reading ends on average, and is
learned as centers are (:mod:`lss_rs.learn.centers`), by lists that have not seen the query. What is foreseen
is uncertain, so that half of it is believed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lss_rs._core import MOST_SHARE
from lss_rs.learn.centers import halves, members_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from lss_rs.learn.centers import Lists

_BELIEVED = 0.5
"""Share of what is foreseen."""
_FARTHEST = float(np.log(MOST_SHARE)) / _BELIEVED
"""More or less than that, as a logarithm, no query can be said to need."""
_RIDGE = 20.0
"""What regression takes for granted, in queries."""
_FLAT = 1e-4
"""What deviates less, beside its mean or one, is the same for all."""
_ROUNDS = 40
"""Halvings, after which the average is known well enough."""


def learn_need(
    known: NDArray[np.float32],
    regions: NDArray[np.int64],
    ids: NDArray[np.int64],
    lists: Callable[[NDArray[np.int64]], Lists],
    n_regions: int,
    m: int,
) -> NDArray[np.float32]:
    """Learn how far queries need to read, beside others in their region.

    Parameters
    ----------
    known : ndarray of float32, shape (n, p)
        What a search knows of training queries.
    regions : ndarray of int64, shape (n,)
        The region of each.
    ids : ndarray of int64, shape (n, t)
        The labels that each needs; -1 where there are fewer.
    lists : callable
        ``lists(regions)`` makes them; ``regions`` (n,) has the region of each query, or n_regions for a
        query that does not count.
    n_regions, m : int
        Number of regions, and of labels.

    Returns
    -------
    ndarray of float32, shape (1 + p,)
        What one and what is known are multiplied by; the sum is the logarithm of how far a query reads, as a
        multiple of the average. Zeros where nothing can be learned.
    """
    half = halves(len(known))
    further, counted = np.zeros(len(known)), np.zeros(len(known), bool)
    for side in (0, 1):
        here = half == side
        made = lists(np.where(here, n_regions, regions))
        average = made.ends[regions[here], made.ends.shape[1] // 2]
        place = np.log1p(farthest(made, regions[here], ids[here], m))
        further[here] = np.clip(place - np.log1p(average), -_FARTHEST, _FARTHEST)
        counted[here] = (average > 0) & (ids[here] >= 0).any(axis=1)
    weights = np.zeros(1 + known.shape[1])
    if not counted.any():
        return weights.astype(np.float32)
    shown = known.astype(np.float64)
    mean, deviation = shown[counted].mean(axis=0), shown[counted].std(axis=0)
    flat = deviation <= _FLAT * np.maximum(1.0, np.abs(mean))
    scale = np.where(flat, 0.0, 1.0 / np.where(flat, 1.0, deviation))
    standard = (shown - mean) * scale
    seen = standard[counted]
    found = np.linalg.solve(
        seen.T @ seen + _RIDGE * np.eye(seen.shape[1]),
        seen.T @ (further[counted] - further[counted].mean()),
    )
    found *= _BELIEVED
    weights[1:] = found * scale
    weights[0] = _evened(standard @ found) - mean @ weights[1:]
    return weights.astype(np.float32)


def farthest(lists: Lists, regions: NDArray[np.int64], ids: NDArray[np.int64], m: int) -> NDArray[np.int64]:
    """Find where the last of what each query needs stands in its list.

    What is not listed stands behind the last of the longest list; who needs nothing, needs the first.

    Parameters
    ----------
    lists : Lists
    regions : ndarray of int64, shape (n,)
        The region of each query.
    ids : ndarray of int64, shape (n, t)
        The labels that each needs; -1 where there are fewer.
    m : int
        Number of labels.
    """
    behind = int(np.diff(lists.indptr).max(initial=0))
    found = np.zeros(len(regions), np.int64)
    of_label = np.append(np.full(m, behind), 0)  # the last is of no label
    for _, listed, queries in members_of(lists, regions):
        of_label[listed] = np.arange(len(listed))
        found[queries] = of_label[ids[queries]].max(axis=1, initial=0)
        of_label[listed] = behind
    return found


def _evened(foreseen: NDArray[np.float64]) -> float:
    """Find what to add, so that queries read the average on average."""
    low, high = -np.log(MOST_SHARE), np.log(MOST_SHARE)
    for _ in range(_ROUNDS):
        middle = (low + high) / 2
        share = np.clip(np.exp(foreseen + middle), 1 / MOST_SHARE, MOST_SHARE).mean()
        low, high = (middle, high) if share < 1 else (low, middle)
    return float((low + high) / 2)

"""Trust: how likely a search has met the full layer's best, learned on queries that it was not filled from.

What a search shows of itself (``rust/core/src/trust.rs``): how near the exemplars are that it rests on, how
far its last logit stands out in units of that distance, how many of them needed what it answers; a scan, how
far its last logit stands above the largest estimate of a row that was not scored; a list, how near the
region's center is, how far down the list its labels stand, and how far its last logit stands above what
columns promise of labels whose rows were not read. Logistic functions of these
numbers become the probability that the candidates hold the labels of the full layer, and that the answer of a
list or a scan is the full layer's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from lss_rs import _core

_RIDGE = 1.0
"""Weight of the prior that a feature says nothing, in queries; the constant has none."""
_STRANGER = 3.0
"""How far from their mean the features of one are that must be wrong, in deviations of each."""
_OF_TABLES = (0, 1, 1, 1, -1, 0, -1, -1)
_OF_SCAN = (0, -1)
"""Where a stranger lies: far from exemplars and from the mean, with answers that few neighbours needed
and that hardly stand out."""
_OF_LISTS = (0, 1, 1, 1, -1, 0, 1, 1, -1)
"""For a list: far from centers, with labels from its end."""
_STEPS = 50
_SMALL = 1e-8
"""A step that changes nothing."""
_WORTH = 1e-4
"""Of what the slope promises, what a step must bring."""


class Compared(NamedTuple):
    """What answers of n queries came to, and what makes trust.

    Attributes
    ----------
    by_tables, by_scan : ndarray of int64, shape (n, k)
        Labels.
    held : ndarray of bool, shape (n,)
        Whether the candidates of the tables held all of the full layer's labels.
    trust, scan_trust : ndarray of float64, shape (n,)
        How far either answer is trusted.
    judge : tuple of float
        For :class:`lss_rs.OperatingPoint`.
    """

    by_tables: NDArray[np.int64]
    by_scan: NDArray[np.int64]
    held: NDArray[np.bool_]
    trust: NDArray[np.float64]
    scan_trust: NDArray[np.float64]
    judge: tuple[float, ...]


def learn_trust(
    index: _core.Index, queries: NDArray[np.float32], full: NDArray[np.int64], k: int
) -> Compared:
    """Learn both functions at the index's operating point.

    Parameters
    ----------
    index : _core.Index
        Fitted, with sketches and exemplars.
    queries : ndarray of float32, shape (n, d)
        None of which the index was filled from.
    full : ndarray of int64, shape (n, k)
        The full layer's answers.
    k : int
        How many of these trust is about.
    """
    best = np.ascontiguousarray(full[:, :k])
    by_tables, by_scan, of_tables, of_scan, held = index.compare(queries, best)
    scan_right = _equal_sets(by_scan, best)
    trusts: list[NDArray[np.float64]] = []
    weights = [float(k)]
    for features, right, away in ((of_tables, held, _OF_TABLES), (of_scan, scan_right, _OF_SCAN)):
        learned = logistic(features, right, away).astype(np.float32)
        weights += learned.tolist()
        trusts.append(_trust(features, learned))
    trust, scan_trust = trusts
    return Compared(by_tables, by_scan, held, trust, scan_trust, tuple(weights))


class Read(NamedTuple):
    """What answers of n queries from the lists of their regions came to, and what makes trust.

    Attributes
    ----------
    labels : ndarray of int64, shape (n, k)
    trust : ndarray of float64, shape (n,)
        How far each answer is trusted.
    judge : tuple of float
        For :class:`lss_rs.ListPoint`, or :class:`lss_rs.FirstRead`.
    """

    labels: NDArray[np.int64]
    trust: NDArray[np.float64]
    judge: tuple[float, ...]


def learn_list_trust(
    index: _core.Index,
    queries: NDArray[np.float32],
    full: NDArray[np.int64],
    k: int,
    n_listed: int,
    n_rescore: int,
    n_first: int | None = None,
) -> Read:
    """Learn what an answer from a list is to be trusted.

    Parameters
    ----------
    index, queries, full, k
        As of :func:`learn_trust`.
    n_listed, n_rescore : int
        As of :class:`lss_rs.ListPoint`.
    n_first : int, optional
        Labels read by themselves, before the others, on average.
    """
    best = np.ascontiguousarray(full[:, :k])
    labels, features = index.read_lists(queries, k, n_listed, n_rescore, n_first)
    whole = (labels >= 0).all(axis=1)  # others are not enough, whatever they show
    learned = np.zeros(features.shape[1], np.float32)
    if whole.any():
        learned = logistic(features[whole], _equal_sets(labels, best)[whole], _OF_LISTS).astype(np.float32)
    return Read(labels, np.where(whole, _trust(features, learned), 0.0), tuple(learned.tolist()))


def _equal_sets(labels: NDArray[np.int64], best: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Tell of each row whether both hold the same labels."""
    same: NDArray[np.bool_] = (np.sort(labels, axis=1) == np.sort(best, axis=1)).all(axis=1)
    return same


def _trust(features: NDArray[np.float32], weights: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the probability that a logistic function of the features makes, as an index does."""
    trust: NDArray[np.float64] = 1 / (1 + np.exp(-(features @ weights).astype(np.float64)))
    return trust


def logistic(
    features: NDArray[np.float32], right: NDArray[np.bool_], away: Sequence[int]
) -> NDArray[np.float64]:
    """Fit P(right) = 1 / (1 + exp(-features @ weights)) by Newton's method, steps cut where they overshoot.

    Two queries count besides those given: one like their mean that is right, and a stranger that is not.
    So nothing is certain, and what no query has shown to go wrong is still known to go wrong far away.

    Parameters
    ----------
    features : ndarray of float32, shape (n, p)
        The first one is constant.
    right : ndarray of bool, shape (n,)
    away : sequence of int, shape (p,)
        Signs of the direction in which the stranger is.
    """
    x = features.astype(np.float64)
    mean, deviation = x.mean(axis=0), x.std(axis=0)
    constant = deviation < 1e-9
    mean[0], deviation[constant] = 0.0, 1.0
    x = (x - mean) / deviation
    x = np.concatenate([x, np.zeros((1, x.shape[1])), _STRANGER * np.array([away], np.float64)])
    x[-1, constant] = 0.0  # of which nothing is known
    x[:, 0] = 1.0
    y = np.concatenate([right, [True, False]]).astype(np.float64)
    prior = np.full(x.shape[1], _RIDGE)
    prior[0] = 0.0
    w = np.zeros(x.shape[1])
    w[0] = np.log(y.sum() / (len(y) - y.sum()))

    def loss(w: NDArray[np.float64]) -> float:
        margins = x @ w
        return float(np.logaddexp(0.0, margins).sum() - y @ margins + (prior * w * w).sum() / 2)

    for _ in range(_STEPS):
        p = 1 / (1 + np.exp(-np.clip(x @ w, -500, 500)))  # beyond that it is 0 or 1 in any case
        slope = x.T @ (y - p) - prior * w
        curvature = (x * (p * (1 - p))[:, None]).T @ x + np.diag(prior + 1e-9)
        step = np.linalg.solve(curvature, slope)
        before, gain = loss(w), float(slope @ step)
        while np.abs(step).max() >= _SMALL and loss(w + step) > before - _WORTH * gain:
            step /= 2
            gain /= 2
        w += step
        if np.abs(step).max() < _SMALL:
            break
    w /= deviation
    w[0] -= (w[1:] * mean[1:]).sum()
    return w

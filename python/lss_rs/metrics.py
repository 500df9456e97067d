"""Quality of answers against true labels, and how sure one can be of a difference.

Wherever true labels ``Y`` are asked for they may be label ids (n,) or (n, t), lists of label ids, a sparse
(n, m) matrix, or a CSR pair ``(indptr, indices)``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lss_rs._arrays import Labels, as_count, as_labels, message
from lss_rs._intervals import Interval, bootstrap, paired_bootstrap

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "FrequencyGroups",
    "Interval",
    "bootstrap",
    "label_counts",
    "label_recall",
    "label_recall_per_query",
    "paired_bootstrap",
    "precision_at_k",
    "precision_by_frequency",
    "precision_per_query",
    "propensities",
    "propensity_scored_precision_at_k",
    "propensity_scored_precision_per_query",
]


def precision_per_query(labels: ArrayLike, Y: Any, k: int) -> NDArray[np.float64]:
    """Precision of the first k answers of each query: the share of them that are true labels.

    Parameters
    ----------
    labels : array-like of int, shape (n, k) or wider
        Answers, best first; -1 stands for none. A label that is answered twice counts once.
    Y : labels of n queries
        True labels. A query without any scores 0.
    k : int
        Answers to look at. The divisor is k, however many answers or true labels there are.

    Returns
    -------
    ndarray of float64, shape (n,)

    Raises
    ------
    TypeError
        If labels are not integers.
    ValueError
        If there are fewer than k answers a query, or Y is of another length.

    Examples
    --------
    >>> from lss_rs.metrics import precision_per_query
    >>> precision_per_query([[3, 1], [2, -1]], [[1, 3], [0]], k=2).tolist()
    [1.0, 0.0]
    """
    truth, queries, _ = _hits(labels, Y, k)
    return np.asarray(np.bincount(queries, minlength=truth.n) / k)


def precision_at_k(labels: ArrayLike, Y: Any, k: int) -> float:
    """Mean of :func:`precision_per_query`: P@k.

    Parameters
    ----------
    labels : array-like of int, shape (n, k) or wider
        Answers, best first; -1 stands for none.
    Y : labels of n queries
        True labels.
    k : int
        Answers to look at, and the divisor.

    Returns
    -------
    float

    Raises
    ------
    TypeError, ValueError
        As :func:`precision_per_query`, and ValueError if there is no query.

    Examples
    --------
    >>> from lss_rs.metrics import precision_at_k
    >>> precision_at_k([[3, 1], [2, -1]], [[1, 3], [0]], k=2)
    0.5
    """
    values = precision_per_query(labels, Y, k)
    if not len(values):
        raise ValueError(message("labels", "answers to at least one query", "none"))
    return float(values.mean())


def label_counts(Y: Any, m: int) -> NDArray[np.int64]:
    """How many queries have each label, such as the queries one trains on.

    Parameters
    ----------
    Y : labels of n queries
        A label that a query names twice counts once.
    m : int
        Number of labels.

    Returns
    -------
    ndarray of int64, shape (m,)

    Raises
    ------
    TypeError
        If labels are not integers.
    ValueError
        If a label is not in 0..m-1.

    Examples
    --------
    >>> from lss_rs.metrics import label_counts
    >>> label_counts([[1, 3], [], [1]], m=4).tolist()
    [0, 2, 0, 1]
    """
    m = as_count(m, "m")
    return np.bincount(_truth(Y, None, m).indices, minlength=m).astype(np.int64, copy=False)


class FrequencyGroups(NamedTuple):
    """Answers judged by how often their labels occur in training; see :func:`precision_by_frequency`.

    Each array has shape (n_groups + 1,): the labels never seen first, then from the rarest to the commonest.

    Attributes
    ----------
    up_to : ndarray of int64
        Most training queries of a label in the group; the one before where a group is empty.
    n_labels : ndarray of int64
        Labels in the group.
    occurrences : ndarray of int64
        How often queries have a label of the group.
    precision : ndarray of float64
        The group's part of P@k; together they are P@k.
    recall : ndarray of float64
        The share of ``occurrences`` that are among the query's first k answers; NaN where there are none.
    """

    up_to: NDArray[np.int64]
    n_labels: NDArray[np.int64]
    occurrences: NDArray[np.int64]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]


def precision_by_frequency(
    labels: ArrayLike, Y: Any, k: int, counts: ArrayLike, *, n_groups: int = 10
) -> FrequencyGroups:
    """P@k and recall by deciles of label frequency: whether what is rare is found as what is common is.

    Each decile has about a tenth of all occurrences in training, rather than of all labels: with one label a
    query or many, label frequencies fall so steeply that the commonest tenth of the labels makes up nearly
    all of P@k, while most deciles of labels are hardly ever asked for. So every group is judged on about as
    many occurrences, if queries are like those in training, and the first holds most of the labels.

    A label is in group ``1 + floor(n_groups * s)``, where s is the share of training occurrences that rarer
    labels have. Labels of one count are never parted, and a label with more than a tenth of all occurrences
    leaves groups above its own empty. Group 0 is labels never seen in training.

    Parameters
    ----------
    labels : array-like of int, shape (n, k) or wider
        Answers, best first; -1 stands for none. A label that is answered twice counts once.
    Y : labels of n queries
        True labels.
    k : int
        Answers to look at.
    counts : array-like of int, shape (m,)
        Training queries of each label, as :func:`label_counts` returns them.
    n_groups : int
        Groups of labels that were seen in training.

    Returns
    -------
    FrequencyGroups
        ``(up_to, n_labels, occurrences, precision, recall)``, arrays of shape (n_groups + 1,).

    Raises
    ------
    TypeError
        If labels or counts are not integers.
    ValueError
        As :func:`precision_at_k`, and if a count is negative, all are 0 or a true label is not in 0..m-1.

    Examples
    --------
    >>> from lss_rs.metrics import precision_by_frequency
    >>> answers, Y = [[0], [0], [2], [0]], [0, 1, 2, 3]
    >>> groups = precision_by_frequency(answers, Y, 1, counts=[5, 3, 2, 0], n_groups=2)
    >>> groups.up_to.tolist(), groups.n_labels.tolist(), groups.occurrences.tolist()
    ([0, 3, 5], [1, 2, 1], [1, 2, 1])
    >>> groups.precision.tolist(), groups.recall.tolist()
    ([0.0, 0.25, 0.25], [0.0, 0.5, 1.0])
    """
    counts = _as_counts(counts)
    size = as_count(n_groups, "n_groups") + 1
    seen = np.sort(counts[counts > 0])
    if not len(seen):
        raise ValueError(message("counts", "above 0 for at least one label", "zeros"))
    mass = np.cumsum(seen)
    # group g ends with the least count whose labels, and all rarer ones, have g / n_groups of the mass
    ends = np.searchsorted(mass * (size - 1), mass[-1] * np.arange(1, size))
    up_to = np.concatenate([[0], seen[ends]])
    group = np.searchsorted(up_to, counts)

    truth, _, found = _hits(labels, Y, k, len(counts))
    if not truth.n:
        raise ValueError(message("labels", "answers to at least one query", "none"))
    occurrences = np.bincount(group[truth.indices], minlength=size)
    hits = np.bincount(group[found], minlength=size)
    recall = np.full(size, np.nan)
    np.divide(hits, occurrences, out=recall, where=occurrences > 0)
    return FrequencyGroups(
        up_to, np.bincount(group, minlength=size), occurrences, hits / (truth.n * k), recall
    )


def propensities(counts: ArrayLike, n: int, *, a: float = 0.55, b: float = 1.5) -> NDArray[np.float64]:
    """How probable it is that a label which applies to a query was noted down, by its frequency in training.

    ``1 / (1 + c * (counts + b) ** -a)``, where ``c = (log(n) - 1) * (b + 1) ** a``; the rarer a label is, the
    more often it is missed.

    Parameters
    ----------
    counts : array-like of int, shape (m,)
        Training queries of each label, as :func:`label_counts` returns them.
    n : int
        Number of training queries, at least 3.
    a, b : float
        Constants of the data, a >= 0 and b > 0. The Extreme Classification Repository takes 0.5 and 0.4 for
        its sets from Wikipedia, 0.6 and 2.6 for those from Amazon, and these defaults for others.

    Returns
    -------
    ndarray of float64, shape (m,)
        In (0, 1).

    Raises
    ------
    TypeError
        If counts or n are not integers.
    ValueError
        If a count is negative or above n, or a parameter is out of range.

    References
    ----------
    Jain, Prabhu and Varma, "Extreme multi-label loss functions for recommendation, tagging, ranking and other
    missing label applications", KDD 2016.

    Examples
    --------
    >>> from lss_rs.metrics import propensities
    >>> propensities([0, 10, 1000], n=100_000).round(3).tolist()
    [0.067, 0.18, 0.72]
    """
    counts = _as_counts(counts)
    most = int(counts.max(initial=0))
    if as_count(n, "n") < max(3, most):  # below 3, log(n) - 1 is negative
        raise ValueError(message("n", f"at least 3 and the highest count ({most})", n))
    if not 0 <= a < np.inf:
        raise ValueError(message("a", "finite and not negative", a))
    if not 0 < b < np.inf:
        raise ValueError(message("b", "finite and above 0", b))
    return np.asarray(1 / (1 + (np.log(n) - 1) * ((b + 1) / (counts + b)) ** a))


def propensity_scored_precision_per_query(
    labels: ArrayLike, Y: Any, k: int, propensity: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Precision of the first k answers where each true label l counts ``1 / propensity[l]``, and the best.

    ``paired_bootstrap(attained, best)`` is PSP@k with its interval. Two engines on the same queries have the
    same best, so that :func:`paired_bootstrap` of what each attains compares their PSP@k.

    Parameters
    ----------
    labels : array-like of int, shape (n, k) or wider
        Answers, best first; -1 stands for none. A label that is answered twice counts once.
    Y : labels of n queries
        True labels.
    k : int
        Answers to look at, and the divisor.
    propensity : array-like of float, shape (m,)
        As :func:`propensities` returns them.

    Returns
    -------
    attained, best : ndarray of float64, shape (n,)
        What the answers attain, which may exceed 1, and what the query's k true labels of the least
        propensity would: all of them where it has fewer.

    Raises
    ------
    TypeError
        If labels are not integers.
    ValueError
        As :func:`precision_per_query`, and if a propensity is not in (0, 1] or a true label not in 0..m-1.

    Examples
    --------
    >>> from lss_rs.metrics import paired_bootstrap, propensity_scored_precision_per_query
    >>> pair = propensity_scored_precision_per_query([[0], [0]], [[0, 1], [0]], 1, [0.5, 0.25])
    >>> [values.tolist() for values in pair]
    [[2.0, 2.0], [4.0, 2.0]]
    >>> paired_bootstrap(*pair).estimate == 4 / 6
    True
    """
    p = np.asarray(propensity, dtype=np.float64)
    if p.ndim != 1:
        raise ValueError(message("propensity", "of shape (m,)", f"shape {p.shape}"))
    if not ((p > 0) & (p <= 1)).all():
        raise ValueError(message("propensity", "above 0 and at most 1", "other values"))
    truth, queries, found = _hits(labels, Y, k, len(p))
    attained = np.bincount(queries, 1 / p[found], truth.n)
    of = truth.query_of()
    ranked = np.lexsort((p[truth.indices], of))  # within each query, whose labels stay where they are
    first = ranked[np.arange(len(of)) - truth.indptr[of] < k]
    best = np.bincount(of[first], 1 / p[truth.indices[first]], truth.n)
    return np.asarray(attained / k), np.asarray(best / k)


def propensity_scored_precision_at_k(labels: ArrayLike, Y: Any, k: int, propensity: ArrayLike) -> float:
    """PSP@k as results on the Extreme Classification Repository have it: what is attained of the best.

    The sum over queries of what :func:`propensity_scored_precision_per_query` attains, divided by the sum of
    its best, so that 1 is perfect. Where propensities are equal, it is P@k divided by the best P@k there is.

    Parameters
    ----------
    labels : array-like of int, shape (n, k) or wider
        Answers, best first; -1 stands for none.
    Y : labels of n queries
        True labels.
    k : int
        Answers to look at.
    propensity : array-like of float, shape (m,)
        As :func:`propensities` returns them.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    TypeError, ValueError
        As :func:`propensity_scored_precision_per_query`, and ValueError if no query has a label.

    Examples
    --------
    >>> from lss_rs.metrics import propensity_scored_precision_at_k
    >>> propensity_scored_precision_at_k([[0], [1]], [[0, 1], [1]], 1, [0.5, 0.25])
    0.75
    """
    attained, best = propensity_scored_precision_per_query(labels, Y, k, propensity)
    if not best.any():
        raise ValueError(message("Y", "labels of at least one query", "none"))
    return float(attained.sum() / best.sum())


def label_recall_per_query(candidates: tuple[ArrayLike, ArrayLike], Y: Any) -> NDArray[np.float64]:
    """Share of each query's true labels that are among its candidates.

    Parameters
    ----------
    candidates : (indptr, indices)
        As :meth:`lss_rs.Index.candidates` returns them.
    Y : labels of n queries

    Returns
    -------
    ndarray of float64, shape (n,)
        NaN for a query without labels.

    Raises
    ------
    ValueError
        If lengths differ.

    Examples
    --------
    >>> import numpy as np
    >>> from lss_rs.metrics import label_recall_per_query
    >>> label_recall_per_query((np.array([0, 2, 3]), np.array([4, 7, 1])), [[4, 5], [1]]).tolist()
    [0.5, 1.0]
    """
    found = _truth(candidates, len(np.asarray(candidates[0])) - 1, arg="candidates")
    truth = _truth(Y, found.n)
    sizes = np.diff(truth.indptr)
    queries = truth.query_of()
    hits = np.bincount(queries[_contains(found, queries, truth.indices)], minlength=found.n)
    shares = np.full(found.n, np.nan)
    np.divide(hits, sizes, out=shares, where=sizes > 0)
    return shares


def label_recall(candidates: tuple[ArrayLike, ArrayLike], Y: Any) -> float:
    """Share of a query's true labels that are among its candidates, averaged over queries that have labels.

    Parameters
    ----------
    candidates : (indptr, indices)
        As :meth:`lss_rs.Index.candidates` returns them.
    Y : labels of n queries

    Raises
    ------
    ValueError
        If no query has a label, or lengths differ.

    Examples
    --------
    >>> import numpy as np
    >>> from lss_rs.metrics import label_recall
    >>> label_recall((np.array([0, 2, 3]), np.array([4, 7, 1])), [[4, 5], [1]])
    0.75
    """
    shares = label_recall_per_query(candidates, Y)
    if np.isnan(shares).all():
        raise ValueError(message("Y", "labels of at least one query", "none"))
    return float(np.nanmean(shares))


def _as_counts(counts: ArrayLike) -> NDArray[np.int64]:
    array = np.asarray(counts)
    if array.dtype.kind not in "iu":
        raise TypeError(message("counts", "an array of ints", f"dtype {array.dtype.name}"))
    if array.ndim != 1:
        raise ValueError(message("counts", "of shape (m,)", f"shape {array.shape}"))
    if array.min(initial=0) < 0:
        raise ValueError(message("counts", "not negative", array.min()))
    return array.astype(np.int64, copy=False)


def _hits(
    labels: ArrayLike, Y: Any, k: int, m: int | None = None
) -> tuple[Labels, NDArray[np.int64], NDArray[np.int64]]:
    """Return ``Y``, and the (query, label) pairs of it that are among the query's first k answers."""
    k = as_count(k, "k")
    answers = np.asarray(labels)
    if answers.ndim != 2 or answers.shape[1] < k:
        raise ValueError(message("labels", f"of shape (n, {k}) or wider", f"shape {answers.shape}"))
    if answers.dtype.kind not in "iu":
        raise TypeError(message("labels", "an array of ints", f"dtype {answers.dtype.name}"))
    answers = np.sort(answers[:, :k].astype(np.int64), axis=1)
    truth = _truth(Y, len(answers), m)
    hits = _contains(truth, np.arange(truth.n)[:, None], answers)
    hits[:, 1:] &= answers[:, 1:] != answers[:, :-1]
    return truth, np.nonzero(hits)[0], answers[hits]


def _truth(Y: Any, n: int | None, m: int | None = None, arg: str = "Y") -> Labels:
    """Like ``as_labels``, and CSR pairs besides."""
    if isinstance(Y, tuple) and len(Y) == 2 and all(isinstance(part, np.ndarray) for part in Y):
        indptr, indices = Y
        if any(part.ndim != 1 or part.dtype.kind not in "iu" for part in Y):
            got = f"{indptr.dtype} {indptr.shape}, {indices.dtype} {indices.shape}"
            raise TypeError(message(arg, "(indptr, indices), arrays of ints", got))
        if not len(indptr) or indptr[0] != 0 or indptr[-1] != len(indices) or (np.diff(indptr) < 0).any():
            raise ValueError(
                message(arg, "(indptr, indices) where indptr rises from 0 to their number", "others")
            )
        Y = Labels(indptr.astype(np.int64), indices.astype(np.int64))
    return as_labels(Y, n, m, arg)


def _contains(labels: Labels, queries: NDArray[np.int64], ids: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each (query, id) is in ``labels``; shapes broadcast."""
    width = int(labels.indices.max(initial=-1)) + 1
    if not width:
        return np.zeros(np.broadcast_shapes(queries.shape, ids.shape), bool)
    keys = labels.query_of() * width + labels.indices
    known = (ids >= 0) & (ids < width)
    wanted = queries * width + np.where(known, ids, 0)
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.asarray(known & (keys[at] == wanted))

"""Quality of answers against true labels, and how sure one can be of a difference.

Wherever true labels ``Y`` are asked for they may be label ids (n,) or (n, t), lists of label ids, a sparse
(n, m) matrix, or a CSR pair ``(indptr, indices)``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from lss_rs._arrays import Labels, as_count, as_labels, message

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["Interval", "label_recall", "paired_bootstrap", "precision_at_k", "precision_per_query"]


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
    k = as_count(k, "k")
    answers = np.asarray(labels)
    if answers.ndim != 2 or answers.shape[1] < k:
        raise ValueError(message("labels", f"of shape (n, {k}) or wider", f"shape {answers.shape}"))
    if answers.dtype.kind not in "iu":
        raise TypeError(message("labels", "an array of ints", f"dtype {answers.dtype.name}"))
    answers = np.sort(answers[:, :k].astype(np.int64), axis=1)
    n = len(answers)
    truth = _truth(Y, n)
    hits = _contains(truth, np.arange(n)[:, None], answers)
    hits[:, 1:] &= answers[:, 1:] != answers[:, :-1]
    return np.asarray(hits.sum(axis=1) / k)


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
    indptr = np.asarray(candidates[0])
    found = _truth(candidates, len(indptr) - 1, "candidates")
    truth = _truth(Y, found.n)
    sizes = np.diff(truth.indptr)
    if not sizes.any():
        raise ValueError(message("Y", "labels of at least one query", "none"))
    queries = truth.query_of()
    hits = np.bincount(queries[_contains(found, queries, truth.indices)], minlength=found.n)
    return float((hits[sizes > 0] / sizes[sizes > 0]).mean())


def _truth(Y: Any, n: int, arg: str = "Y") -> Labels:
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
    return as_labels(Y, n, arg=arg)


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


class Interval(NamedTuple):
    """An estimate and the bounds it lies between with the confidence asked for."""

    estimate: float
    low: float
    high: float


def paired_bootstrap(
    a: ArrayLike,
    b: ArrayLike,
    *,
    statistic: Literal["ratio", "difference"] = "ratio",
    confidence: float = 0.95,
    n_boot: int = 10_000,
    groups: ArrayLike | None = None,
    seed: int = 0,
) -> Interval:
    """Compare two engines on the same queries.

    Parameters
    ----------
    a, b : array-like of float, shape (n,)
        A value of each query under either engine, such as :func:`precision_per_query`; 0 or more for ratios.
    statistic : {"ratio", "difference"}
        ``mean(a) / mean(b)``, where 0 / 0 counts as 1, or ``mean(a) - mean(b)``.
    confidence : float
        Of the two-sided percentile interval, in (0, 1): each bound alone holds with ``(1 + confidence) / 2``.
    n_boot : int
        Number of resamples.
    groups : array-like, shape (n,), optional
        What each query belongs to, such as its document. Whole groups are resampled, which is right where
        queries of a group resemble each other; neighbouring states of a language model do.
    seed : int
        Seed of the resampling.

    Returns
    -------
    Interval
        ``(estimate, low, high)``.

    Raises
    ------
    ValueError
        If lengths differ, there are fewer than two queries or groups, a value is not finite, or a parameter
        is out of range.

    Examples
    --------
    >>> from lss_rs.metrics import paired_bootstrap
    >>> paired_bootstrap([1.0, 0.0, 1.0, 1.0] * 50, [1.0, 1.0, 1.0, 1.0] * 50).estimate
    0.75
    """
    values = [np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)]
    for arg, value in zip("ab", values, strict=True):
        if value.ndim != 1 or len(value) < 2 or len(value) != len(values[0]):
            expected = "of shape (n,), n >= 2, the same for a and b"
            raise ValueError(message(arg, expected, f"shape {value.shape}"))
        if not np.isfinite(value).all() or (statistic == "ratio" and (value < 0).any()):
            sign = " and not negative" if statistic == "ratio" else ""
            raise ValueError(message(arg, f"finite{sign}", "other values"))
    if statistic not in ("ratio", "difference"):
        raise ValueError(message("statistic", "'ratio' or 'difference'", repr(statistic)))
    if not 0 < confidence < 1:
        raise ValueError(message("confidence", "between 0 and 1", confidence))
    as_count(n_boot, "n_boot")

    # Each unit that is drawn is (sum of a, sum of b, queries). Equal units are interchangeable, so drawing
    # with replacement is one multinomial draw over the distinct ones: few for P@k, whatever n is.
    units = np.stack([*values, np.ones(len(values[0]))], axis=1)
    if groups is not None:
        of = np.asarray(groups)
        if of.shape != values[0].shape:
            raise ValueError(message("groups", f"of shape {values[0].shape}", f"shape {of.shape}"))
        names, of = np.unique(of, return_inverse=True)
        if len(names) < 2:
            raise ValueError(message("groups", "at least two different groups", len(names)))
        units = np.stack([np.bincount(of, column, len(names)) for column in units.T], axis=1)
    n = len(units)
    distinct, counts = np.unique(units, axis=0, return_counts=True)
    rng = np.random.default_rng(seed)
    chunk = max(1, 4_000_000 // len(distinct))
    sums = np.concatenate(
        [
            rng.multinomial(n, counts / n, size=min(chunk, n_boot - lo)) @ distinct
            for lo in range(0, n_boot, chunk)
        ]
    )
    tail = (1 - confidence) / 2
    resampled = _statistic(sums, statistic)
    # bounds are order statistics, the outer ones: nothing to interpolate between infinities
    return Interval(
        float(_statistic(units.sum(axis=0)[None], statistic)[0]),
        float(np.quantile(resampled, tail, method="lower")),
        float(np.quantile(resampled, 1 - tail, method="higher")),
    )


def _statistic(sums: NDArray[np.float64], statistic: str) -> NDArray[np.float64]:
    a, b, n = sums.T
    if statistic == "difference":
        return np.asarray((a - b) / n)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((a == 0) & (b == 0), 1.0, a / b)

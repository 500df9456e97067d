"""How sure one can be of a mean, or of what two engines differ by: the percentile bootstrap (Efron, 1979)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from lss_rs._arrays import as_count, message

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray


class Interval(NamedTuple):
    """An estimate and the bounds it lies between with the confidence asked for."""

    estimate: float
    low: float
    high: float


def bootstrap(
    values: ArrayLike,
    *,
    confidence: float = 0.95,
    n_boot: int = 10_000,
    groups: ArrayLike | None = None,
    seed: int = 0,
) -> Interval:
    """Mean over queries, and how far chance may have moved it.

    Parameters
    ----------
    values : array-like of float, shape (n,)
        A value of each query, such as :func:`precision_per_query`.
    confidence : float
        Of the two-sided percentile interval, in (0, 1): each bound alone holds with ``(1 + confidence) / 2``.
    n_boot : int
        Number of resamples.
    groups : array-like, shape (n,), optional
        What each query belongs to; whole groups are resampled, as in :func:`paired_bootstrap`.
    seed : int
        Seed of the resampling.

    Returns
    -------
    Interval
        ``(estimate, low, high)``.

    Raises
    ------
    ValueError
        If there are fewer than two queries or groups, a value is not finite, or a parameter is out of range.

    Examples
    --------
    >>> from lss_rs.metrics import bootstrap
    >>> estimate, low, high = bootstrap([1.0, 0.0, 1.0, 1.0] * 50)
    >>> low < estimate == 0.75 < high
    True
    """
    columns = _columns({"values": values}, signed=True)
    return _interval(columns, _mean, confidence, n_boot, groups, seed)


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
    if statistic not in ("ratio", "difference"):
        raise ValueError(message("statistic", "'ratio' or 'difference'", repr(statistic)))
    columns = _columns({"a": a, "b": b}, signed=statistic == "difference")
    of_sums = _ratio if statistic == "ratio" else _difference
    return _interval(columns, of_sums, confidence, n_boot, groups, seed)


def _columns(named: dict[str, ArrayLike], *, signed: bool) -> list[NDArray[np.float64]]:
    """Check one value a query under each name; ``signed`` allows negative ones."""
    columns = [np.asarray(value, dtype=np.float64) for value in named.values()]
    same = f", the same for {' and '.join(named)}" if len(named) > 1 else ""
    sign = "" if signed else " and not negative"
    for arg, column in zip(named, columns, strict=True):
        if column.ndim != 1 or len(column) < 2 or len(column) != len(columns[0]):
            raise ValueError(message(arg, f"of shape (n,), n >= 2{same}", f"shape {column.shape}"))
        if not np.isfinite(column).all() or not (signed or (column >= 0).all()):
            raise ValueError(message(arg, f"finite{sign}", "other values"))
    return columns


def _interval(
    columns: list[NDArray[np.float64]],
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    confidence: float,
    n_boot: int,
    groups: ArrayLike | None,
    seed: int,
) -> Interval:
    """Percentile interval of what ``statistic`` makes of rows (sum of each column, queries)."""
    if not 0 < confidence < 1:
        raise ValueError(message("confidence", "between 0 and 1", confidence))
    as_count(n_boot, "n_boot")

    # Each unit that is drawn is a row of such sums. Equal units are interchangeable, so drawing with
    # replacement is one multinomial draw over the distinct ones: few for P@k, whatever n is.
    units = np.stack([*columns, np.ones(len(columns[0]))], axis=1)
    if groups is not None:
        of = np.asarray(groups)
        if of.shape != columns[0].shape:
            raise ValueError(message("groups", f"of shape {columns[0].shape}", f"shape {of.shape}"))
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
    resampled = statistic(sums)
    # bounds are order statistics, the outer ones: nothing to interpolate between infinities
    return Interval(
        float(statistic(units.sum(axis=0)[None])[0]),
        float(np.quantile(resampled, tail, method="lower")),
        float(np.quantile(resampled, 1 - tail, method="higher")),
    )


def _mean(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    values, n = sums.T
    return np.asarray(values / n)


def _difference(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    a, b, n = sums.T
    return np.asarray((a - b) / n)


def _ratio(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    a, b, _ = sums.T
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((a == 0) & (b == 0), 1.0, a / b)

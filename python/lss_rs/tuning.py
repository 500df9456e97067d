"""Tuning: the cheapest operating point that is as good as the full layer, found by measuring.

An operating point says how much a search does: buckets, entries, neighbours, rows rescored. Each of them buys
quality with time, and how much depends on the data, so points are tried on queries that the index was not
filled from, until the cheapest is found that keeps the target.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from functools import cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from lss_rs._arrays import QueryRows, as_count, as_labels, check_number, message
from lss_rs._intervals import Interval, paired_bootstrap
from lss_rs.config import PROBES_AN_ENTRY, FirstRead, ListPoint, OperatingPoint
from lss_rs.learn.progress import Progress
from lss_rs.learn.trust import learn_list_trust, learn_trust
from lss_rs.metrics import precision_per_query

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import ArrayLike, NDArray

    from lss_rs._arrays import Labels
    from lss_rs.index import Index
    from lss_rs.learn.trust import Compared, Read

__all__ = ["Trial", "TuneReport", "tune"]

_ENTRIES = tuple(2**i for i in range(5, 15))
_NEIGHBORS = (5, 10, 20, 50, 100, 200, 400)
_RESCORE = (16, 32, 64, 128, 256, 512)

_LEAST, _MOST = 1000, 12_288
"""Training queries that are enough to hold some out, and the most held out."""

_RESAMPLES = 2000

_INSURANCE = 0.1
"""What ``insurance`` is unless it is said."""

_SHARES = 200
"""Parts of all queries that the share of those that go on is counted in."""

_LOSSES = (1, 2, 4)
"""Times what may be lost at all, what tables may lose that go on where they are not trusted."""

_TRUSTED, _WIDER, _JUDGED, _CONFIRMED = 6, 4, 4096, 3
"""Points that trust is learned at, at most, and times as many rows rescored where it is once more; queries
that it is learned from; points to be confirmed."""

_LISTED, _LIST_RESCORE = (128, 256, 512, 1024, 2048, 3072, 4096, 6144), (16, 32, 64, 96, 160)
"""Labels read of a list, on average, beside as many as there are, and rows rescored."""

_FIRSTS, _LEAST_FIRST = 2, 4
"""Plans of lists, the cheapest, that are tried with less read at first, and the least part that is."""

_GLANCE = 1024
"""Queries that are enough to see that a point is far from good."""

_TIMED, _BLOCK, _ROUNDS, _SECONDS = 200, 4096, 5, 0.05
"""Queries timed one by one, queries of a batch, rounds in which all points take turns, and the most that one
point takes of a round."""


class Trial(NamedTuple):
    """An operating point and what it was found to be worth.

    Attributes
    ----------
    point : OperatingPoint
    quality : dict of int to Interval
        P@k as a share of the full layer's, for each k.
    candidates : float
        Labels looked at by a query, on average.
    us : float
        Microseconds a query, by the objective; NaN where quality alone decided.
    n : int
        Queries that quality is of.
    """

    point: OperatingPoint
    quality: dict[int, Interval]
    candidates: float
    us: float
    n: int


class TuneReport(NamedTuple):
    """What tuning found.

    Attributes
    ----------
    best : OperatingPoint
        The quickest way found to keep the target, of which some time is for queries of another kind; exact
        search where none does, or where it is the quickest.
    feasible : bool
        Whether one does besides exact search.
    full : Trial
        Exact search.
    trials : list of Trial
        All that was timed, the quickest first. What lost too much at a glance is known by few queries.
    target : float
        Share of the full layer's P@k to be kept.
    n : int
        Queries that decided: all that ``best`` is known by.
    """

    best: OperatingPoint
    feasible: bool
    full: Trial
    trials: list[Trial]
    target: float
    n: int

    @property
    def frontier(self) -> list[Trial]:
        """Trials that no quicker one is as good as, the quickest first."""
        return _frontier(self.trials)

    def to_json(self) -> dict[str, Any]:
        """Return a dict that ``json.dumps`` takes."""
        return {
            "best": _in_json(self.best),
            "feasible": self.feasible,
            "target": self.target,
            "queries": self.n,
            "trials": [_row(trial) for trial in (*self.trials, self.full)],
        }

    def to_frame(self) -> Any:
        """Return the trials as a ``pandas.DataFrame``, a row each, the full layer last: ``lss-rs[plot]``."""
        import pandas as pd

        return pd.DataFrame([_row(trial) for trial in (*self.trials, self.full)])

    def plot(self, ax: Any = None) -> Any:
        """Draw quality against time, the target as a line; return the axes. Needs ``lss-rs[plot]``."""
        if ax is None:
            from matplotlib import pyplot as plt

            ax = plt.figure().add_subplot()
        for k in self.full.quality:
            us = [trial.us for trial in self.frontier]
            shares = [trial.quality[k] for trial in self.frontier]
            ax.plot(us, [share.estimate for share in shares], marker="o", label=f"P@{k} / full")
            ax.fill_between(us, [share.low for share in shares], [share.high for share in shares], alpha=0.2)
        ax.axhline(self.target, linestyle=":", label=f"target {self.target}")
        ax.axvline(self.full.us, linestyle="--", label="full layer")
        ax.set(xscale="log", xlabel="microseconds a query", ylabel="share of the full layer's")
        ax.legend()
        return ax

    def __str__(self) -> str:
        rows = [_row(trial) for trial in (*self.frontier, self.full)]
        rows = [{name: _shown(value) for name, value in row.items()} for row in rows]
        widths = {name: max(len(name), *(len(row[name]) for row in rows)) for name in rows[0]}
        lines = ["  ".join(name.rjust(width) for name, width in widths.items())]
        lines += ["  ".join(row[name].rjust(width) for name, width in widths.items()) for row in rows]
        who = f"{self.best} keeps" if self.feasible else "nothing keeps"
        return "\n".join([f"{who} {self.target} of the full layer on {self.n:,} queries", *lines])


def tune(
    index: Index,
    Q: ArrayLike,
    Y: Any = None,
    *,
    ks: Sequence[int] = (1, 5),
    target: float = 0.99,
    confidence: float = 0.95,
    objective: str = "latency",
    effort: str = "adaptive",
    insurance: float = _INSURANCE,
    groups: ArrayLike | None = None,
    num_threads: int | None = None,
    progress: bool = True,
    callback: Callable[[str, int, int], object] | None = None,
) -> TuneReport:
    """Find the quickest operating point that keeps a share of the full layer's precision.

    A point counts as good if, for every k, the lower bound of its P@k divided by the full layer's, from a
    paired bootstrap, is at least the target. Few queries make wide intervals, and so a dearer point: ten
    thousand or more are well spent. The index is not changed: :meth:`lss_rs.Index.apply` does that.

    Parameters
    ----------
    index : Index
        Fitted.
    Q : array-like or CPU tensor of float, shape (n, d)
        Queries that the index was not filled from, or it will look better than it is.
    Y : labels of the n queries, optional
        True labels. Without them the full layer's best k are the truth for P@k.
    ks : sequence of int
        Which P@k must be kept.
    target : float
        Share of the full layer's P@k, in (0, 1].
    confidence : float
        Of the two-sided interval, whose lower bound decides, in (0, 1).
    objective : {"latency", "throughput"}
        What is made small: the mean time of one query alone, or a query's share of the time of a batch of
        all of them.
    effort : {"adaptive", "fixed"}
        What searches are for which the point is: "adaptive" ones go on from the tables where an answer is
        not trusted; "fixed" ones, which stay with the tables, need more of these to keep the target.
    insurance : float
        What queries of another kind than these may cost these: adaptive searches go on more often than these
        need, by as much as takes this share of the time of their first step. At 0, where nothing else is ever
        asked, they go on only as often as keeps the target.
    groups : array-like, shape (n,), optional
        What each query belongs to, such as its document: whole groups are then resampled.
    num_threads : int, optional
        Threads of a batch, for ``objective="throughput"``.
    progress : bool
        Show a progress bar, if tqdm is installed.
    callback : callable, optional
        Called as ``callback("tuning", done, total)``.

    Returns
    -------
    TuneReport
        ``best`` is exact search where nothing else is good enough, and ``feasible`` then False, or where the
        layer is so small that nothing else is as quick.

    Raises
    ------
    NotFittedError
        If the index is not fitted.
    TypeError, ValueError
        As :meth:`lss_rs.Index.search`, and if index is none, there are fewer than two queries or an option is
        out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from lss_rs import Index, tune
    >>> rng = np.random.default_rng(0)
    >>> W = rng.standard_normal((1000, 16), dtype=np.float32)
    >>> Q = rng.standard_normal((3000, 16), dtype=np.float32)
    >>> index = Index.from_weights(W).fit(Q[:2000], k=5, target=None, progress=False)
    >>> report = tune(index, Q[2000:], progress=False)
    >>> index = index.apply(report.best)
    >>> full, found = (index.search(Q[2000:], k=5, exact=exact).labels for exact in (True, False))
    >>> bool((full[:, 0] == found[:, 0]).mean() >= 0.99)
    True
    """
    from lss_rs.index import Index  # which imports this module

    if not isinstance(index, Index):
        raise TypeError(message("index", "an Index", f"a {type(index).__name__}"))
    if objective not in ("latency", "throughput"):
        raise ValueError(message("objective", "'latency' or 'throughput'", repr(objective)))
    if effort not in ("adaptive", "fixed"):
        raise ValueError(message("effort", "'adaptive' or 'fixed'", repr(effort)))
    check_number(insurance, "insurance", "of at least 0", lambda value: 0 <= value < np.inf)
    judge = judge_on(index, Q, Y, ks, target, confidence, groups)
    with Progress(progress, callback) as report:
        adaptive = effort == "adaptive"
        return find_point(judge, report, objective, num_threads, adaptive=adaptive, insurance=insurance)


def judge_on(
    index: Index,
    Q: ArrayLike,
    Y: Any,
    ks: Sequence[int],
    target: float,
    confidence: float = 0.95,
    groups: ArrayLike | None = None,
) -> Judge:
    """Check what a user gave, and make of it what measures points."""
    if not isinstance(ks, Iterable):
        raise TypeError(message("ks", "a sequence of ints >= 1", repr(ks)))
    each_k = {as_count(k, "ks") for k in ks}
    if not each_k:
        raise ValueError(message("ks", "at least one k", "none"))
    if max(each_k) > index.m:
        raise ValueError(message("ks", f"at most {index.m}, for there are no more labels", max(each_k)))
    check_number(target, "target", "above 0 and at most 1", lambda value: 0 < value <= 1)
    check_number(confidence, "confidence", "between 0 and 1", lambda value: 0 < value < 1)
    _ = index.operating_point  # raises where there is none
    queries = QueryRows(Q, index.d)
    if queries.n < 2:
        raise ValueError(message("Q", "at least two queries", queries.n))
    if groups is not None:
        check_groups(groups, queries.n)
    labels = None if Y is None else as_labels(Y, queries.n, index.m)
    return Judge(index, queries.slice(0, queries.n), labels, each_k, target, confidence, groups)


def find_point(
    judge: Judge,
    report: Callable[[str, int, int], object],
    objective: str = "latency",
    num_threads: int | None = None,
    *,
    adaptive: bool = True,
    insurance: float = _INSURANCE,
) -> TuneReport:
    """Try points, time them, and choose the quickest that `judge` lets pass."""
    full = judge.trial(judge.index.operating_point._replace(exact=True))
    timed: list[Trial] = []
    good: list[Trial] = []
    if adaptive and judge.has_trust:
        *timed, full = _time([*_cheaper(judge, report), full], judge, objective, num_threads)
        quicker = _frontier(sorted([trial for trial in timed if trial.us < full.us], key=_us))
        trials = _spread(quicker, _TRUSTED)
        # few rows are enough for most queries, whose searches stop early: room for others costs little
        wider = [trial.point._replace(n_rescore=_WIDER * trial.point.n_rescore) for trial in trials]
        trials += [trial._replace(point=point) for trial, point in zip(trials, wider, strict=True)]
        further = _further(judge, trials, insurance, report, objective, num_threads)
        further += _lists(judge, further, insurance, report, objective, num_threads)
        timed += further
        good = [trial for trial in further if judge.keeps(trial)]
    if not good:
        *alone, full = _time([*_staircase(judge, report), full], judge, objective, num_threads)
        timed = [trial for trial in timed if trial.point not in {other.point for other in alone}] + alone
        good = [trial for trial in alone if judge.keeps(trial)]
    best = min([*good, full], key=_us)
    return TuneReport(best.point, bool(good), full, sorted(timed, key=_us), judge.target, len(judge.Q))


def _us(trial: Trial) -> float:
    return trial.us


def _frontier(trials: list[Trial]) -> list[Trial]:
    """Keep trials, the quickest first, that no quicker one is as good as."""
    kept: list[Trial] = []
    for trial in trials:
        if not kept or _worst(trial) > _worst(kept[-1]):
            kept.append(trial)
    return kept


def _spread(trials: list[Trial], most: int) -> list[Trial]:
    """Keep some, the first and the last among them, evenly."""
    places = np.linspace(0, len(trials) - 1, min(most, len(trials)))
    return [trials[place] for place in places.round().astype(int)]


def _further(
    judge: Judge,
    trials: list[Trial],
    insurance: float,
    report: Callable[[str, int, int], object],
    objective: str,
    num_threads: int | None,
) -> list[Trial]:
    """Let searches go on where an answer is not trusted.

    The cheapest way to keep the target is found, and then they go on as often as insurance pays for. What few
    queries have shown all of them must confirm; until then the next cheapest is tried.
    """
    plans = []
    for done, trial in enumerate(trials):
        report("trust", done, len(trials))
        compared = judge.compare(trial.point)
        scan_trust = judge.scan_trust(compared)
        needed = _least_share(partial(judge.keeps_at, compared, scan_trust))
        if needed is None:
            continue
        wide = trial.point._replace(trust=1.0, scan_trust=scan_trust, judge=compared.judge)
        tables, scan = _time([trial, trial._replace(point=wide)], judge, objective, num_threads)
        extra = max(scan.us - tables.us, 1e-3)
        share = needed + insurance * tables.us / extra
        trust = _quantile(compared.trust, share) if share < 1 else 1.0
        share = float((compared.trust < trust).mean()) if trust < 1 else 1.0
        plans.append((tables.us + share * extra, wide._replace(trust=trust)))
    report("trust", len(trials), len(trials))
    return _time(_confirmed(judge, plans, _CONFIRMED), judge, objective, num_threads)


def _confirmed(judge: Judge, plans: list[tuple[float, OperatingPoint]], most: int) -> list[Trial]:
    """Try points by all queries, what seems quickest first, until one keeps the target."""
    tried: list[Trial] = []
    for _, point in sorted(plans, key=lambda plan: plan[0])[:most]:
        tried.append(judge.trial(point))
        if judge.keeps(tried[-1]):
            break
    return tried


def _lists(
    judge: Judge,
    trials: list[Trial],
    insurance: float,
    report: Callable[[str, int, int], object],
    objective: str,
    num_threads: int | None,
) -> list[Trial]:
    """Have the lists of regions read before the quickest good one of these points is searched with.

    The quickest way to keep the target is found as by :func:`_further`, and confirmed as there.
    """
    good = [trial for trial in trials if judge.keeps(trial)]
    most = judge.index.params["n_listed"]
    if not good or not most:
        return []
    after = min(good, key=_us)
    labels, scans = judge.answers(after.point)
    both = [after._replace(point=after.point._replace(trust=trust)) for trust in (0.0, 1.0)]
    tables, scan = _time(both, judge, objective, num_threads)
    then = np.where(scans, scan.us, tables.us)  # who is not trusted in one way is seldom in another
    known: dict[tuple[int, int], _Listed] = {}
    sizes = [n for n in _LISTED if n < most] + [most]
    grid = [(n, max(r, judge.k)) for n in sizes for r in _LIST_RESCORE]
    for done, (n, r) in enumerate(grid):
        report("lists", done, len(grid))
        read = judge.read_lists(n, r)
        alone = after.point._replace(list=ListPoint(n, r, 0.0, read.judge))
        (whole,) = _time([after._replace(point=alone)], judge, objective, num_threads)
        share, further = 1.0, 0.0
        needed = _least_share(partial(judge.keeps_read, read, labels))
        if needed is not None:
            of_one = max(float(then[read.trust <= np.quantile(read.trust, needed)].mean()), 1e-3)
            share = min(needed + insurance * whole.us / of_one, 1.0)
            further = float(np.where(read.trust < _quantile(read.trust, share), then, 0.0).mean())
        known[n, r] = _Listed(read, whole.us, share, further)
    report("lists", len(grid), len(grid))
    plans = []
    by_cost = sorted((at for at, of in known.items() if of.share < 1), key=lambda at: known[at].cost)
    for n, r in by_cost:
        of = known[n, r]
        at = ListPoint(n, r, _quantile(of.read.trust, of.share), of.read.judge)
        plans.append((of.cost, after.point._replace(list=at)))
    for n, r in by_cost[:_FIRSTS]:
        plans += [(us, after.point._replace(list=at)) for us, at in _in_parts(judge, n, r, known, labels)]
    return _time(_confirmed(judge, plans, 2 * _CONFIRMED), judge, objective, num_threads)


class _Listed(NamedTuple):
    """What lists read so far are worth, and take; what the share takes more that goes on, if below 1."""

    read: Read
    us: float
    share: float
    further: float

    @property
    def cost(self) -> float:
        return self.us + self.further


def _in_parts(
    judge: Judge, n: int, r: int, known: dict[tuple[int, int], _Listed], then: NDArray[np.int64]
) -> list[tuple[float, ListPoint]]:
    """Plan to read lists, which are known as a whole, on only where their beginning is not trusted.

    As many queries go on from them as from the whole; what these are answered then is given.
    """
    whole = known[n, r]
    plans = []
    for part in _LISTED:
        if not max(r, judge.k, n // _LEAST_FIRST - 1) < part < n:
            continue
        begun = known[part, r]
        read = judge.read_lists(n, r, part)
        trust = _quantile(read.trust, whole.share)
        trusted = read.trust >= trust
        answers = np.where(trusted[:, None], read.labels, then)
        needed = _least_share(partial(judge.keeps_read, begun.read, answers))
        if needed is None:
            continue
        # who is to go on from the whole has to be doubted at its beginning
        share = max(needed, float((~trusted).mean()))
        if share < 1:
            first = FirstRead(part, _quantile(begun.read.trust, share), begun.read.judge)
            cost = begun.us + share * max(whole.us - begun.us, 0.0) + whole.further
            plans.append((cost, ListPoint(n, r, trust, read.judge, first)))
    return plans


def check_groups(groups: ArrayLike, n: int) -> None:
    """Refuse others than one a query."""
    if np.shape(groups) != (n,):
        raise ValueError(message("groups", f"of shape ({n},)", f"shape {np.shape(groups)}"))


def held_out_from(n: int, groups: ArrayLike | None) -> int:
    """Return where those of n training queries begin that are for tuning alone: n where all are few."""
    if groups is not None:
        of = np.asarray(groups)
        starts = np.flatnonzero(of[1:] != of[:-1]) + 1
        if len(starts) + 1 > len(np.unique(of)):
            raise ValueError(message("groups", "such that queries of a group follow each other", "pieces"))
    if n < _LEAST:
        return n
    cut = n - min(n // 10, _MOST)
    if groups is None:
        return cut
    before = starts[starts <= cut]
    return int(before[-1] if len(before) else starts[0] if len(starts) else n)


class _Asked(NamedTuple):
    """Queries, their true labels and the full layer's precision by k, and what they belong to."""

    Q: NDArray[np.float32]
    truth: dict[int, Any]
    full: dict[int, NDArray[np.float64]]
    groups: NDArray[Any] | None


class Judge:
    """Measures points against the full layer on the same queries."""

    def __init__(
        self,
        index: Index,
        Q: NDArray[np.float32],
        labels: Labels | None,
        ks: set[int],
        target: float,
        confidence: float = 0.95,
        groups: ArrayLike | None = None,
    ) -> None:
        self.Q, self.target, self.k = Q, target, max(ks)
        self.index, self._ks, self._confidence = index, sorted(ks), confidence
        self._groups = None if groups is None or len(np.unique(groups)) < 2 else np.asarray(groups)
        full = index.search(Q, self.k, exact=True).labels
        self._all = self._asked(full, labels, 1)
        self._few = self._asked(full, labels, -(-len(Q) // _GLANCE))
        step = -(-len(Q) // _JUDGED)
        self._judged, self._best = self._asked(full, labels, step), full[::step]

    def _asked(self, full: NDArray[np.int64], labels: Labels | None, step: int) -> _Asked:
        """Prepare every ``step``-th query once for all points."""
        Q, best = np.ascontiguousarray(self.Q[::step]), full[::step]
        truth: dict[int, Any]
        if labels is None:
            truth = {k: best[:, :k] for k in self._ks}
        else:
            own = np.split(labels.indices, labels.indptr[1:-1])[::step]
            truth = dict.fromkeys(self._ks, as_labels([ids.tolist() for ids in own], len(Q)))
        precision = {k: precision_per_query(best, truth[k], k) for k in self._ks}
        return _Asked(Q, truth, precision, None if self._groups is None else self._groups[::step])

    def at(self, point: OperatingPoint) -> Index:
        """Return the index at another point, sharing its memory."""
        return self.index._at(point)

    def trial(self, point: OperatingPoint) -> Trial:
        """Measure the quality of a point: by few queries where they tell that it is not good, else by all."""
        trial = self.glance(point)
        if any(share.high < self.target for share in trial.quality.values()):
            return trial
        return self._measure(point, self._all)

    def glance(self, point: OperatingPoint) -> Trial:
        """Measure the quality of a point by few queries."""
        return self._measure(point, self._few)

    @property
    def has_trust(self) -> bool:
        """Whether answers can be judged, and searches can go on."""
        params = self.index.params
        return bool(params["fill"] == "queries" and params["sketch_bytes"])

    def compare(self, point: OperatingPoint) -> Compared:
        """Learn what answers at a point are to be trusted."""
        return learn_trust(self.at(point)._core, self._judged.Q, self._best, self.k)

    def read_lists(self, n_listed: int, n_rescore: int, n_first: int | None = None) -> Read:
        """Learn what answers from lists, which can be read in two parts, are to be trusted."""
        of = self._judged.Q, self._best, self.k, n_listed, n_rescore, n_first
        return learn_list_trust(self.index._core, *of)

    def answers(self, point: OperatingPoint) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Answer the queries that trust is learned from: labels, and which of them go on to a scan."""
        found = self.at(point).search(self._judged.Q, self.k, stats=True)
        stats = cast("dict[str, NDArray[np.int64]]", found.stats)
        return found.labels, stats["step"] > 1

    def keeps_read(self, read: Read, then: NDArray[np.int64], share: float) -> bool:
        """Whether the target is kept where this share, the least trusted, is answered otherwise."""
        if share == 1:
            return self._keeps(then)
        trusted = read.trust >= _quantile(read.trust, share)
        return self._keeps(np.where(trusted[:, None], read.labels, then))

    def scan_trust(self, compared: Compared) -> float:
        """Find the least trust with which a scan's answer keeps the target."""

        def least(share: float) -> float:
            return _quantile(compared.scan_trust, share) if share else 0.0

        def keeps(share: float) -> bool:
            trusted = compared.scan_trust >= least(share)
            return self._keeps(np.where(trusted[:, None], compared.by_scan, self._best))

        share = _least_share(keeps)
        return 1.0 if share is None else least(share)

    def keeps_at(self, compared: Compared, scan_trust: float, share: float) -> bool:
        """Whether the target is kept where this share of the queries, the least trusted, goes on."""
        trusted = compared.trust >= _quantile(compared.trust, share)
        enough = compared.scan_trust >= scan_trust
        further = np.where(enough[:, None], compared.by_scan, self._best)
        return self._keeps(np.where(trusted[:, None], compared.by_tables, further) if share < 1 else further)

    def _keeps(self, labels: NDArray[np.int64]) -> bool:
        return all(share.low >= self.target for share in self._quality(labels, self._judged).values())

    def _quality(self, labels: NDArray[np.int64], asked: _Asked) -> dict[int, Interval]:
        return {
            k: paired_bootstrap(
                precision_per_query(labels, asked.truth[k], k),
                asked.full[k],
                confidence=self._confidence,
                n_boot=_RESAMPLES,
                groups=asked.groups,
            )
            for k in self._ks
        }

    def _measure(self, point: OperatingPoint, asked: _Asked) -> Trial:
        found = self.at(point).search(asked.Q, self.k, stats=True)
        quality = self._quality(found.labels, asked)
        stats = cast("dict[str, NDArray[np.int64]]", found.stats)
        return Trial(point, quality, float(stats["candidates"].mean()), np.nan, len(asked.Q))

    def keeps(self, trial: Trial) -> bool:
        """Whether a point keeps the target for every k."""
        return all(share.low >= self.target for share in trial.quality.values())


def _staircase(judge: Judge, report: Callable[[str, int, int], object]) -> list[Trial]:
    """Try points along the border of what keeps the target; the last ones tried are on it."""
    trials: dict[OperatingPoint, Trial] = {}

    def keeps(point: OperatingPoint) -> bool:
        if point not in trials:
            trials[point] = judge.trial(point)
        return judge.keeps(trials[point])

    for _ in _border(judge, keeps, report):
        pass
    return list(trials.values())


def _cheaper(judge: Judge, report: Callable[[str, int, int], object]) -> list[Trial]:
    """Find points on the border of what seems to keep the target, and of what keeps less, by glances."""
    glance = cache(judge.glance)

    def keeps(aim: float, point: OperatingPoint) -> bool:
        return _worst(glance(point)) >= aim

    found: dict[OperatingPoint, None] = {}
    for done, loss in enumerate(_LOSSES):
        aim = 1 - (1 - judge.target) * loss
        found |= dict.fromkeys(_border(judge, partial(keeps, aim), lambda *_: None))
        report("glancing", done + 1, len(_LOSSES))
    return [glance(point) for point in found]


def _border(
    judge: Judge, keeps: Callable[[OperatingPoint], bool], report: Callable[[str, int, int], object]
) -> Iterator[OperatingPoint]:
    """Yield, for each number of neighbours, the point that does least of those that keep enough.

    Quality rises with each parameter, so for each number of neighbours the fewest entries that will do are
    found by bisection, and for these the fewest rows rescored; more neighbours never need more entries.
    """
    params = judge.index.params
    entries = [n for n in _ENTRIES if n < params["n_entries"]] or [1]
    neighbors = (1,) if params["fill"] == "rows" else _NEIGHBORS
    # never fewer than answers: the last of them would be what the sketches think
    least = max(params["k"], judge.k)
    rescored = [least, *(r for r in _RESCORE if r > least)] if params["sketch_bytes"] else [least]

    def point(n: int, r: int, e: int, reach: float | None) -> OperatingPoint:
        n_probes = max(1, PROBES_AN_ENTRY * entries[e] // params["n_tables"])
        return OperatingPoint(min(n_probes, 2 ** params["n_bits"]), entries[e], n, rescored[r], reach=reach)

    last = len(rescored) - 1
    for reach in dict.fromkeys((params["reach"], None)):
        if keeps(point(neighbors[-1], last, len(entries) - 1, reach)):
            break
    else:
        # where the most is not enough, nothing is: as well go on from the least
        yield point(neighbors[0], 0, 0, params["reach"])
        return

    def enough_with(n: int, r: int, e: int) -> bool:
        return keeps(point(n, r, e, reach))

    enough = len(entries)
    for done, n in enumerate(neighbors):
        e = _least(enough, partial(enough_with, n, last))
        if e < enough:
            r = _least(last, partial(enough_with, n, e=e))
            enough = e + 1
            yield point(n, r, e, reach)
        report("tuning", done + 1, len(neighbors))


def _least(end: int, good: Callable[[int], bool]) -> int:
    """Find the least of 0..end-1 that is good, where all after it are, or ``end``."""
    low, high = 0, end
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if good(middle) else (middle + 1, high)
    return low


def _least_share(keeps: Callable[[float], bool]) -> float | None:
    """Find the least share of the queries that will do, where more of them do, too; None if all do not."""
    at = _least(_SHARES + 1, lambda at: keeps(at / _SHARES))
    return None if at > _SHARES else at / _SHARES


def _time(trials: list[Trial], judge: Judge, objective: str, num_threads: int | None) -> list[Trial]:
    """Microseconds a query of each: points take turns, so that noise hits all alike."""
    order = np.random.default_rng(0).permutation(len(judge.Q))
    queries = np.ascontiguousarray(judge.Q[order[:_BLOCK]])
    indexes = [judge.at(trial.point) for trial in trials]
    rounds = np.empty((_ROUNDS, len(trials)))
    for turn in rounds:
        for i, index in enumerate(indexes):
            if objective == "latency":
                turn[i] = _mean_us(index, queries[:_TIMED], judge.k)
            else:
                start = time.perf_counter()
                index.search(queries, judge.k, num_threads=num_threads)
                turn[i] = 1e6 * (time.perf_counter() - start) / len(queries)
    return [trial._replace(us=float(us)) for trial, us in zip(trials, np.median(rounds, axis=0), strict=True)]


def _mean_us(index: Index, queries: NDArray[np.float32], k: int) -> float:
    times, end = [], time.perf_counter() + _SECONDS
    for query in queries:
        start = time.perf_counter()
        index.search(query, k)
        now = time.perf_counter()
        times.append(now - start)
        if now > end:
            break
    return 1e6 * float(np.mean(times))


def _in_json(point: OperatingPoint) -> dict[str, Any]:
    """Say a point in what ``json.dumps`` takes."""

    def named(part: Any) -> Any:
        if isinstance(part, tuple) and hasattr(part, "_asdict"):
            return {name: named(value) for name, value in part._asdict().items()}
        return list(part) if isinstance(part, tuple) else part

    shown: dict[str, Any] = named(point)
    return shown


def _quantile(trust: NDArray[np.float64], share: float) -> float:
    """Trust that this share of the queries lacks, in single precision and below 1, which no query reaches."""
    return float(min(np.float32(np.quantile(trust, share)), np.nextafter(np.float32(1), np.float32(0))))


def _worst(trial: Trial) -> float:
    return min(share.estimate for share in trial.quality.values())


def _row(trial: Trial) -> dict[str, Any]:
    shares = {f"P@{k} / full": share for k, share in trial.quality.items()}
    row: dict[str, Any] = trial.point._asdict()
    listed = row.pop("list") or ListPoint(0, 0, np.nan, ())
    del row["judge"]
    row |= {"n_listed": listed.n_listed, "list_n_rescore": listed.n_rescore, "list_trust": listed.trust}
    first = listed.first or FirstRead(listed.n_listed, listed.trust, ())
    row |= {"n_first": first.n_listed, "first_trust": first.trust}
    for name, share in shares.items():
        row |= {name: share.estimate, f"{name}, low": share.low}
    return row | {"candidates": trial.candidates, "us": trial.us, "n": trial.n}


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)

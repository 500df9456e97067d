"""The index: an output layer that answers without reading all of itself.

Longer than 500 lines, most of them documentation: it is one class, the whole of what users call.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import numpy as np

from lss_rs._arrays import (
    BLOCK,
    QueryRows,
    as_bias,
    as_cost,
    as_ids,
    as_k,
    as_labels,
    as_out,
    as_queries,
    as_threads,
    as_weights,
    check_bool,
    check_number,
    is_memory_of,
    message,
)
from lss_rs._core import Builder, FormatError, NotFittedError, Searchable, ShortResultError
from lss_rs._core import Index as Core
from lss_rs.config import POINT_NUMBERS, FirstRead, ListPoint, LSSConfig, OperatingPoint
from lss_rs.learn import learn, relearn
from lss_rs.learn.centers import Targets
from lss_rs.learn.progress import Progress
from lss_rs.learn.regions import lay_out, learn_regions
from lss_rs.learn.stream import Stream
from lss_rs.learn.teacher import taught_slices
from lss_rs.tuning import Judge, check_groups, find_point, held_out_from, judge_on

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import ArrayLike, NDArray
    from typing_extensions import Self

    from lss_rs._arrays import Labels
    from lss_rs.learn.iul import Round

_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
_SAFETENSORS = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}

_WORK = "probes", "entries", "neighbors", "candidates", "rescored", "step"
_STREAMED = 131_072
"""Queries of an iterator that a fit begins with, where no capacity says otherwise."""
_OBSERVED = 4096
"""Queries of a stream that are observed at a time."""
_EVERY_K = sys.maxsize
"""No k is too large to be answered well."""


class _Pair(NamedTuple):
    labels: NDArray[np.int64]
    scores: NDArray[np.float32]


class SearchResult(_Pair):
    """Answers, best first: a pair ``(labels, scores)``.

    Attributes
    ----------
    labels : ndarray of int64, shape (n, k), or (k,) for a single query
        Label ids; -1 where there are fewer than k answers.
    scores : ndarray of float32, of the same shape
        Raw logits, bias included, descending; -inf where there are fewer than k answers.
    stats : dict or None
        With ``stats=True``, what each query cost: "probes" (buckets visited), "entries" (ids read from
        them, repeats included), "neighbors" (training queries whose labels were taken), "candidates"
        (distinct labels), "rescored" (rows read in full) and "step" (how far it went: 0 the list of its
        region, 1 tables, 2 a scan by sketches, 3 all rows), each an int64 array (n,), or a number for
        a single query; and "trust" (float32), as far as the index can tell: after tables, the probability
        that the candidates hold the full layer's best labels; after a list or a scan, that its labels are the
        full layer's; NaN where none has been learned.
    """

    stats: dict[str, Any] | None = None


class Observed(NamedTuple):
    """What observing came to.

    Attributes
    ----------
    added : int
        Queries that became training queries.
    exemplars : int
        Training queries that the index keeps.
    """

    added: int
    exemplars: int


class Index(Searchable):
    """A wide output layer, ``logits = W @ q + b``, that finds its best labels by looking at few rows.

    Make one with :meth:`from_weights` or :meth:`from_linear`, teach it with :meth:`fit` on queries like those
    it will serve, ask with :meth:`search`. It owns a copy of its rows. Searches may run from many threads at
    once, also during a fit: each sees the state before or after.

    Examples
    --------
    >>> import numpy as np
    >>> from lss_rs import Index
    >>> rng = np.random.default_rng(0)
    >>> W = rng.standard_normal((1000, 16), dtype=np.float32)
    >>> Q = rng.standard_normal((2000, 16), dtype=np.float32)
    >>> index = Index.from_weights(W).fit(Q, k=5, progress=False)
    >>> labels, scores = index.search(Q[:3], k=5)
    >>> labels.shape, labels.dtype, scores.dtype
    ((3, 5), dtype('int64'), dtype('float32'))
    >>> bool(labels[0, 0] == (W @ Q[0]).argmax())
    True
    """

    __slots__ = "__weakref__", "_config", "_fitted_k", "_history", "_lock", "_resolved"

    _lock: threading.Lock
    _config: LSSConfig
    _resolved: LSSConfig | None
    _fitted_k: int
    _history: tuple[Round, ...]

    def __new__(cls, *_args: object, **_options: object) -> Self:
        """Refuse: class methods make one."""
        raise TypeError("An Index is made by from_weights, from_linear, load or from_bytes.")

    @classmethod
    def _wrap(cls, core: Core, config: LSSConfig, resolved: LSSConfig | None, fitted_k: int) -> Self:
        self = Searchable.__new__(cls, core, SearchResult)
        self._lock = threading.Lock()
        self._config = config
        self._settle(resolved, fitted_k)
        return self

    def _settle(self, resolved: LSSConfig | None, fitted_k: int, history: tuple[Round, ...] = ()) -> None:
        """Take note of a fit that the core has installed."""
        self._resolved = resolved
        self._fitted_k = fitted_k
        self._history = history
        trusted = [_EVERY_K]
        if resolved is not None:
            if resolved.fill == "queries":
                trusted.append(fitted_k)
            if resolved.sketch_bytes and resolved.n_rescore is not None:
                trusted.append(resolved.n_rescore)
        self._trusted_k = min(trusted)

    # Making one

    @classmethod
    def from_weights(
        cls,
        W: ArrayLike,
        b: ArrayLike | None = None,
        config: LSSConfig | None = None,
        *,
        copy: bool = True,
    ) -> Self:
        """Put an output layer into a new index, yet unfitted.

        Parameters
        ----------
        W : array-like or CPU tensor of float, shape (m, d)
            One row a label. float32, float16 and bfloat16 are stored as they are, wider floats as float32,
            unless ``config.dtype`` says otherwise.
        b : array-like or CPU tensor of float, shape (m,), optional
            Biases.
        config : LSSConfig, optional
        copy : bool
            False: use W's own memory, which is kept alive, in place of a copy. Nobody may write to it while
            the index, or one made of it, lives; answers would be wrong, without a warning. Files and pickles
            hold the rows all the same.

        Raises
        ------
        TypeError
            If W or b is not of floats or not on the CPU.
        ValueError
            If shapes do not fit, a value is NaN or infinite, ``config.always_include`` names a label that
            is not, or, with ``copy=False``, rows have to be cast or do not lie one after the other.
        """
        config = LSSConfig() if config is None else config
        if not isinstance(config, LSSConfig):
            raise TypeError(message("config", "an LSSConfig or None", f"a {type(config).__name__}"))
        check_bool(copy, "copy")
        weights, dtype = as_weights(W, config.dtype)
        if not copy and not is_memory_of(weights, W):
            raise ValueError(message("copy", f"True, for W is to be contiguous rows of {dtype}", False))
        as_ids(config.always_include, len(weights))
        core = Core.from_weights(weights, as_bias(b, len(weights)), dtype, copy)  # type: ignore[arg-type]
        return cls._wrap(core, config, None, 0)

    @classmethod
    def from_linear(cls, linear: Any, config: LSSConfig | None = None, *, copy: bool = True) -> Self:
        """Take a ``torch.nn.Linear`` on any device, or anything that has its ``weight`` and ``bias``.

        Parameters
        ----------
        linear : module with ``weight`` (m, d) and ``bias`` (m,) or None
        config : LSSConfig, optional
        copy : bool
            As :meth:`from_weights`; False shares the memory of a weight on the CPU, which may not be trained
            further.

        Raises
        ------
        TypeError, ValueError
            As :meth:`from_weights`, and TypeError if an attribute is missing.
        """
        missing = [name for name in ("weight", "bias") if not hasattr(linear, name)]
        if missing:
            got = f"a {type(linear).__name__} without {' and '.join(missing)}"
            raise TypeError(message("linear", "a layer with weight and bias, as torch.nn.Linear", got))
        parts = (linear.weight, linear.bias)
        weight, bias = (
            part.cpu() if hasattr(part, "cpu") and not getattr(part, "is_meta", False) else part
            for part in parts
        )
        return cls.from_weights(weight, bias, config, copy=copy)

    def fit(
        self,
        Q: ArrayLike,
        Y: Any = None,
        *,
        k: int = 10,
        target: float | None = 0.99,
        groups: ArrayLike | None = None,
        progress: bool = True,
        callback: Callable[[str, int, int], object] | None = None,
    ) -> Self:
        """Learn from training queries, anew.

        The new state replaces the old at the very end: a fit that fails or is interrupted leaves the index as
        it was.

        Parameters
        ----------
        Q : array-like or CPU tensor of float, shape (n, d), or an iterator
            Queries like those that will be searched for: the more, the better, and no fewer than ``2 * d``.
            Read a slice at a time, so that a memory map need not fit into memory. An iterator gives blocks
            (n, d), or pairs of such a block and its labels, and may go on for long. Of more queries than the
            configuration's ``capacity`` (without one, of an iterator's, 131,072), those beyond are learned
            from as by :meth:`observe`: only those that the index does not answer well enough are kept.
        Y : labels of the n queries, optional
            Their true labels: ids (n,) or (n, t), lists of ids, or a scipy sparse matrix (n, m). Without it
            the full layer's best ``teacher_top`` labels alone are what a query should find; with it, both.
            ``method="iul"`` learns planes from true labels, and without them from the full layer's k best.
        k : int
            Answers that searches will ask for.
        target : float, optional
            Share of the full layer's P@1 and P@5 that searches keep: the last tenth of the queries, at most
            12,288, is not learned from, and :func:`lss_rs.tune` finds on it the quickest operating point
            whose lower bounds reach the target, or falls back to exact search. None tunes nothing; neither
            does a configuration that gives an operating point of its own, nor a fit from fewer than 1,000
            queries.
        groups : array-like, shape (n,), optional
            What each query belongs to, such as its document, the queries of a group in a row: none is both
            learned from and tuned on, and intervals resample whole groups.
        progress : bool
            Show progress bars, if tqdm is installed.
        callback : callable, optional
            Called as ``callback(stage, done, total)`` after each slice of work, where stage is one of
            "queries", "rows", "iul", "refine", "planes", "teacher", "centers", "regions", "build",
            "glancing", "trust", "lists", "tuning" and "observing".

        Returns
        -------
        Index
            The index itself.

        Raises
        ------
        ImportError
            If ``method="iul"`` finds no torch.
        TypeError
            If Q is not of floats, Y not of ints, either not on the CPU, or callback no function.
        ValueError
            If shapes or lengths do not fit, a value is NaN or infinite, a label is not in 0..m-1, there is
            nothing to learn from, ``n_bits`` asks for more planes than there are directions, or groups come
            in pieces.

        Warns
        -----
        UserWarning
            If there are fewer than ``2 * d`` queries to take a covariance of, Y is given but has no use, or
            ``method="iul"`` has found no pairs to learn from, or no operating point keeps the target.
        """
        k, config = as_k(k), self._config
        stream: Iterable[tuple[NDArray[np.float32], Labels | None]] = ()
        if isinstance(Q, Iterator):
            if Y is not None or groups is not None:
                raise ValueError("An iterator 'Q' brings its labels itself, as pairs (Q, Y), and no groups.")
            stream = Stream(Q, self.d, self.m)
            Q, Y = stream.take(config.capacity or _STREAMED)
        queries = QueryRows(Q, self.d)
        if groups is not None:
            check_groups(groups, queries.n)
        labels = None if Y is None else as_labels(Y, queries.n, self.m)
        if config.capacity is not None and queries.n > config.capacity:
            whole, whole_labels, base = queries, labels, config.capacity
            queries, labels = whole.first(base), None if labels is None else labels.slice(0, base)
            groups = None if groups is None else np.asarray(groups)[:base]
            stream = chain(_further(whole, whole_labels, base), stream)
        if target is not None:
            check_number(target, "target", "above 0 and at most 1, or None", lambda value: 0 < value <= 1)
        n = queries.n if target is None or config._picks_a_point else held_out_from(queries.n, groups)
        by_rows = config.fill == "rows"
        if by_rows and labels is not None and config.method != "iul" and n == queries.n:
            warnings.warn("'Y' has no use with fill='rows'.", UserWarning, stacklevel=2)
        if not by_rows and labels is None and config.teacher_top == 0:
            raise ValueError(
                message("Y", "given with teacher_top=0, which learns from true labels only", None)
            )
        if labels is not None and config.teacher_top == 0 and len(labels.indices) == 0:
            raise ValueError(message("Y", "at least one label with teacher_top=0", "none"))
        if not by_rows and queries.n == 0:
            raise ValueError(message("Q", "at least one query with fill='queries'", 0))
        core = self._core.bare()
        taught_from, taught = queries.first(n), None if labels is None else labels.slice(0, n)
        if by_rows:
            stream = ()  # nothing more to learn: rows are in the buckets
        with Progress(progress, callback) as report:
            learned = learn(core, taught_from, taught, config, k, report)
            resolved = learned.config
            always = as_ids(resolved.always_include, self.m)
            builder = Builder(
                core,
                learned.planes,
                learned.coordinates,
                fill=resolved.fill,
                always_include=always,
                sketch_bytes=resolved.sketch_bytes,
                point=resolved._point,
            )
            if not by_rows:
                top, done = cast("int", resolved.teacher_top), 0
                targets = None if learned.regional is None else Targets(n, without=always)
                for block, needed in taught_slices(core.teacher, taught_from, taught, top):
                    builder.add(block, needed.indptr, needed.indices)
                    if targets is not None:
                        targets.add(needed, top)
                    done += len(block)
                    report("teacher", done, n)
                if learned.regional is not None and targets is not None:
                    regions = learn_regions(
                        builder,
                        learned.regional,
                        taught_from,
                        targets,
                        self.m,
                        config.n_regions,
                        config.seed,
                        report,
                    )
                    lay_out(builder, core, regions, taught_from, targets, report)
            report("build", 0, 1)
            builder.finish()
            report("build", 1, 1)
            fitted = self._wrap(core, config, resolved, k)
            if target is not None and n < queries.n:
                held = None if labels is None else labels.slice(n, queries.n)
                units = None if groups is None else np.asarray(groups)[n:]
                ks = {1, min(k, 5, self.m)}
                judge = Judge(fitted, queries.slice(n, queries.n), held, ks, target, groups=units)
                fitted._tune(judge, report)
            fitted._observe(stream, report)
        with self._lock:  # whoever saves meanwhile sees tables and configuration of one fit
            self._core.adopt(core)
            self._settle(fitted._resolved, k, learned.history)
        return self

    # Asking

    def _search(
        self,
        x: ArrayLike,
        k: int = 10,
        *,
        num_threads: int | None = None,
        exact: bool = False,
        on_short: Literal["pad", "exact", "raise"] = "pad",
        effort: Literal["adaptive", "fixed"] = "adaptive",
        max_cost: float | None = None,
        observe: bool = False,
        out: tuple[NDArray[np.int64], NDArray[np.float32]] | None = None,
        stats: bool = False,
    ) -> SearchResult:
        """Search for what :meth:`search` has not answered at once."""
        k = as_k(k)
        threads = as_threads(num_threads)
        if on_short not in ("pad", "exact", "raise"):
            raise ValueError(message("on_short", "'pad', 'exact' or 'raise'", repr(on_short)))
        if effort not in ("adaptive", "fixed"):
            raise ValueError(message("effort", "'adaptive' or 'fixed'", repr(effort)))
        for arg, flag in (("exact", exact), ("observe", observe), ("stats", stats)):
            check_bool(flag, arg)
        most = as_cost(max_cost)
        if exact and max_cost is not None:
            raise ValueError(message("max_cost", "None with exact=True, which scores every row", max_cost))
        queries, single = as_queries(x, self.d)
        n = len(queries)
        # Answers go to arrays of our own first: out may overlap x, or be in use by another thread.
        labels, scores = np.empty((n, k), np.int64), np.empty((n, k), np.float32)
        places = None if out is None else as_out(out, n, k, single)
        if on_short == "raise" and k > self.m:
            raise ShortResultError(f"There are {self.m} rows, fewer than k={k}.")
        how = bool(exact), on_short, effort == "adaptive", most, threads
        work, trust = self._core.search(queries, k, labels, scores, *how)
        if observe:
            self.observe(queries)
        if not exact and k > self._trusted_k:
            trusted, self._trusted_k = self._trusted_k, _EVERY_K
            warnings.warn(
                f"k={k} is more than the {trusted} answers that this index was fitted for (fit's k, "
                f"n_rescore): later ranks will miss labels. Fit with k={k}.",
                UserWarning,
                stacklevel=2,
            )
        if out is not None and places is not None:
            places[0][...], places[1][...] = labels, scores
            result = SearchResult(*out)
        else:
            result = SearchResult(labels[0], scores[0]) if single else SearchResult(labels, scores)
        if stats:
            columns = work[0] if single else np.ascontiguousarray(work.T)
            result.stats = dict(zip(_WORK, columns, strict=True))
            result.stats["trust"] = trust[0] if single else trust
        return result

    _search.__qualname__ = "Index.search"  # as errors name it

    def candidates(
        self, x: ArrayLike, *, num_threads: int | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """List the labels that a search would look at, for those who score them elsewhere.

        Parameters
        ----------
        x : array-like or CPU tensor of float, shape (n, d) or (d,)
        num_threads : int, optional

        Returns
        -------
        indptr : ndarray of int64, shape (n + 1,)
        indices : ndarray of int64
            Candidates of query i are ``indices[indptr[i]:indptr[i + 1]]``, rising, each once.

        Raises
        ------
        NotFittedError
            If the index is not fitted.
        TypeError, ValueError
            As :meth:`search`.
        """
        threads = as_threads(num_threads)
        return self._core.candidates(as_queries(x, self.d)[0], threads)

    def observe(self, Q: ArrayLike, Y: Any = None) -> Observed:
        """Learn from queries that are served, a few or many at a time.

        A query whose answer by tables is not trusted becomes one of the training queries, with its true
        labels and the best of a scan of all rows; so does one that lacks a true label. Of all it is
        counted which training queries they were near to: where there is no room for more than
        ``capacity``, those of least use go, and use fades. Coordinates and planes stay as they are until
        :meth:`refresh`. An index without trust, as a fit with ``target=None`` leaves it, keeps every query.

        Searches that run meanwhile see the state before or after, and do not wait. The same calls in the same
        order leave the same index.

        Parameters
        ----------
        Q : array-like or CPU tensor of float, shape (n, d) or (d,)
            Queries.
        Y : labels of the n queries, optional
            Their true labels, as for :meth:`fit`.

        Returns
        -------
        Observed
            How many became training queries, and how many of these there are.

        Raises
        ------
        NotFittedError
            If the index is not fitted.
        TypeError, ValueError
            As :meth:`fit`, and if the index has no sketches or its buckets hold rows.
        """
        queries, _ = as_queries(Q, self.d, "Q")
        labels = None if Y is None else as_labels(Y, len(queries), self.m)
        lists = None if labels is None else (labels.indptr, labels.indices)
        while True:
            fits, params = self._core.fits, self.params
            _check_observes(params, labels)
            told = self._core.observe(queries, lists, params["teacher_top"], params["capacity"], fits)
            if told is not None:  # else fitted anew meanwhile, perhaps with other parameters
                return Observed(*told)

    def refresh(
        self,
        Q: ArrayLike | None = None,
        Y: Any = None,
        *,
        ks: Sequence[int] | None = None,
        target: float = 0.99,
        confidence: float = 0.95,
        groups: ArrayLike | None = None,
        progress: bool = True,
        callback: Callable[[str, int, int], object] | None = None,
    ) -> Self:
        """Learn planes anew from the training queries kept by now, and what a search does from today's.

        Given queries, the operating point is found on them, as :func:`lss_rs.tune` does: how much of the
        tables a search reads, what trust is made of, and how much of it is asked for. Then they are observed.
        Coordinates, and what the rows' sketches are in, stay those of :meth:`fit`; a new fit changes them,
        too.

        Parameters
        ----------
        Q : array-like or CPU tensor of float, shape (n, d), optional
            The latest queries, a thousand or more, none of them observed yet, or the index will look better
            than it is. Without them the operating point stays.
        Y : labels of the n queries, optional
            Their true labels, as for :meth:`fit`. Without them the full layer's best are the truth.
        ks : sequence of int, optional
            Which P@k must be kept. As by :meth:`fit` where it does not say: P@1, and P@5 or that of fit's k.
        target : float
            Share of the full layer's P@k that searches keep.
        confidence : float
            Of the two-sided interval, whose lower bound decides: of few queries little is certain.
        groups : array-like, shape (n,), optional
            What each query belongs to, such as its document: whole groups are resampled.
        progress : bool
            Show progress bars, if tqdm is installed.
        callback : callable, optional
            Called as ``callback(stage, done, total)``, as by :meth:`fit`.

        Returns
        -------
        Index
            The index itself. Until all is found, searches see it as it was.

        Raises
        ------
        NotFittedError
            If the index is not fitted.
        TypeError
            As :meth:`observe`.
        ValueError
            As :func:`lss_rs.tune` and :meth:`observe`, and if the index's buckets hold rows, its planes are
            not those of method "refine" or "aligned", it was fitted anew meanwhile, or there are Y or groups
            without Q.

        Warns
        -----
        UserWarning
            If no operating point keeps the target.
        """
        resolved = self._resolved
        if resolved is None:
            raise NotFittedError("The index is not fitted: call fit first.")
        if resolved.fill == "rows" or resolved.method not in ("refine", "aligned"):
            raise ValueError("An index refreshes with fill='queries' and method='refine' or 'aligned'.")
        if Q is None and (Y is not None or groups is not None):
            raise ValueError(message("Q", "given with 'Y' or 'groups'", None))
        judge = None
        if Q is not None:
            _check_observes(self.params, Y)
            Y = None if Y is None else as_labels(Y, None, self.m)
            ks = (1, min(self._fitted_k, 5, self.m)) if ks is None else ks
            judge = judge_on(self, Q, Y, ks, target, confidence, groups)
        with Progress(progress, callback) as report:
            fits = self._core.fits
            planes = relearn(self._core, resolved, report)
            point = None
            if judge is not None:
                judge.index = twin = self._at(self.operating_point)
                twin._core.rehash(planes, twin._core.fits)
                twin._tune(judge, report)
                point = twin.operating_point
            with self._lock:
                self._core.rehash(planes, fits)
                if point is not None:
                    self._set(point)
            if judge is not None:
                self._observe(((judge.Q, Y),), report)
        return self

    def _observe(
        self,
        stream: Iterable[tuple[NDArray[np.float32], Labels | None]],
        report: Callable[[str, int, int], object],
    ) -> None:
        """Observe queries and their labels, not too many beside the same snapshot."""
        observed = 0
        for further, known in stream:
            for lo in range(0, len(further), _OBSERVED):
                hi = min(lo + _OBSERVED, len(further))
                self.observe(further[lo:hi], None if known is None else known.slice(lo, hi))
            observed += len(further)
            report("observing", observed, observed)

    def _tune(self, judge: Judge, report: Callable[[str, int, int], object]) -> None:
        """Search from now on with the quickest point that `judge` lets pass."""
        found = find_point(judge, report)
        if not found.feasible:
            warnings.warn(
                f"No operating point keeps {judge.target} of the full layer's P@k on {len(judge.Q)} queries "
                "held out: searches will be exact. More queries, or a lower target, help.",
                UserWarning,
                stacklevel=3,
            )
        self.apply(found.best)

    # How much a search does

    @property
    def operating_point(self) -> OperatingPoint:
        """How much a search does; :meth:`apply` changes it.

        Raises
        ------
        NotFittedError
            If the index is not fitted.
        """
        params: dict[str, Any] = self._core.params
        point = OperatingPoint(*(params[name] for name in OperatingPoint._fields))
        if point.list is None:
            return point
        at = ListPoint(*point.list)
        return point._replace(list=at._replace(first=None if at.first is None else FirstRead(*at.first)))

    def apply(self, point: OperatingPoint) -> Self:
        """Search with another operating point from now on.

        Parameters
        ----------
        point : OperatingPoint
            Such as the best that :func:`lss_rs.tune` found.

        Returns
        -------
        Index
            The index itself.

        Raises
        ------
        NotFittedError
            If the index is not fitted.
        TypeError, ValueError
            If it is no operating point, or a number is out of range.
        """
        if not isinstance(point, OperatingPoint):
            raise TypeError(message("point", "an OperatingPoint", f"a {type(point).__name__}"))
        if not isinstance(point.list, ListPoint | None):
            raise TypeError(message("list", "a ListPoint or None", f"a {type(point.list).__name__}"))
        if point.list is not None and not isinstance(point.list.first, FirstRead | None):
            got = f"a {type(point.list.first).__name__}"
            raise TypeError(message("list.first", "a FirstRead or None", got))
        with self._lock:
            self._set(point)
        return self

    def _set(self, point: OperatingPoint) -> None:
        resolved = None if self._resolved is None else self._resolved._at(point)
        try:
            self._core.set_operating_point(point)
        except OverflowError as error:
            raise ValueError(message("point", "of numbers in range", point)) from error
        if resolved is not None:
            self._settle(resolved, self._fitted_k, self._history)

    def _at(self, point: OperatingPoint) -> Self:
        """Return a twin with another operating point, which shares all memory."""
        core = self._core.at(point)
        resolved = None if self._resolved is None else self._resolved._at(point)
        return self._wrap(core, self._config, resolved, self._fitted_k)

    # Keeping one

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index, rows included, to a safetensors file.

        A file that is there is replaced at the very end.

        Parameters
        ----------
        path : str or path-like

        Raises
        ------
        OSError
            If the file cannot be written.
        """
        with self._lock:
            self._core.save(os.fsdecode(path), self._extra())

    @classmethod
    def load(cls, path: str | os.PathLike[str], mmap: bool = False, prefault: bool = False) -> Self:
        """Read an index from a file.

        Parameters
        ----------
        path : str or path-like
        mmap : bool
            Map the file instead of reading it: processes share its memory, and pages come when first used.
            The file must not change meanwhile.
        prefault : bool
            With ``mmap``, touch every page now instead of during the first searches.

        Raises
        ------
        FormatError
            If it is no index, is damaged, or was written by a later version.
        TypeError, ValueError
            If mmap or prefault is not a bool, or prefault is asked for without mmap.
        OSError
            If the file cannot be read.
        """
        check_bool(mmap, "mmap")
        check_bool(prefault, "prefault")
        if prefault and not mmap:
            raise ValueError(message("prefault", "False without mmap=True", True))
        return cls._restore(*Core.load(os.fsdecode(path), bool(mmap), bool(prefault)))

    def to_bytes(self) -> bytes:
        """Return what :meth:`save` would write."""
        with self._lock:
            return self._core.to_bytes(self._extra())

    @classmethod
    def from_bytes(cls, data: bytes | bytearray | memoryview) -> Self:
        """Read an index from what :meth:`to_bytes` returned.

        Parameters
        ----------
        data : bytes-like

        Raises
        ------
        FormatError
            As :meth:`load`.
        """
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(message("data", "bytes", f"a {type(data).__name__}"))
        return cls._restore(*Core.from_bytes(bytes(data)))

    @staticmethod
    def metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
        """Read what a file says of itself, without its tensors.

        Parameters
        ----------
        path : str or path-like

        Returns
        -------
        dict
            "format_version", "m", "d", "dtype", "config" as given, "params" as resolved (None: not fitted).

        Raises
        ------
        FormatError, OSError
            As :meth:`load`.
        """
        said = Core.metadata(os.fsdecode(path))
        config, resolved, k = _read_extra(said["extra"])
        return {
            "format_version": int(said["format_version"]),
            "m": int(said["m"]),
            "d": int(said["d"]),
            "dtype": _SAFETENSORS[said["dtype"]],
            "config": config.to_json(),
            "params": None if resolved is None else {**resolved.to_json(), "k": k},
        }

    def _extra(self) -> str:
        resolved = None if self._resolved is None else self._resolved.to_json()
        return json.dumps({"config": self._config.to_json(), "resolved": resolved, "k": self._fitted_k})

    @classmethod
    def _restore(cls, core: Core, extra: str) -> Self:
        config, resolved, k = _read_extra(extra)
        if core.fitted != (resolved is not None):
            raise FormatError("Not a readable lss-rs index: tables and configuration do not belong together.")
        return cls._wrap(core, config, resolved, k)

    def __reduce__(self) -> tuple[Callable[[bytes], Self], tuple[bytes]]:
        return type(self).from_bytes, (self.to_bytes(),)

    # Knowing one

    @property
    def m(self) -> int:
        """Number of rows: labels."""
        return self._core.m

    @property
    def d(self) -> int:
        """Dimension of a row, and of a query."""
        return self._core.d

    @property
    def dtype(self) -> str:
        """What the rows are stored in: "float32", "float16" or "bfloat16"."""
        return self._core.dtype

    @property
    def config(self) -> LSSConfig:
        """The configuration as given."""
        return self._config

    @property
    def fitted(self) -> bool:
        """Whether there are tables to search."""
        return self._core.fitted

    @property
    def params(self) -> dict[str, Any]:
        """The resolved configuration, operating point and sizes; empty before ``fit``."""
        if self._resolved is None:
            return {}
        return {**self._resolved.to_json(), "k": self._fitted_k, **self._core.params}

    @property
    def history(self) -> tuple[Round, ...]:
        """What each round of ``method="iul"`` met; empty for other methods, and not kept in files."""
        return self._history

    @property
    def nbytes(self) -> int:
        """Bytes of memory of the rows and everything learned."""
        if self.fitted:
            return sum(self.params["nbytes"].values())
        return self.m * (self.d * _BYTES[self.dtype] + 4)

    def __repr__(self) -> str:
        head = f"Index(m={self.m}, d={self.d}, dtype={self.dtype!r}"
        if not self.fitted:
            return f"{head}, not fitted)"
        params = self.params
        # Where all rows are scored, the other numbers of the point say nothing.
        of_point = ("exact",) if params["exact"] else POINT_NUMBERS
        names = ("n_bits", "n_tables", *of_point, "sketch_bytes", "fill")
        point = ", ".join(f"{name}={params[name]!r}" for name in names)
        return f"{head}, {point}, {self.nbytes / 1e6:.1f} MB)"


def _check_observes(params: dict[str, Any], labels: Any) -> None:
    """Refuse to learn from queries, with labels or without, where an index with these parameters cannot."""
    if not params:
        raise NotFittedError("The index is not fitted: call fit first.")
    if params["fill"] == "rows" or not params["sketch_bytes"]:
        raise ValueError("An index observes with fill='queries' and sketches; this one was fitted without.")
    if labels is None and params["teacher_top"] == 0:
        raise ValueError(message("Y", "given with teacher_top=0, which learns from true labels only", None))


def _further(
    queries: QueryRows, labels: Labels | None, first: int
) -> Iterator[tuple[NDArray[np.float32], Labels | None]]:
    """Yield the queries from ``first`` on, a block at a time."""
    for lo in range(first, queries.n, BLOCK):
        hi = min(lo + BLOCK, queries.n)
        yield queries.slice(lo, hi), None if labels is None else labels.slice(lo, hi)


def _read_extra(extra: str) -> tuple[LSSConfig, LSSConfig | None, int]:
    """Read what ``Index._extra`` wrote: configuration as given, as resolved, and fit's k."""
    try:
        known = json.loads(extra)
        resolved = None if known["resolved"] is None else LSSConfig.from_json(known["resolved"])
        return LSSConfig.from_json(known["config"]), resolved, as_k(known["k"]) if resolved else 0
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(f"Not a readable lss-rs index: its configuration is damaged ({error}).") from error

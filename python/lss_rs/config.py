"""What an index is built from: :class:`LSSConfig`, :class:`IULOptions`, their limits and defaults."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Final, Literal, NamedTuple

import numpy as np

from lss_rs._arrays import DTYPES, is_int

_RANGES: Final = {
    "n_bits": (1, 24),
    "n_tables": (1, 256),
    "n_probes": (1, 65_536),
    "max_entries": (1, 2**31),
    "n_neighbors": (1, 2**31 - 1),
    "n_rescore": (1, 2**31 - 1),
    "teacher_top": (0, 65_536),
    "n_regions": (0, 65_536),
    "capacity": (1, 2**31),
    "seed": (0, 2**63 - 1),
}
_CHOICES: Final[dict[str, tuple[str | int | None, ...]]] = {
    "method": (None, "refine", "aligned", "simhash", "iul"),
    "sketch_bytes": (0, 64, 128),
    "fill": ("queries", "rows"),
    "dtype": (None, *DTYPES),
}
_IUL_INTS: Final = {
    "rounds": (1, 2**31 - 1),
    "batch": (1, 65_536),
    "pairs": (1, 2**31 - 1),
}
_IUL_LARGEST: Final = {"rate": 1e3, "beta": 1e3, "t1_quantile": 1.0, "t2_quantile": 1.0}

# The defaults, all of them: what LSSConfig.resolve puts in the place of None. docs/design.md has the
# measurements behind them.
_MIN_BITS, _MAX_BITS = 4, 20
_LOG2_QUERIES_PER_BUCKET = 2.5
_LOG2_ROWS_PER_BUCKET = 6
_TABLES_QUERIES, _TABLES_ROWS = 1, 8
PROBES_AN_ENTRY, _PROBES_ROWS = 2, 8
_ENTRIES_QUERIES, _ENTRIES_ROWS = 1024, 2**31
_NEIGHBORS = 50
_REACH = 0.375
_RESCORE = 64
_TEACHER_TOP = 200
_CAPACITY = 2
SPARE_COORDINATES = 2
"""Planes of the closed form lie in the leading n_bits coordinates and this many more: others carry less logit
variance than a bit is worth."""


class FirstRead(NamedTuple):
    """How much of a list is read before it is asked whether that is enough.

    Attributes
    ----------
    n_listed : int
        Labels read at first, on average, as below. Where these are no more than are rescored, all are.
    trust : float
        In 0..1. Where the answer is trusted less, the list is read on. 0: never, 1: always.
    judge : tuple of float
        How trust is made from what a search shows of itself by then, as tuning has learned it.
    """

    n_listed: int
    trust: float
    judge: tuple[float, ...]


class ListPoint(NamedTuple):
    """How much a search reads of the list of its query's region, and when that is enough.

    Attributes
    ----------
    n_listed : int
        Labels read, on average over the training queries: those that the region's queries needed most. Of
        every list down to those that as few needed, so that some are read further than others, but each for a
        quarter of this at least; and each query reads up to eight times as many, or that part of them, as it
        is foreseen to need.
    n_rescore : int
        The most of these, or of those read at first, that are rescored, on average likewise: those whose
        columns promise most, all by their rows in bytes, and in full precision those that may be among the
        best.
    trust : float
        In 0..1. Where the answer is trusted less, the tables are searched. 0: never, 1: always.
    judge : tuple of float
        How trust is made from what a search shows of itself, as tuning has learned it.
    first : FirstRead, optional
        What is read at first; None: all.
    """

    n_listed: int
    n_rescore: int
    trust: float
    judge: tuple[float, ...]
    first: FirstRead | None = None


class OperatingPoint(NamedTuple):
    """How much a search does, and so what it costs and finds.

    Attributes
    ----------
    n_probes, max_entries, n_neighbors, n_rescore : int
        As in :class:`LSSConfig`.
    exact : bool
        Find the best of all rows: where nothing less is good enough.
    reach : float, optional
        With ``fill="queries"`` and planes of "refine" or "aligned", no further bucket is visited once nothing
        in it is likely to be among the nearest: once the cost of the next, the sum of the squared margins of
        the bits that are flipped, is more than ``reach`` times the squared distance to the farthest of the
        ``n_neighbors`` nearest training queries met by then. This is asked after 64 entries, and then after
        every quarter more. None: no matter how far.
    n_scan : int
        Rows scored in full precision after a scan of all rows, at most.
    trust : float
        In 0..1. Candidates that are trusted less are not enough: all rows are scanned. 0: never,
        1: always.
    scan_trust : float
        In 0..1. An answer by a scan that is trusted less is not enough: every row is scored. 0: never,
        1: always.
    judge : tuple of float, optional
        How trust is made from what a search shows of itself, as tuning has learned it; None: there is no
        trust, and a search stays with the tables.
    list : ListPoint, optional
        What is read of the list of a query's region before the tables are searched; None: nothing. It needs a
        judge and, in the index, regions.
    """

    n_probes: int
    max_entries: int
    n_neighbors: int
    n_rescore: int
    exact: bool = False
    reach: float | None = _REACH
    n_scan: int = 256
    trust: float = 0.0
    scan_trust: float = 0.0
    judge: tuple[float, ...] | None = None
    list: ListPoint | None = None


POINT_NUMBERS: Final = OperatingPoint._fields[:4]
"""What of an operating point a configuration can give."""


@dataclass(frozen=True, kw_only=True, slots=True)
class IULOptions:
    """How ``method="iul"`` learns its planes; it needs torch.

    Parameters
    ----------
    rounds : int
        Steps. Before each, the tables are filled anew and pairs are looked for.
    batch : int
        Queries of a round, drawn at random. Of each and all m rows, inner product and masks are held: some 12
        bytes.
    pairs : int
        Pairs of either kind that a round learns from, at most.
    rate : float
        Adam's step. Planes begin with coordinates of unit deviation.
    beta : float
        Bits are relaxed to ``tanh(beta * plane . x)``, which is flat, and learns slowly, where beta times the
        norm of queries is far above 1.
    positives : {"labels", "rows"}
        What a query should have found: "labels", its own, or "rows", any row. In either case only where the
        inner product is above t1.
    t1_quantile, t2_quantile : float
        In (0, 1]: t1 and t2 are these quantiles of a query's inner products with all rows, averaged over the
        batch, t1 at least 0. Rows found that are no label of a query should part from it below t2.
    device : str
        Where torch computes, such as "cuda" or "cuda:1".
    """

    rounds: int = 50
    batch: int = 512
    pairs: int = 4096
    rate: float = 0.01
    beta: float = 1.0
    positives: Literal["labels", "rows"] = "labels"
    t1_quantile: float = 0.999
    t2_quantile: float = 0.5
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name, limits in _IUL_INTS.items():
            _take_int(self, name, *limits)
        for name, most in _IUL_LARGEST.items():
            _take_positive(self, name, most)
        _check_choice(self, "positives", ("labels", "rows"))
        if not isinstance(self.device, str) or not self.device:
            raise _refuse(self, "device", "the name of a torch device", self.device)


@dataclass(frozen=True, kw_only=True, slots=True)
class LSSConfig:
    """How an index is learned and searched; None is derived from the sizes at ``fit``.

    Parameters
    ----------
    method : {None, "refine", "aligned", "simhash", "iul"}
        Where the planes come from. "aligned": random directions in logit-aligned coordinates, a closed form
        of the training queries and the rows. "refine": these, and then learned so that a query meets the
        training queries nearest to it first. "simhash": random planes over ``[q, 1]`` and ``[w, b]``. "iul":
        these, and then learned as in the paper; it needs torch. None: "refine" with ``fill="queries"``,
        "aligned" with "rows".
    n_bits : int, optional
        Bits of a code, 1..24: a table has ``2**n_bits`` buckets.
    n_tables : int, optional
        Number of tables, 1..256.
    n_probes : int, optional
        Buckets visited at most, a table, on average: the cheapest perturbations of the query's codes come
        first, whatever their table. ``2**n_bits`` means every bucket, as far as the ``reach`` of an
        :class:`OperatingPoint` goes. By default, with ``fill="queries"``, two for an entry of
        ``max_entries``: where training queries are thin, most buckets are empty, and a search must end.
    max_entries : int, optional
        No further bucket is visited once so many entries have been met.
    n_neighbors : int, optional
        With ``fill="queries"``, how many of the training queries met in the buckets, the nearest, give their
        labels as candidates.
    n_rescore : int, optional
        Candidates that keep their place after the sketches and are scored exactly, at most: fewer are where
        estimates say that no other is among the best. Without sketches (``sketch_bytes=0``) every candidate
        is.
    sketch_bytes : {0, 64, 128}
        Bytes of a row's sketch; 0 keeps none. With ``fill="queries"`` a row has up to 64 bytes more, for
        scans.
    fill : {"queries", "rows"}
        What a bucket holds. "queries": the training queries that hash into it, each with the labels that it
        needed. "rows": the rows that hash into it, as in the paper.
    teacher_top : int, optional
        With ``fill="queries"``, how many of the full layer's best labels a training query brings, besides
        its true labels. 0: true labels only.
    n_regions : int
        With ``fill="queries"`` and sketches, how many regions training queries are put together in; one for
        500 to 2,000 queries does well: the more there are, the fewer labels each needs, and the fewer queries
        tell which. Each lists the labels that its queries needed, and searches read that
        first where tuning finds it quicker. It suits traffic that stays as it was: of queries of another kind
        fewer are noticed. An index is larger by a byte for each weight of the layer, by which exact searches
        are several times quicker, and by 40 for each label that a region lists, 8,192 at most. 0: none.
    capacity : int, optional
        With ``fill="queries"``, how many training queries an index keeps at most, those that it observes
        while it serves among them. Default: twice as many as it is fitted from.
    dtype : {None, "float32", "float16", "bfloat16"}
        What the rows are stored in; None keeps the dtype of ``W``.
    always_include : sequence of int
        Labels that are candidates of every query.
    seed : int
        Seed of the random directions, and of all else that is drawn. Where a fit finds its operating point by
        timing (``target``), two fits of the same data can end at different points.
    iul : IULOptions, optional
        With ``method="iul"``, how it learns.

    Notes
    -----
    ``LSSConfig(method="iul", fill="rows", sketch_bytes=0)`` is the paper's index [1]_, and with "simhash" the
    random one that it starts from and compares with. The planes of "iul" are learned over tables of rows, and
    take their number and bits from there; what the index's tables hold is for ``fill`` to say.

    References
    ----------
    .. [1] Z. Liu et al., "Climbing the WOL: Training for Cheaper Inference", https://arxiv.org/abs/2007.01230

    Examples
    --------
    >>> from lss_rs import LSSConfig
    >>> config = LSSConfig(n_tables=8)
    >>> config.n_bits is None
    True
    >>> config.resolve(m=50_000, d=576, n=92_700, k=10).n_bits
    14
    """

    method: Literal["refine", "aligned", "simhash", "iul"] | None = None
    n_bits: int | None = None
    n_tables: int | None = None
    n_probes: int | None = None
    max_entries: int | None = None
    n_neighbors: int | None = None
    n_rescore: int | None = None
    sketch_bytes: Literal[0, 64, 128] = 128
    fill: Literal["queries", "rows"] = "queries"
    teacher_top: int | None = None
    n_regions: int = 0
    capacity: int | None = None
    dtype: Literal["float32", "float16", "bfloat16"] | None = None
    always_include: tuple[int, ...] = ()
    seed: int = 0
    iul: IULOptions | None = None

    def __post_init__(self) -> None:
        for name, limits in _RANGES.items():
            _take_int(self, name, *limits, optional=name not in ("seed", "n_regions"))
        for name, allowed in _CHOICES.items():
            _check_choice(self, name, allowed)
        try:
            ids = tuple(self.always_include)
        except TypeError:
            raise _refuse(self, "always_include", "a sequence of label ids", self.always_include) from None
        if not all(is_int(label) and label >= 0 for label in ids):
            expected = "a sequence of label ids, ints of 0 or more"
            raise _refuse(self, "always_include", expected, self.always_include)
        object.__setattr__(self, "always_include", tuple(int(label) for label in ids))
        if self.fill == "rows":
            if self.teacher_top:
                expected = "None or 0 with fill='rows', which learns no labels"
                raise _refuse(self, "teacher_top", expected, self.teacher_top)
            if self.method == "refine":
                expected = "another with fill='rows', which keeps no queries to be met"
                raise _refuse(self, "method", expected, self.method)
            if self.n_regions:
                expected = "0 with fill='rows', which keeps no queries"
                raise _refuse(self, "n_regions", expected, self.n_regions)
            for name in ("n_neighbors", "capacity"):
                if getattr(self, name) is not None:
                    expected = "None with fill='rows', which keeps no queries"
                    raise _refuse(self, name, expected, getattr(self, name))
        if self.n_regions and not self.sketch_bytes:
            expected = "0 without sketches, which tell the labels of a region apart"
            raise _refuse(self, "n_regions", expected, self.n_regions)
        if not isinstance(self.iul, IULOptions | None):
            raise _refuse(self, "iul", "IULOptions or None", self.iul)
        if self.iul is not None and self.method != "iul":
            raise _refuse(
                self, "iul", f"None with method={self.method!r}, which has no such options", self.iul
            )

    def resolve(self, m: int, d: int, n: int, k: int) -> LSSConfig:
        """Fill what is None from the sizes.

        Parameters
        ----------
        m, d : int
            Rows and their dimension.
        n : int
            Number of training queries.
        k : int
            Answers that searches will ask for.

        Returns
        -------
        LSSConfig
            Nothing in it is None but ``dtype``, which is the index's own affair, ``n_neighbors`` and
            ``capacity`` with ``fill="rows"``, and ``iul`` where it has no use.
        """
        by_rows = self.fill == "rows"
        method = self.method or ("aligned" if by_rows else "refine")
        if by_rows or self.method == "iul":  # which learns from rows that share a bucket with queries
            log2_buckets = math.log2(m) - _LOG2_ROWS_PER_BUCKET
        else:
            log2_buckets = math.log2(max(n, 2)) - _LOG2_QUERIES_PER_BUCKET
        n_bits = min(max(round(log2_buckets), _MIN_BITS), _MAX_BITS)
        if method in ("refine", "aligned"):  # a table's planes are, or begin, orthonormal
            n_bits = min(n_bits, d)
        n_bits = _either(self.n_bits, n_bits)
        n_tables = _TABLES_ROWS if by_rows or self.method == "iul" else _TABLES_QUERIES
        max_entries = _either(self.max_entries, _ENTRIES_ROWS if by_rows else _ENTRIES_QUERIES)
        n_probes = _PROBES_ROWS if by_rows else min(PROBES_AN_ENTRY * max_entries, _RANGES["n_probes"][1])
        return replace(
            self,
            method=method,
            n_bits=n_bits,
            n_tables=_either(self.n_tables, n_tables),
            n_probes=min(_either(self.n_probes, n_probes), 2**n_bits),
            max_entries=max_entries,
            n_neighbors=None if by_rows else _either(self.n_neighbors, _NEIGHBORS),
            n_rescore=_either(self.n_rescore, max(_RESCORE, 2 * k)),
            capacity=None if by_rows else _either(self.capacity, max(_CAPACITY * n, 1)),
            teacher_top=0 if by_rows else min(_either(self.teacher_top, max(_TEACHER_TOP, k)), m),
            iul=self.iul or (IULOptions() if self.method == "iul" else None),
        )

    @property
    def _picks_a_point(self) -> bool:
        """Whether it gives any number of an operating point."""
        return any(getattr(self, name) is not None for name in POINT_NUMBERS)

    @property
    def _point(self) -> OperatingPoint:
        """The operating point of a resolved configuration."""
        numbers: dict[str, Any] = {name: getattr(self, name) or 1 for name in POINT_NUMBERS}  # 1: no use
        return OperatingPoint(**numbers)

    def _at(self, point: OperatingPoint) -> LSSConfig:
        """Replace what `point` says but ``exact``, which no configuration knows."""
        numbers = {name: getattr(point, name) for name in POINT_NUMBERS}
        if self.fill == "rows":
            del numbers["n_neighbors"]
        return replace(self, **numbers)

    def to_json(self) -> dict[str, Any]:
        """Return a dict that ``json.dumps`` takes and :meth:`from_json` turns back."""
        return {**asdict(self), "always_include": list(self.always_include)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LSSConfig:
        """Read what :meth:`to_json` wrote.

        Parameters
        ----------
        data : mapping

        Raises
        ------
        ValueError
            If a name or value is not known.
        """
        known = _known(cls, data)
        if isinstance(iul := known.get("iul"), Mapping):
            known["iul"] = IULOptions(**_known(IULOptions, iul))
        return cls(**known)


def _either(given: int | None, default: int) -> int:
    return default if given is None else given


def _known(cls: type[Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """Refuse names that ``cls`` does not have."""
    unknown = set(data) - {field.name for field in fields(cls)}
    if unknown:
        raise ValueError(f"{cls.__name__} has no parameter {', '.join(map(repr, sorted(unknown)))}.")
    return dict(data)


def _take_int(config: object, name: str, low: int, high: int, *, optional: bool = False) -> None:
    """Keep a plain int."""
    value = getattr(config, name)
    if optional and value is None:
        return
    if not is_int(value) or not low <= value <= high:
        raise _refuse(config, name, f"an int in {low}..{high}{' or None' * optional}", value)
    object.__setattr__(config, name, int(value))


def _take_positive(config: object, name: str, most: float) -> None:
    """Keep a plain float."""
    value = getattr(config, name)
    number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not number or not 0 < value <= most:
        raise _refuse(config, name, f"a number above 0, at most {most:g}", value)
    object.__setattr__(config, name, float(value))


def _check_choice(config: object, name: str, allowed: tuple[str | int | None, ...]) -> None:
    value = getattr(config, name)
    # bool equals int, and an array compares elementwise: the type is part of the choice
    if not any(type(value) is type(choice) and value == choice for choice in allowed):
        raise _refuse(config, name, f"one of {', '.join(map(repr, allowed))}", value)


def _refuse(config: object, name: str, expected: str, value: object) -> ValueError:
    return ValueError(
        f"The '{name}' parameter of {type(config).__name__} must be {expected}. Got {value!r} instead."
    )

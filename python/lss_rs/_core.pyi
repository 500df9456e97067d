"""Typed face of the Rust core. Arrays are coerced and checked by ``lss_rs._arrays`` before they get here."""

from typing import Literal, Self, TypeAlias, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lss_rs.index import SearchResult

__all__ = [
    "FORMAT_VERSION",
    "MOST_SHARE",
    "Builder",
    "Centers",
    "Coordinates",
    "FormatError",
    "Index",
    "NotFittedError",
    "Planes",
    "Searchable",
    "ShortResultError",
    "__version__",
    "active_kernel",
    "cpu_features",
    "exemplar_widths",
    "get_num_threads",
    "region_widths",
    "set_num_threads",
    "sketch_widths",
]
__version__: str
FORMAT_VERSION: int
MOST_SHARE: float  # of what is read of a list on average, the most that a query reads; 1 over it at least

class NotFittedError(ValueError): ...
class ShortResultError(ValueError): ...
class FormatError(ValueError): ...

def set_num_threads(n: int) -> None: ...
def get_num_threads() -> int: ...
def cpu_features() -> dict[str, bool]: ...
def active_kernel() -> str: ...

# n_probes (a table, on average: buckets come in order of cost over all tables), max_entries (no further
# bucket once so many have been met), n_neighbors, n_rescore, exact, reach, n_scan, trust, scan_trust, judge,
# list (n_listed, n_rescore, trust, judge, first (n_listed, trust, judge))
_First: TypeAlias = tuple[int, float, tuple[float, ...]]
_List: TypeAlias = tuple[int, int, float, tuple[float, ...], _First | None]
_Point: TypeAlias = tuple[
    int, int, int, int, bool, float | None, int, float, float, tuple[float, ...] | None, _List | None
]

@final
class Coordinates:
    """Logit-aligned: z(q) = query_map @ q + query_offset, Z_w = row_map @ w + row_offset."""

    def __new__(
        cls,
        query_map: NDArray[np.float32],  # (p, d)
        query_offset: NDArray[np.float32],  # (p,)
        query_mean: NDArray[np.float32],  # (d,)
        query_deviations: NDArray[np.float32],  # (d,)
        row_map: NDArray[np.float32],  # (p, d)
        row_offset: NDArray[np.float32],  # (p,)
        variances: NDArray[np.float32],  # (p,) falling: logit variance a coordinate carries
        base: NDArray[np.float32],  # (m,) w . mu + b
    ) -> Self: ...

@final
class Planes:
    """Hyperplanes of all tables: bit = plane . x > threshold.

    ``space="augmented"``: x = [q, 1] for queries, [w, b] for rows (r = d + 1).
    ``space="aligned"``: x = the leading r aligned coordinates; rows are scaled to norm sqrt(r).
    """

    def __new__(
        cls,
        planes: NDArray[np.float32],  # (L, K, r)
        thresholds: NDArray[np.float32],  # (L, K)
        space: Literal["augmented", "aligned"],
    ) -> Self: ...

def sketch_widths(variances: NDArray[np.float32], n_bytes: int) -> list[int]:
    """Bits a coordinate for each group of 32 leading coordinates, by reverse water-filling."""

def exemplar_widths(variances: NDArray[np.float32]) -> list[int]:
    """Bits a coordinate, as :func:`sketch_widths`, for the sketches of exemplars."""

def region_widths(variances: NDArray[np.float32]) -> list[int]:
    """Bits a coordinate, as :func:`sketch_widths`, for the labels that regions list."""

@final
class Centers:
    """Centers of regions."""

    def __new__(
        cls,
        weights: NDArray[np.float32],  # (r,) what leading coordinates are multiplied by
        centers: NDArray[np.float32],  # (n_regions, r) weighted
    ) -> Self: ...

@final
class Builder:
    """Gathers training queries slice by slice; ``finish`` builds and swaps the result into the index."""

    def __new__(
        cls,
        index: Index,
        planes: Planes,
        coordinates: Coordinates | None,  # needed by space="aligned", fill="queries" and sketch_bytes > 0
        *,
        fill: Literal["queries", "rows"],
        always_include: NDArray[np.int64],
        sketch_bytes: int,  # 0, 64 or 128
        point: _Point,
    ) -> Self: ...
    def add(
        self,
        queries: NDArray[np.float32],  # (n, d)
        indptr: NDArray[np.int64],  # (n + 1,)
        indices: NDArray[np.int64],  # of query i, most needed first: indices[indptr[i]:indptr[i + 1]]
    ) -> None: ...
    def place(
        self,
        centers: Centers,
        queries: NDArray[np.float32],  # (n, d)
    ) -> NDArray[np.uint32]:
        """Region of each query, as a search finds it."""
    def lists(
        self,
        regions: NDArray[np.uint32],  # of each query added; n where it is in none
        n: int,
        most: int,
    ) -> tuple[tuple[NDArray[np.int64], NDArray[np.int64]], NDArray[np.uint32], int]:
        """Labels that the queries of each of n regions needed, those needed most first: CSR (indptr, ids).

        How many of them are read where it is so many 128ths of whole lists on average (n, 129), and how many
        whole lists are on average.
        """
    def lay_out(
        self,
        centers: Centers,
        indptr: NDArray[np.int64],  # (n_regions + 1,)
        ids: NDArray[np.int64],  # as of lists
        ends: NDArray[np.uint32],  # (n_regions, 129)
        whole: int,
        query_maps: NDArray[np.float32],  # (n_regions, l, d) from queries
        query_offsets: NDArray[np.float32],  # (n_regions, l) what is added
        row_maps: NDArray[np.float32],  # (n_regions, l, d)
        means: NDArray[np.float32],  # (n_regions, d) scale * (mean query of the region - that of all)
        variances: NDArray[np.float32],  # (p,) falling: logit variances along the regions' coordinates
    ) -> None:
        """Lay lists out, by coordinates of each region."""
    def known(
        self,
        queries: NDArray[np.float32],  # (n, d)
    ) -> NDArray[np.float32]:
        """Return what a search knows before it reads lists that are laid out, (n, 4 + r).

        The logarithms of the distances to the nearest center, the second nearest and the mean query, and of
        the length of the coordinates in the region; and the r coordinates that centers lie in.
        """
    def set_need(
        self,
        weights: NDArray[np.float32],  # (5 + r,)
    ) -> None:
        """Have queries read exp(weights[0] + weights[1:] . known) times the average."""
    def finish(self) -> None: ...

@final
class Index:
    @staticmethod
    def from_weights(
        weights: NDArray[np.float32] | NDArray[np.uint16],  # (m, d); f16 and bf16 as their bits
        bias: NDArray[np.float32],  # (m,)
        dtype: Literal["float32", "float16", "bfloat16"],
        copy: bool,  # False: use the memory of weights
    ) -> Index: ...
    @property
    def m(self) -> int: ...
    @property
    def d(self) -> int: ...
    @property
    def dtype(self) -> str: ...
    @property
    def fitted(self) -> bool: ...
    @property
    def params(self) -> dict[str, object]:
        """Operating point and sizes of a fitted index.

        space, fill, n_bits, n_tables, what a point holds, n_entries, n_labels (of all exemplars),
        scan_nbytes, sketch_bytes, sketch_widths and nbytes (a dict by part).
        """
    def bare(self) -> Index:
        """Share the rows, not what was fitted."""
    def adopt(self, other: Index) -> None:
        """Take what a fit of the same rows, in ``bare``, has found."""
    def at(self, point: _Point) -> Index:
        """Return a twin with another operating point, which shares all memory."""
    def set_operating_point(self, point: _Point) -> None: ...
    def observe(
        self,
        queries: NDArray[np.float32],  # (n, d)
        lists: tuple[NDArray[np.int64], NDArray[np.int64]] | None,  # indptr (n + 1,), indices: true labels
        t: int,  # best labels of a scan that a new exemplar gets
        capacity: int,  # exemplars at most
        fits: int,  # as they were when the two above were read
    ) -> tuple[int, int] | None:
        """Learn from queries: how many became exemplars, how many there are; None: fitted anew meanwhile."""
    def exemplar_coordinates(self, p: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Leading coordinates of all exemplars, (n, p), by their sketches, and their weights, (p,)."""
    def row_coordinates(self, p: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Leading coordinates of all rows, (m, p), by their sketches, and their base logits, (m,)."""
    def query_map(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Map of queries into coordinates, (p, d), as bytes know it, and what it adds, (p,)."""
    @property
    def fits(self) -> int:
        """How often a fit was installed."""
    def rehash(self, planes: Planes, fits: int) -> None:
        """Hash the exemplars anew, by planes that were learned after so many fits."""
    def compare(
        self,
        queries: NDArray[np.float32],  # (n, d)
        full: NDArray[np.int64],  # (n, k)
    ) -> tuple[
        NDArray[np.int64], NDArray[np.int64], NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]
    ]:
        """Answers by tables and a scan, (n, k), (n, 8) and (n, 2) features, whether candidates held all."""
    def read_lists(
        self,
        queries: NDArray[np.float32],
        k: int,
        n_listed: int,
        n_rescore: int,
        n_first: int | None = None,  # read by itself before the others
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Answers from the lists of regions, (n, k), and features (n, 9)."""
    def teacher(self, queries: NDArray[np.float32], t: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Top-t of the full layer, (n, t) each, by a blocked product that never holds n x m logits."""
    def search(
        self,
        queries: NDArray[np.float32],  # (n, d)
        k: int,
        labels: NDArray[np.int64],  # (n, k), written
        scores: NDArray[np.float32],  # (n, k), written
        exact: bool,
        on_short: Literal["pad", "exact", "raise"],
        adaptive: bool,
        max_cost: float,  # in full rows
        num_threads: int,  # 0: the package setting
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Write the answers; return work (n, 6): probes, entries, ..., rescored, step; and trust (n,)."""
    def candidates(
        self, queries: NDArray[np.float32], num_threads: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """CSR (indptr, indices), ids rising within a query."""
    def profile(
        self, queries: NDArray[np.float32], k: int
    ) -> tuple[list[str], NDArray[np.float64], NDArray[np.float64]]:
        """Stages of a search's first step, seconds of each for a query, (n, stages), and of all, (n,)."""
    def rows(self, first: int, n: int) -> NDArray[np.float32]:
        """Weights of rows first..first + n, (n, d), in single precision."""
    def rows_of(self, labels: NDArray[np.int64]) -> NDArray[np.float32]:
        """Weights of these rows, (n, d), in single precision."""
    @property
    def bias(self) -> NDArray[np.float32]: ...
    def validate(self) -> None: ...
    def save(self, path: str, extra: str) -> None: ...
    @staticmethod
    def load(path: str, mmap: bool, prefault: bool) -> tuple[Index, str]: ...
    def to_bytes(self, extra: str) -> bytes: ...
    @staticmethod
    def from_bytes(data: bytes) -> tuple[Index, str]: ...
    @staticmethod
    def metadata(path: str) -> dict[str, str]:
        """Metadata of the header alone; tensors are not read."""

class Searchable:
    """What ``lss_rs.Index`` is built on: where a search has no options no frame of Python is entered."""

    def __new__(cls, core: Index, result: type[SearchResult]) -> Self: ...
    @property
    def _core(self) -> Index: ...
    @property
    def _trusted_k(self) -> int:
        """The most answers that may be asked for without a warning."""
    @_trusted_k.setter
    def _trusted_k(self, k: int) -> None: ...
    def search(
        self,
        x: ArrayLike,  # (n, d) or (d,)
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
        """Find the k best labels of each query; ``help(lss_rs.Index.search)`` tells the rest."""

"""Coercion and limits: what a caller passes becomes what the core takes, or an error that helps.

Floats travel as a pair (array, dtype name), since numpy has no bfloat16 of its own: bfloat16 is carried as
its bits in uint16. Tensors are recognised without importing torch: if nobody imported it, nothing can be a
tensor.
"""

from __future__ import annotations

import logging
import math
import sys
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from numpy.typing import NDArray

logger = logging.getLogger("lss_rs")

DTYPES = ("float32", "float16", "bfloat16")
"""What rows can be stored in."""

BLOCK = 4096
"""Rows converted, checked or multiplied at once: many enough for BLAS, few enough for the cache."""

_CASTS = "float32, float16, float64 or bfloat16"


def message(arg: str, expected: str, got: object) -> str:
    """One form for every complaint, the same as the core's."""
    return f"'{arg}' must be {expected}. Got {got} instead."


# Floats


def _is_tensor(x: object) -> bool:
    tensor = getattr(sys.modules.get("torch"), "Tensor", None)
    return tensor is not None and isinstance(x, tensor)


def _tensor_to_numpy(x: Any, arg: str) -> tuple[NDArray[Any], str]:
    torch = sys.modules["torch"]
    if x.device.type != "cpu":
        raise TypeError(message(arg, "on the CPU", f"a tensor on {x.device} (pass {arg}.cpu())"))
    if x.layout is not torch.strided:
        raise TypeError(message(arg, "dense", f"a tensor of layout {x.layout} (pass {arg}.to_dense())"))
    x = x.detach()
    if x.dtype is torch.bfloat16:
        return x.contiguous().view(torch.int16).numpy().view(np.uint16), "bfloat16"
    try:
        array = x.numpy()
    except TypeError:  # float8 and the like
        raise TypeError(message(arg, f"an array of floats ({_CASTS})", x.dtype)) from None
    return array, array.dtype.name


def _floats(x: Any, arg: str) -> tuple[NDArray[Any], str]:
    """View ``x`` as (array, dtype name) without a cast; refuse what is not floating point."""
    if type(x) is np.ndarray and x.dtype == np.float32:
        return x, "float32"  # the common case, on the way of every search
    if _is_tensor(x):
        array, dtype = _tensor_to_numpy(x, arg)
    else:
        try:
            array = np.asarray(x)
        except ValueError:  # numpy's own message does not name the argument
            raise ValueError(message(arg, "rectangular", "rows of different lengths")) from None
        dtype = array.dtype.name
        if dtype == "bfloat16":
            return array.view(np.uint16), dtype
    if array.dtype.kind != "f" and dtype != "bfloat16":
        got = f"a {type(x).__name__}" if array.dtype.kind == "O" else f"dtype {dtype}"
        raise TypeError(message(arg, f"an array of floats ({_CASTS})", got))
    return array, dtype


def _widen(array: NDArray[Any], dtype: str) -> NDArray[np.float32]:
    """Cast to contiguous, aligned float32; values beyond its range become infinite and are refused later."""
    if dtype == "bfloat16":
        return (array.astype(np.uint32, order="C") << np.uint32(16)).view(np.float32)
    with np.errstate(over="ignore"):
        return np.require(array, np.float32, ["C", "ALIGNED"])


def _narrow(array: NDArray[np.float32], dtype: str) -> NDArray[Any]:
    """Round single precision to nearest even in ``dtype``, as its bits."""
    if dtype == "float16":
        with np.errstate(over="ignore"):
            return array.astype(np.float16).view(np.uint16)
    bits = array.view(np.uint32)
    rounded: NDArray[np.uint32] = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return (rounded >> np.uint32(16)).astype(np.uint16)


def _check_finite(array: NDArray[np.float32], arg: str, first: int = 0, step: int = 1) -> None:
    """Name the first NaN or infinity; row i of ``array`` is row ``first + step * i`` of the caller's."""
    finite = np.isfinite(array)
    if finite.all():
        return
    at = np.argwhere(~finite)[0]
    place = ", ".join(str(i) for i in (first + step * int(at[0]), *(int(i) for i in at[1:])))
    raise ValueError(message(arg, "finite", f"NaN or infinity at [{place}]"))


def _log_cast(arg: str, array: NDArray[Any], dtype: str, to: str) -> None:
    if dtype != to or not array.flags.c_contiguous:
        logger.debug("'%s' is cast from %s%s to %s", arg, dtype, array.shape, to)


def as_weights(W: Any, dtype: str | None = None, arg: str = "W") -> tuple[NDArray[Any], str]:
    """Rows for the core: (m, d) float32, or the bits of float16 and bfloat16 in uint16, and the dtype's name.

    ``dtype=None`` keeps float32, float16 and bfloat16, and casts wider floats to float32. Where nothing has
    to be cast or laid out anew, W's own memory comes back.
    """
    array, given = _floats(W, arg)
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(message(arg, "a matrix of at least one row and one column", f"shape {array.shape}"))
    to = dtype or (given if given in DTYPES else "float32")
    _log_cast(arg, array, given, to)
    result: NDArray[Any]
    if to == "float32" and given != "bfloat16":
        result = _widen(array, given)
        for lo in range(0, len(result), BLOCK):
            _check_finite(result[lo : lo + BLOCK], arg, lo)
        return result, to
    if given == to:
        native = np.float16 if given == "float16" else np.uint16
        result = np.require(array, native, ["C", "ALIGNED"]).view(np.uint16)
        for lo in range(0, len(array), BLOCK):
            _check_finite(_widen(array[lo : lo + BLOCK], given), arg, lo)
        return result, to
    result = np.empty(array.shape, np.float32 if to == "float32" else np.uint16)
    for lo in range(0, len(array), BLOCK):
        wide = _widen(array[lo : lo + BLOCK], given)
        _check_finite(wide, arg, lo)
        if to == "float32":
            result[lo : lo + BLOCK] = wide
        else:
            result[lo : lo + BLOCK] = bits = _narrow(wide, to)
            if not _bits_finite(bits, to):
                raise ValueError(
                    message(arg, f"within the range of {to}", f"|{arg}| up to {np.abs(wide).max():g}")
                )
    return result, to


def is_memory_of(array: NDArray[Any], x: Any) -> bool:
    """Whether an array begins where the caller's does."""
    begin = x.data_ptr() if _is_tensor(x) else np.asarray(x).ctypes.data
    return bool(array.ctypes.data == begin)


def _bits_finite(bits: NDArray[np.uint16], dtype: str) -> bool:
    exponent = np.uint16(0x7C00 if dtype == "float16" else 0x7F80)
    return bool(((bits & exponent) != exponent).all())


def as_bias(b: Any, m: int, arg: str = "b") -> NDArray[np.float32]:
    """Biases for the core, (m,) float32; None is no bias."""
    if b is None:
        return np.zeros(m, np.float32)
    array, dtype = _floats(b, arg)
    if array.shape != (m,):
        raise ValueError(message(arg, f"of shape ({m},), one a row of W", f"shape {array.shape}"))
    _log_cast(arg, array, dtype, "float32")
    bias = _widen(array, dtype)
    _check_finite(bias, arg)
    return bias


def as_queries(x: Any, d: int, arg: str = "x") -> tuple[NDArray[np.float32], bool]:
    """Return queries for the core, (n, d) float32, and whether ``x`` was a single query of shape (d,).

    That they are finite is for the core to check, which reads them anyway.
    """
    array, dtype = _floats(x, arg)
    if array.ndim not in (1, 2) or array.shape[-1] != d:
        raise ValueError(message(arg, f"of shape ({d},) or (n, {d})", f"shape {array.shape}"))
    if array.dtype != np.float32 or not (array.flags.c_contiguous and array.flags.aligned):
        _log_cast(arg, array, dtype, "float32")
        array = _widen(array, dtype)
    return array.reshape(-1, d), array.ndim == 1


class QueryRows:
    """Training queries, cast and checked a slice at a time, so that a memory map of any size will do.

    Parameters
    ----------
    Q : array-like or CPU tensor, shape (n, d)
    d : int
    arg : str
        Name for messages.
    """

    __slots__ = ("_rows", "arg", "d", "n")

    def __init__(self, Q: Any, d: int, arg: str = "Q") -> None:
        rows = Q if isinstance(Q, np.ndarray) or _is_tensor(Q) else _floats(Q, arg)[0]
        if rows.ndim != 2 or rows.shape[1] != d:
            raise ValueError(message(arg, f"of shape (n, {d})", f"shape {tuple(rows.shape)}"))
        _, dtype = head = _floats(rows[:1], arg)
        _log_cast(arg, head[0], dtype, "float32")
        self._rows: Any = rows
        self.arg = arg
        self.d = d
        self.n = int(rows.shape[0])

    def first(self, n: int) -> QueryRows:
        """Return the first n queries."""
        return QueryRows(self._rows[:n], self.d, self.arg)

    def slice(self, lo: int, hi: int, step: int = 1) -> NDArray[np.float32]:
        """Return queries lo, lo + step, ... below hi, contiguous and finite."""
        part = _widen(*_floats(self._rows[lo:hi:step], self.arg))
        _check_finite(part, self.arg, lo, step)
        return part

    def blocks(self, step: int = 1) -> Iterator[NDArray[np.float32]]:
        """Every ``step``-th query, at most BLOCK at a time."""
        for lo in range(0, self.n, BLOCK * step):
            yield self.slice(lo, min(lo + BLOCK * step, self.n), step)


# Labels


class Labels(NamedTuple):
    """Labels of n queries in CSR form: those of query i are ``indices[indptr[i]:indptr[i + 1]]``, rising."""

    indptr: NDArray[np.int64]
    indices: NDArray[np.int64]

    @property
    def n(self) -> int:
        """Number of queries."""
        return len(self.indptr) - 1

    def query_of(self) -> NDArray[np.int64]:
        """Return the query each of ``indices`` belongs to."""
        return np.repeat(np.arange(self.n, dtype=np.int64), np.diff(self.indptr))

    def slice(self, lo: int, hi: int) -> Labels:
        """Labels of the queries lo..hi."""
        first, last = self.indptr[lo], self.indptr[hi]
        return Labels(self.indptr[lo : hi + 1] - first, self.indices[first:last])


def merge_labels(queries: NDArray[np.int64], ids: NDArray[np.int64], n: int) -> Labels:
    """Sort (query, label) pairs into CSR form, each pair once."""
    width = int(ids.max(initial=0)) + 1
    if n > np.iinfo(np.int64).max // width:  # ids this large come from a typing error
        raise ValueError(message("Y", "label ids of a sane size", width - 1))
    keys = queries * width + ids
    if not (keys[1:] > keys[:-1]).all():
        keys = np.sort(keys)
        keys = keys[np.diff(keys, prepend=-1) > 0]
        queries, ids = np.divmod(keys, width)
    indptr = np.zeros(n + 1, np.int64)
    np.cumsum(np.bincount(queries, minlength=n), out=indptr[1:])
    return Labels(indptr, ids)


_LABELS = "label ids (n,), lists of label ids, or a sparse (n, m) matrix"


def as_labels(Y: Any, n: int | None, m: int | None = None, arg: str = "Y") -> Labels:
    """Return true labels of n queries in CSR form; a query may have none.

    Parameters
    ----------
    Y : array-like of int, shape (n,) or (n, t); n lists of ints; or scipy sparse, shape (n, m)
        In a sparse matrix every entry other than zero is a label.
    n : int or None
        Number of queries, if known.
    m : int, optional
        Number of rows, if known.
    arg : str
        Name for messages.
    """
    if isinstance(Y, Labels):
        queries, ids = Y.query_of(), Y.indices
        length = Y.n
    elif hasattr(Y, "tocsr"):
        queries, ids, length = _labels_from_sparse(Y, m, arg)
    elif isinstance(Y, (list, tuple)):
        queries, ids, length = _labels_from_lists(Y, arg)
    else:
        array = _tensor_to_numpy(Y, arg)[0] if _is_tensor(Y) else np.asarray(Y)
        if array.dtype == object and array.ndim == 1:
            queries, ids, length = _labels_from_lists(array.tolist(), arg)
        else:
            queries, ids, length = _labels_from_array(array, m, arg)
    if n is not None and length != n:
        raise ValueError(message(arg, f"as long as the queries ({n})", length))
    if len(ids):
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or (m is not None and high >= m):
            limit = "0 or more" if m is None else f"in 0..{m - 1}"
            raise ValueError(message(arg, f"label ids {limit}", low if low < 0 else high))
    return merge_labels(queries, ids, length)


def _labels_from_array(
    array: NDArray[Any], m: int | None, arg: str
) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    if array.dtype.kind not in "iu" and array.size:
        hint = " (an indicator matrix goes through scipy.sparse.csr_array)" if array.dtype.kind == "b" else ""
        raise TypeError(message(arg, _LABELS, f"an array of {array.dtype.name}{hint}"))
    if array.ndim not in (1, 2):
        raise ValueError(message(arg, _LABELS, f"an array of shape {array.shape}"))
    if array.ndim == 2 and array.shape[1] > 2 and array.shape[1] == m and array.max(initial=-1) in (0, 1):
        hint = "what looks like an indicator matrix (pass scipy.sparse.csr_array of it)"
        raise ValueError(message(arg, _LABELS, hint))
    if array.dtype == np.uint64 and array.max(initial=0) > np.iinfo(np.int64).max:
        raise ValueError(message(arg, "label ids that fit in int64", array.max()))
    n, width = array.shape[0], array.shape[1] if array.ndim == 2 else 1
    return np.repeat(np.arange(n, dtype=np.int64), width), array.reshape(-1).astype(np.int64), n


def _labels_from_sparse(Y: Any, m: int | None, arg: str) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    if len(Y.shape) != 2 or (m is not None and Y.shape[1] != m):
        columns = "m" if m is None else m
        raise ValueError(message(arg, f"a sparse matrix of shape (n, {columns})", f"shape {tuple(Y.shape)}"))
    csr = Y.tocsr()
    kept = np.asarray(csr.data) != 0
    queries = np.repeat(np.arange(Y.shape[0], dtype=np.int64), np.diff(csr.indptr))
    return queries[kept], np.asarray(csr.indices).astype(np.int64)[kept], int(Y.shape[0])


def _labels_from_lists(Y: Collection[Any], arg: str) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    n = len(Y)
    if _are_ints(Y):
        return np.arange(n, dtype=np.int64), _int64(list(Y), arg), n
    nested = [row.tolist() if isinstance(row, np.ndarray) or _is_tensor(row) else row for row in Y]
    kinds = _kinds(row for row in nested if not isinstance(row, (list, tuple, set, frozenset, range)))
    if kinds:
        raise TypeError(message(arg, _LABELS, f"a list that holds {kinds}"))
    flat = list(chain.from_iterable(nested))
    if not _are_ints(flat):
        raise TypeError(message(arg, _LABELS, f"lists that hold {_kinds(flat)}"))
    lengths = np.fromiter(map(len, nested), np.int64, n)
    return np.repeat(np.arange(n, dtype=np.int64), lengths), _int64(flat, arg), n


def _kinds(values: Iterable[Any]) -> str:
    return ", ".join(sorted({type(value).__name__ for value in values}))


def _are_ints(values: Collection[Any]) -> bool:
    return all(issubclass(kind, (int, np.integer)) and kind is not bool for kind in set(map(type, values)))


def _int64(values: list[Any], arg: str) -> NDArray[np.int64]:
    try:
        return np.array(values, dtype=np.int64)
    except OverflowError:
        raise ValueError(message(arg, "label ids that fit in int64", "a larger number")) from None


# Small arguments


def is_int(value: object) -> bool:
    """Whether ``value`` is an integer of Python or numpy; True and False are not."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def check_bool(value: object, arg: str) -> None:
    """Refuse what is neither True nor False: of a string either might be meant."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(message(arg, "True or False", repr(value)))


def check_number(value: object, arg: str, expected: str, good: Callable[[float], bool]) -> None:
    """Refuse what is no real number, or none as ``expected`` says."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(message(arg, f"a number {expected}", repr(value)))
    if not good(float(value)):
        raise ValueError(message(arg, expected, value))


def as_count(value: Any, arg: str) -> int:
    """Return a whole number of at least one."""
    if not is_int(value):
        raise TypeError(message(arg, "an int >= 1", repr(value)))
    if value < 1:
        raise ValueError(message(arg, "an int >= 1", value))
    return int(value)


_MAX_K = 2**31 - 1
_MAX_THREADS = 4096


def as_k(k: Any, arg: str = "k") -> int:
    """Return the number of answers wanted; more than there are rows is padded later."""
    count = as_count(k, arg)
    if count > _MAX_K:
        raise ValueError(message(arg, f"at most {_MAX_K}", count))
    return count


def as_threads(num_threads: Any) -> int:
    """Return the number of threads for the core, where 0 is the package's setting."""
    count = 0 if num_threads is None else as_count(num_threads, "num_threads")
    if count > _MAX_THREADS:
        raise ValueError(message("num_threads", f"at most {_MAX_THREADS}", count))
    return count


def as_cost(max_cost: Any) -> float:
    """Return where effort ends, in full rows; None is nowhere."""
    if max_cost is None:
        return math.inf
    number = isinstance(max_cost, (int, float, np.integer, np.floating)) and not isinstance(max_cost, bool)
    if not number:
        raise TypeError(message("max_cost", "a number or None", f"a {type(max_cost).__name__}"))
    if not max_cost >= 0:
        raise ValueError(message("max_cost", "at least 0", max_cost))
    return float(max_cost)


def as_ids(ids: Any, m: int, arg: str = "always_include") -> NDArray[np.int64]:
    """Return label ids, rising, each once."""
    return as_labels([ids], 1, m, arg).indices


def as_out(out: Any, n: int, k: int, single: bool) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Check the caller's arrays for answers and view them as (n, k)."""
    if not isinstance(out, (tuple, list)) or len(out) != 2:
        raise TypeError(message("out", "a pair (labels, scores) of arrays", f"a {type(out).__name__}"))
    shape = (k,) if single else (n, k)
    for name, array, dtype in zip(("labels", "scores"), out, (np.int64, np.float32), strict=True):
        arg, expected = f"out[{name}]", np.dtype(dtype).name
        if not isinstance(array, np.ndarray) or array.dtype != dtype:
            got = array.dtype if isinstance(array, np.ndarray) else f"a {type(array).__name__}"
            raise TypeError(message(arg, f"a numpy array of {expected}", got))
        if array.shape != shape:
            raise ValueError(message(arg, f"of shape {shape}", f"shape {array.shape}"))
        if not (array.flags.c_contiguous and array.flags.writeable and array.flags.aligned):
            raise ValueError(message(arg, "C-contiguous, aligned and writable", f"flags\n{array.flags}"))
    labels, scores = out
    if np.may_share_memory(labels, scores):
        raise ValueError(message("out", "two arrays apart from each other", "arrays that share memory"))
    return labels.reshape(n, k), scores.reshape(n, k)

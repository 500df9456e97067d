import logging
import re

import numpy as np
import pytest

hypothesis = pytest.importorskip("hypothesis")
ml_dtypes = pytest.importorskip("ml_dtypes")
sparse = pytest.importorskip("scipy.sparse")
torch = pytest.importorskip("torch")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from hypothesis.extra import numpy as hnp  # noqa: E402

from lss_rs import _arrays  # noqa: E402
from lss_rs._arrays import BLOCK, Labels, QueryRows  # noqa: E402

RNG = np.random.default_rng(0)
FLOATS = "an array of floats (float32, float16, float64 or bfloat16)"


def says(text):
    return f"^{re.escape(text)}$"


# Queries


@pytest.mark.parametrize(
    "cast",
    [
        np.asarray,
        lambda x: x.tolist(),
        lambda x: x.astype(np.float64),
        lambda x: x.astype(np.longdouble),
        lambda x: x.astype(np.float16),
        lambda x: x.astype(">f4"),
        lambda x: x.astype(ml_dtypes.bfloat16),
        lambda x: torch.from_numpy(x),
        lambda x: torch.from_numpy(x).to(torch.float64),
        lambda x: torch.from_numpy(x).to(torch.float16),
        lambda x: torch.from_numpy(x).to(torch.bfloat16),
        lambda x: torch.from_numpy(x).to(torch.bfloat16).T.contiguous().T,
        lambda x: torch.nn.Parameter(torch.from_numpy(x)),
        np.asfortranarray,
        lambda x: np.repeat(x, 2, axis=1)[:, ::2],
        lambda x: x[::-1].copy()[::-1],
    ],
)
@pytest.mark.parametrize("n", [0, 1, 5, None])
def test_queries_of_any_float_arrive_as_contiguous_float32(cast, n):
    x = RNG.integers(-8, 8, (5 if n is None else n, 6)).astype(np.float32)
    given = cast(x)
    if n == 0 and isinstance(given, list):
        given = np.empty((0, 6))
    queries, single = _arrays.as_queries(given[2] if n is None else given, 6)
    assert single is (n is None)
    assert queries.dtype == np.float32
    assert queries.flags.c_contiguous
    np.testing.assert_array_equal(queries, x[2:3] if n is None else x)


def test_float32_queries_are_not_copied():
    x = np.zeros((3, 4), np.float32)
    assert np.shares_memory(_arrays.as_queries(x, 4)[0], x)
    assert np.shares_memory(_arrays.as_queries(torch.from_numpy(x), 4)[0], x)
    assert np.shares_memory(_arrays.as_queries(x[1], 4)[0], x)


def test_a_cast_is_logged_once_and_its_absence_never(caplog):
    caplog.set_level(logging.DEBUG, "lss_rs")
    _arrays.as_queries(np.zeros((3, 4), np.float32), 4)
    assert not caplog.records
    _arrays.as_queries(np.zeros((3, 4)), 4)
    assert [record.getMessage() for record in caplog.records] == ["'x' is cast from float64(3, 4) to float32"]


@pytest.mark.parametrize(
    ("x", "got"),
    [
        (np.zeros((2, 4), int), "dtype int64"),
        ([1, 2, 3, 4], "dtype int64"),
        (np.zeros(4, np.uint16), "dtype uint16"),
        (np.zeros(4, bool), "dtype bool"),
        (np.zeros(4, complex), "dtype complex128"),
        (np.zeros(4, object), "a ndarray"),
        (np.array(["a"] * 4), "dtype str32"),
        (np.zeros(4, ml_dtypes.float8_e4m3fn), "dtype float8_e4m3fn"),
        (None, "a NoneType"),
        ({1.0, 2.0}, "a set"),
        (sparse.csr_array(np.eye(4)), "a csr_array"),
        (torch.zeros(4, dtype=torch.int32), "dtype int32"),
        (torch.zeros(4).to(torch.float8_e4m3fn), "torch.float8_e4m3fn"),
    ],
)
def test_queries_that_are_not_floats(x, got):
    with pytest.raises(TypeError, match=says(f"'x' must be {FLOATS}. Got {got} instead.")):
        _arrays.as_queries(x, 4)


@pytest.mark.parametrize(
    ("x", "shape"),
    [
        (np.zeros((2, 3)), "(2, 3)"),
        (np.zeros(5), "(5,)"),
        (np.zeros((1, 1, 4)), "(1, 1, 4)"),
        (np.float32(1), "()"),
        ([], "(0,)"),
        (torch.zeros(2, 3), "(2, 3)"),
    ],
)
def test_queries_of_another_shape(x, shape):
    with pytest.raises(
        ValueError, match=says(f"'x' must be of shape (4,) or (n, 4). Got shape {shape} instead.")
    ):
        _arrays.as_queries(x, 4)


def test_ragged_queries():
    with pytest.raises(
        ValueError, match=says("'x' must be rectangular. Got rows of different lengths instead.")
    ):
        _arrays.as_queries([[1.0, 2.0], [3.0]], 2)


def test_a_tensor_elsewhere_or_sparse_is_refused_with_a_hint():
    expected = "'x' must be on the CPU. Got a tensor on meta (pass x.cpu()) instead."
    with pytest.raises(TypeError, match=says(expected)):
        _arrays.as_queries(torch.zeros(2, 4, device="meta"), 4)
    with pytest.raises(TypeError, match=r"'x' must be dense.*pass x.to_dense\(\)"):
        _arrays.as_queries(torch.eye(4).to_sparse(), 4)


def test_a_tensor_that_wants_a_gradient_is_fine():
    x = torch.ones(2, 4, requires_grad=True)
    np.testing.assert_array_equal(_arrays.as_queries(x, 4)[0], np.ones((2, 4)))


# Training queries


@pytest.mark.parametrize("kind", ["array", "float64", "strided", "tensor", "bfloat16", "memmap", "list"])
@pytest.mark.parametrize("step", [1, 3])
def test_training_queries_come_in_slices(kind, step, tmp_path):
    n = 2 * BLOCK * step + 17
    x = RNG.integers(-8, 8, (n, 3)).astype(np.float32)
    if kind == "memmap":
        given = np.memmap(tmp_path / "q", np.float32, "w+", shape=x.shape)
        given[:] = x
    else:
        given = {
            "array": x,
            "float64": x.astype(np.float64),
            "strided": np.repeat(x, 2, axis=0)[::2],
            "tensor": torch.from_numpy(x),
            "bfloat16": torch.from_numpy(x).to(torch.bfloat16),
            "list": x.tolist(),
        }[kind]
    rows = QueryRows(given, 3)
    blocks = list(rows.blocks(step))
    assert rows.n == n
    assert max(map(len, blocks)) <= BLOCK
    assert all(block.dtype == np.float32 and block.flags.c_contiguous for block in blocks)
    np.testing.assert_array_equal(np.concatenate(blocks), x[::step])
    np.testing.assert_array_equal(rows.slice(5, 9), x[5:9])


def test_training_queries_name_the_row_that_is_not_finite():
    x = np.zeros((3 * BLOCK, 2), np.float32)
    x[2 * BLOCK + 6, 1] = np.nan
    with pytest.raises(
        ValueError, match=says(f"'Q' must be finite. Got NaN or infinity at [{2 * BLOCK + 6}, 1] instead.")
    ):
        list(QueryRows(x, 2).blocks())
    with pytest.raises(ValueError, match=re.escape(f"[{2 * BLOCK + 6}, 1]")):
        list(QueryRows(x, 2).blocks(2))


@pytest.mark.parametrize("x", [np.zeros(4), np.zeros((4, 3)), torch.zeros(4, 3), [[1.0]]])
def test_training_queries_of_another_shape(x):
    shape = tuple(np.shape(x))
    with pytest.raises(ValueError, match=says(f"'Q' must be of shape (n, 2). Got shape {shape} instead.")):
        QueryRows(x, 2)


def test_training_queries_that_are_not_floats():
    with pytest.raises(TypeError, match=re.escape(f"'Q' must be {FLOATS}. Got dtype int64")):
        QueryRows(np.zeros((4, 2), int), 2)


# Weights

VALUES = np.array([[0.0, 1.0, -2.5], [3.140625, -0.0078125, 96.0]], np.float32)  # exact in every dtype


NUMPY = {
    name: np.dtype(getattr(ml_dtypes, name, name)) for name in ("float32", "float64", "float16", "bfloat16")
}


@pytest.mark.parametrize("to", [None, "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("given", NUMPY)
@pytest.mark.parametrize("layout", ["rows", "reversed", "columns", "torch"])
def test_weights_arrive_in_the_dtype_asked_for(given, to, layout):
    W = VALUES.astype(NUMPY[given])
    if layout == "columns":
        W = np.asfortranarray(W)
    elif layout == "reversed":
        W = W[::-1].copy()[::-1]
    elif layout == "torch":
        W = torch.from_numpy(VALUES).to(getattr(torch, given))
    array, dtype = _arrays.as_weights(W, to)
    assert dtype == (to or ("float32" if given == "float64" else given))
    assert array.flags.c_contiguous
    assert array.dtype == (np.float32 if dtype == "float32" else np.uint16)
    np.testing.assert_array_equal(array.view(NUMPY[dtype]).astype(np.float32), VALUES)


@given(hnp.arrays(np.uint32, (3, 4)))
def test_rounding_to_bfloat16_is_that_of_ml_dtypes(bits):
    W = bits.view(np.float32)
    W = np.where(np.isfinite(W) & (np.abs(W) < 3e38), W, np.float32(1))
    array, _ = _arrays.as_weights(W, "bfloat16")
    np.testing.assert_array_equal(array, W.astype(ml_dtypes.bfloat16).view(np.uint16))


@pytest.mark.parametrize(("dtype", "large"), [("float16", 65520.0), ("bfloat16", 3.4e38)])
def test_weights_beyond_the_range_of_their_dtype(dtype, large):
    expected = f"'W' must be within the range of {dtype}. Got |W| up to {large:g} instead."
    with pytest.raises(ValueError, match=says(expected)):
        _arrays.as_weights(np.full((2, 2), -large, np.float32), dtype)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("given", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_weights_that_are_not_finite(given, dtype):
    W = np.zeros((BLOCK + 9, 2), given)
    W[BLOCK + 5, 1] = np.inf
    with pytest.raises(
        ValueError, match=says(f"'W' must be finite. Got NaN or infinity at [{BLOCK + 5}, 1] instead.")
    ):
        _arrays.as_weights(W, dtype)


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (4,), (1, 2, 3), ()])
def test_weights_of_another_shape(shape):
    expected = "'W' must be a matrix of at least one row and one column. Got shape "
    with pytest.raises(ValueError, match="^" + re.escape(f"{expected}{shape}")):
        _arrays.as_weights(np.zeros(shape, np.float32))


def test_weights_that_are_not_floats():
    with pytest.raises(TypeError, match=re.escape(f"'W' must be {FLOATS}. Got dtype int8")):
        _arrays.as_weights(np.zeros((2, 2), np.int8))


def test_bias():
    np.testing.assert_array_equal(_arrays.as_bias(None, 3), np.zeros(3))
    assert _arrays.as_bias(None, 3).dtype == np.float32
    for b in ([1.0, 2.0, 3.0], np.float16([1, 2, 3]), torch.tensor([1.0, 2.0, 3.0], dtype=torch.bfloat16)):
        bias = _arrays.as_bias(b, 3)
        assert bias.dtype == np.float32
        np.testing.assert_array_equal(bias, [1, 2, 3])


@pytest.mark.parametrize(
    ("b", "error", "text"),
    [
        (np.zeros(2), ValueError, "'b' must be of shape (3,), one a row of W. Got shape (2,) instead."),
        (
            np.zeros((3, 1)),
            ValueError,
            "'b' must be of shape (3,), one a row of W. Got shape (3, 1) instead.",
        ),
        ([0.0, np.nan, 0.0], ValueError, "'b' must be finite. Got NaN or infinity at [1] instead."),
        ([1, 2, 3], TypeError, f"'b' must be {FLOATS}. Got dtype int64 instead."),
    ],
)
def test_bias_refused(b, error, text):
    with pytest.raises(error, match=says(text)):
        _arrays.as_bias(b, 3)


# Labels

ROWS = [[4, 2], [], [7], [2, 2, 0], []]
EXPECTED = [[2, 4], [], [7], [0, 2], []]


def rows_of(labels):
    return [labels.indices[a:b].tolist() for a, b in zip(labels.indptr[:-1], labels.indptr[1:], strict=True)]


def csr(rows, m=8, explicit_zero=False):
    indptr = np.cumsum([0, *map(len, rows)])
    indices = np.array([label for row in rows for label in row], int)
    data = np.ones(len(indices))
    if explicit_zero:
        data[0] = 0
    return sparse.csr_array((data, indices, indptr), shape=(len(rows), m))


@pytest.mark.parametrize(
    "Y",
    [
        ROWS,
        tuple(map(tuple, ROWS)),
        [np.array(row, int) for row in ROWS],
        [np.array(row, np.uint8) if row else [] for row in ROWS],
        [torch.tensor(row, dtype=torch.int64) for row in ROWS],
        [set(row) for row in ROWS],
        [list(map(np.int32, row)) for row in ROWS],
        np.array([np.array(row) for row in [[4, 2], [], [7], [2, 2, 0], []]], dtype=object),
        csr(ROWS),
        csr(ROWS).tocsc(),
        csr(ROWS).tocoo(),
        csr(ROWS).astype(bool),
        sparse.csr_matrix(csr(ROWS)),
        Labels(np.array([0, 2, 2, 3, 6, 6]), np.array([4, 2, 7, 2, 2, 0])),
    ],
)
def test_lists_of_labels(Y):
    labels = _arrays.as_labels(Y, 5, 8)
    assert rows_of(labels) == EXPECTED
    assert labels.indptr.dtype == labels.indices.dtype == np.int64
    assert rows_of(_arrays.as_labels(Y, 5)) == EXPECTED


@pytest.mark.parametrize(
    "cast", [list, tuple, np.array, torch.tensor, lambda y: np.array(y, np.uint64), range]
)
def test_one_label_each(cast):
    ids = 3 if cast is range else [0, 1, 2]
    assert rows_of(_arrays.as_labels(cast(ids), 3, 8)) == [[0], [1], [2]]


def test_many_labels_each_as_a_matrix():
    assert rows_of(_arrays.as_labels(np.array([[3, 1], [2, 2]]), 2, 8)) == [[1, 3], [2]]
    assert rows_of(_arrays.as_labels(np.array([[3], [1]]), 2, 8)) == [[3], [1]]
    assert rows_of(_arrays.as_labels(np.empty((2, 0), int), 2, 8)) == [[], []]


def test_entries_that_are_zero_are_no_labels_and_the_matrix_is_left_alone():
    Y = csr(ROWS, explicit_zero=True)
    before = Y.copy()
    assert rows_of(_arrays.as_labels(Y, 5, 8)) == [[2], *EXPECTED[1:]]
    np.testing.assert_array_equal(Y.indices, before.indices)
    np.testing.assert_array_equal(Y.data, before.data)


@pytest.mark.parametrize("Y", [[], (), np.empty(0, int), np.empty(0), csr([]), np.empty((0, 3), int)])
def test_no_queries_no_labels(Y):
    assert rows_of(_arrays.as_labels(Y, 0, 8)) == []


LABELS = "label ids (n,), lists of label ids, or a sparse (n, m) matrix"


@pytest.mark.parametrize(
    ("Y", "error", "text"),
    [
        ([1, 2], ValueError, "'Y' must be as long as the queries (3). Got 2 instead."),
        (csr([[1]] * 4), ValueError, "'Y' must be as long as the queries (3). Got 4 instead."),
        ([[1], [2], [8]], ValueError, "'Y' must be label ids in 0..7. Got 8 instead."),
        ([1, -1, 2], ValueError, "'Y' must be label ids in 0..7. Got -1 instead."),
        (np.array([1, 9, 2], np.uint8), ValueError, "'Y' must be label ids in 0..7. Got 9 instead."),
        (
            [[1], [2**70], [3]],
            ValueError,
            "'Y' must be label ids that fit in int64. Got a larger number instead.",
        ),
        (
            np.array([1, 2**63, 2], np.uint64),
            ValueError,
            f"'Y' must be label ids that fit in int64. Got {2**63} instead.",
        ),
        ([1.0, 2.0, 3.0], TypeError, f"'Y' must be {LABELS}. Got a list that holds float instead."),
        (np.zeros(3), TypeError, f"'Y' must be {LABELS}. Got an array of float64 instead."),
        ([1, [2], 3], TypeError, f"'Y' must be {LABELS}. Got a list that holds int instead."),
        ([[1], [[2]], [3]], TypeError, f"'Y' must be {LABELS}. Got lists that hold int, list instead."),
        (
            [[1], [2.5], ["a"]],
            TypeError,
            f"'Y' must be {LABELS}. Got lists that hold float, int, str instead.",
        ),
        ([[1], None, [3]], TypeError, f"'Y' must be {LABELS}. Got a list that holds NoneType instead."),
        ([True, False, True], TypeError, f"'Y' must be {LABELS}. Got a list that holds bool instead."),
        ([[1], [True], [0]], TypeError, f"'Y' must be {LABELS}. Got lists that hold bool, int instead."),
        ("abc", TypeError, f"'Y' must be {LABELS}. Got an array of str96 instead."),
        (["a", "b", "c"], TypeError, f"'Y' must be {LABELS}. Got a list that holds str instead."),
        (5, ValueError, f"'Y' must be {LABELS}. Got an array of shape () instead."),
        (
            np.zeros((3, 1, 1), int),
            ValueError,
            f"'Y' must be {LABELS}. Got an array of shape (3, 1, 1) instead.",
        ),
        (
            csr([[1]] * 3, m=9),
            ValueError,
            "'Y' must be a sparse matrix of shape (n, 8). Got shape (3, 9) instead.",
        ),
        (
            np.eye(8, dtype=int)[:3],
            ValueError,
            f"'Y' must be {LABELS}. "
            "Got what looks like an indicator matrix (pass scipy.sparse.csr_array of it) instead.",
        ),
        (
            np.eye(8, dtype=bool)[:3],
            TypeError,
            f"'Y' must be {LABELS}. "
            "Got an array of bool (an indicator matrix goes through scipy.sparse.csr_array) instead.",
        ),
        (torch.zeros(3), TypeError, f"'Y' must be {LABELS}. Got an array of float32 instead."),
    ],
)
def test_labels_refused(Y, error, text):
    with pytest.raises(error, match=says(text)):
        _arrays.as_labels(Y, 3, 8)


def test_labels_refused_without_a_number_of_rows():
    with pytest.raises(ValueError, match=says("'Y' must be label ids 0 or more. Got -3 instead.")):
        _arrays.as_labels([-3], 1)
    with pytest.raises(ValueError, match="'Y' must be label ids of a sane size"):
        _arrays.as_labels([2**62, 0, 1], 3)


@given(st.lists(st.lists(st.integers(0, 20), max_size=5), max_size=8))
def test_labels_agree_whatever_their_form(rows):
    expected = [sorted(set(row)) for row in rows]
    n = len(rows)
    assert rows_of(_arrays.as_labels(rows, n, 21)) == expected
    assert rows_of(_arrays.as_labels(csr(rows, 21), n, 21)) == expected
    labels = _arrays.as_labels(rows, n)
    assert labels.n == n
    assert labels.query_of().tolist() == [i for i, row in enumerate(expected) for _ in row]
    assert rows_of(labels.slice(n // 3, n)) == expected[n // 3 :]


# Small arguments


@pytest.mark.parametrize("k", [1, 7, np.int64(7), np.uint8(7)])
def test_k(k):
    assert _arrays.as_k(k) == k
    assert type(_arrays.as_k(k)) is int


@pytest.mark.parametrize("k", [0, -1, np.int32(-5)])
def test_k_too_small(k):
    with pytest.raises(ValueError, match=says(f"'k' must be an int >= 1. Got {k} instead.")):
        _arrays.as_k(k)


@pytest.mark.parametrize("k", [True, np.True_, 2.0, "2", None, np.array([2]), np.float32(3)])
def test_k_of_another_type(k):
    with pytest.raises(TypeError, match=says(f"'k' must be an int >= 1. Got {k!r} instead.")):
        _arrays.as_k(k)


def test_threads():
    assert _arrays.as_threads(None) == 0
    assert _arrays.as_threads(3) == 3
    with pytest.raises(ValueError, match=says("'num_threads' must be an int >= 1. Got 0 instead.")):
        _arrays.as_threads(0)


def test_ids():
    assert _arrays.as_ids((5, 1, 5), 8).tolist() == [1, 5]
    empty = _arrays.as_ids((), 8)
    assert empty.tolist() == []
    assert empty.dtype == np.int64
    with pytest.raises(ValueError, match=says("'always_include' must be label ids in 0..7. Got 8 instead.")):
        _arrays.as_ids((8,), 8)


def test_out_is_the_callers_memory():
    labels, scores = np.empty((2, 3), np.int64), np.empty((2, 3), np.float32)
    a, b = _arrays.as_out((labels, scores), 2, 3, single=False)
    assert np.shares_memory(a, labels)
    assert np.shares_memory(b, scores)
    a, b = _arrays.as_out([labels[0], scores[0]], 1, 3, single=True)
    assert a.shape == b.shape == (1, 3)
    assert np.shares_memory(a, labels)


def frozen(array):
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    ("labels", "scores", "error", "text"),
    [
        (
            np.empty((2, 3), np.int32),
            None,
            TypeError,
            "'out[labels]' must be a numpy array of int64. Got int32",
        ),
        (None, np.empty((2, 3)), TypeError, "'out[scores]' must be a numpy array of float32. Got float64"),
        ([[1, 2, 3]] * 2, None, TypeError, "'out[labels]' must be a numpy array of int64. Got a list"),
        (
            np.empty((2, 4), np.int64),
            None,
            ValueError,
            "'out[labels]' must be of shape (2, 3). Got shape (2, 4)",
        ),
        (None, np.empty(3, np.float32), ValueError, "'out[scores]' must be of shape (2, 3). Got shape (3,)"),
        (
            np.empty((3, 2), np.int64).T,
            None,
            ValueError,
            "'out[labels]' must be C-contiguous, aligned and writable.",
        ),
        (
            None,
            frozen(np.empty((2, 3), np.float32)),
            ValueError,
            "'out[scores]' must be C-contiguous, aligned and",
        ),
    ],
)
def test_out_refused(labels, scores, error, text):
    labels = np.empty((2, 3), np.int64) if labels is None else labels
    scores = np.empty((2, 3), np.float32) if scores is None else scores
    with pytest.raises(error, match=re.escape(text)):
        _arrays.as_out((labels, scores), 2, 3, single=False)


def test_out_must_be_a_pair_of_separate_arrays():
    with pytest.raises(
        TypeError, match=re.escape("'out' must be a pair (labels, scores) of arrays. Got a ndarray")
    ):
        _arrays.as_out(np.empty((2, 3)), 2, 3, single=False)
    memory = np.empty(6, np.int64)
    overlapping = memory.reshape(2, 3), memory.view(np.float32)[:6].reshape(2, 3)
    with pytest.raises(ValueError, match="two arrays apart from each other"):
        _arrays.as_out(overlapping, 2, 3, single=False)

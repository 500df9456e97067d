"""One file, as index.py is one class: answers, options, making, fitting, keeping, threads."""

import concurrent.futures
import copy
import errno
import inspect
import os
import pathlib
import pickle
import re
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest

import lss_rs
from lss_rs import FormatError, Index, LSSConfig, NotFittedError, SearchResult, ShortResultError
from lss_rs._arrays import BLOCK, as_labels
from lss_rs._core import Builder

pytestmark = pytest.mark.inference

PAPER = LSSConfig(method="simhash", fill="rows", sketch_bytes=0)
CONFIGS = {
    "default": LSSConfig(),
    "128": LSSConfig(sketch_bytes=128, n_rescore=12, n_tables=2),
    "exact candidates": LSSConfig(sketch_bytes=0, n_probes=3),
    "paper": PAPER,
    "rows aligned": LSSConfig(fill="rows", n_bits=4),
    "simhash queries": LSSConfig(method="simhash", n_neighbors=7, always_include=(3, 299)),
}


FLOATS = "an array of floats (float32, float16, float64 or bfloat16)"


def says(text):
    return f"^{re.escape(text)}$"


def layer(m=300, d=24, n=900, seed=0, whole=False):
    """A layer and queries; ``whole`` numbers have exact logits, and ties."""
    rng = np.random.default_rng(seed)
    if whole:
        return tuple(rng.integers(-3, 4, shape).astype(np.float32) for shape in ((m, d), (m,), (n, d)))
    spread = np.geomspace(3, 0.3, d).astype(np.float32)
    W = rng.standard_normal((m, d), dtype=np.float32)
    return W, rng.standard_normal(m, dtype=np.float32), spread * rng.standard_normal((n, d), dtype=np.float32)


def best(logits, k):
    """Sort in full, ties by lowest id: labels and scores (n, k), padded."""
    n, m = logits.shape
    labels, scores = np.full((n, k), -1), np.full((n, k), -np.inf, np.float32)
    for i in range(n):
        order = np.lexsort((np.arange(m), -logits[i]))[:k]
        order = order[logits[i][order] > -np.inf]
        labels[i, : len(order)], scores[i, : len(order)] = order, logits[i][order]
    return labels, scores


def lists(csr):
    indptr, indices = csr
    return np.split(indices, indptr[1:-1]) if len(indptr) > 1 else []


def best_of(candidates, logits, k):
    masked = np.full_like(logits, -np.inf)
    for i, ids in enumerate(lists(candidates)):
        masked[i, ids] = logits[i, ids]
    return best(masked, k)


def same(a, b):
    np.testing.assert_array_equal(a[0], b[0])
    np.testing.assert_array_equal(a[1], b[1])


@pytest.fixture(scope="module")
def data():
    return layer()


@pytest.fixture(scope="module", params=CONFIGS)
def fitted(request, data):
    W, b, Q = data
    return Index.from_weights(W, b, CONFIGS[request.param]).fit(Q, progress=False)


@pytest.fixture(scope="module")
def index(data):
    W, b, Q = data
    return Index.from_weights(W, b).fit(Q, progress=False)


@pytest.fixture
def unfitted(data):
    W, b, _ = data
    return Index.from_weights(W, b)


# Answers


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("k", [1, 5, 50, 60])
@pytest.mark.parametrize("shape", [(50, 1), (50, 33), (50, 130), (1, 8)])
def test_exact_is_a_full_sort_with_ties_by_lowest_id(dtype, k, shape):
    W, b, Q = layer(*shape, n=40, whole=True)
    index = Index.from_weights(W, b, LSSConfig(dtype=dtype))
    labels, scores = index.search(Q, k, exact=True)
    same((labels, scores), best(Q @ W.T + b, k))
    assert labels.dtype == np.int64
    assert scores.dtype == np.float32


def test_exact_without_a_bias():
    W, _, Q = layer(whole=True, n=20)
    same(Index.from_weights(W).search(Q, 7, exact=True), best(Q @ W.T, 7))


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_answers_are_the_best_candidates_with_exact_scores(name, dtype):
    W, b, Q = layer(whole=True)
    config = LSSConfig.from_json({**CONFIGS[name].to_json(), "dtype": dtype, "n_rescore": 300})
    index = Index.from_weights(W, b, config).fit(Q[:800], progress=False)
    queries = Q[780:]
    expected = best_of(index.candidates(queries), queries @ W.T + b, 10)
    same(index.search(queries, 10), expected)
    single = [index.search(query, 10) for query in queries]
    same((np.stack([r.labels for r in single]), np.stack([r.scores for r in single])), expected)


def test_few_rescored_are_candidates_with_exact_scores(data):
    W, b, Q = data
    index = Index.from_weights(W, b, LSSConfig(n_rescore=10)).fit(Q, progress=False)
    labels, scores = index.search(Q[:100], 10)
    logits = Q[:100].astype(np.float64) @ W.T + b
    np.testing.assert_allclose(scores, np.take_along_axis(logits, labels, 1), rtol=1e-4, atol=1e-4)
    assert (np.diff(scores) <= 0).all()
    assert all(
        np.isin(row, ids).all() for row, ids in zip(labels, lists(index.candidates(Q[:100])), strict=True)
    )
    assert all(len(set(row)) == 10 for row in labels.tolist())


def test_finds_what_full_inference_finds(data):
    W, b, Q = layer(m=2000, n=6000)
    index = Index.from_weights(W, b).fit(Q[:5000], k=5, progress=False)
    labels = index.search(Q[5000:], 5, stats=True)
    truth = index.search(Q[5000:], 5, exact=True).labels
    assert lss_rs.metrics.precision_at_k(labels[0], truth, 5) > 0.95
    assert labels.stats["rescored"].mean() < 200


@pytest.mark.parametrize("num_threads", [1, 2, 5])
@pytest.mark.parametrize("exact", [False, True])
def test_answers_do_not_depend_on_batch_or_threads(fitted, data, num_threads, exact):
    x = data[2][:137]
    expected = fitted.search(x, 7, exact=exact)
    same(fitted.search(x, 7, num_threads=num_threads, exact=exact), expected)
    for lo, hi in ((0, 1), (3, 5), (20, 100)):
        part = fitted.search(x[lo:hi], 7, num_threads=num_threads, exact=exact)
        same(part, (expected.labels[lo:hi], expected.scores[lo:hi]))
    for i in (0, 99):
        one = fitted.search(x[i], 7, exact=exact)
        same(one, (expected.labels[i], expected.scores[i]))
        assert one.labels.shape == (7,)


@pytest.mark.filterwarnings("ignore:k=")
def test_the_fast_way_and_the_general_way_agree(fitted, data):
    for query, k in zip(data[2][:50], [10] * 40 + [1, 127, 128, 129, 130] * 2, strict=True):
        fast = fitted.search(query, k)
        assert [answer.shape for answer in fast] == [(k,), (k,)]
        same(fast, fitted.search(query, k, stats=True))
        same(fast, fitted.search(query.astype(np.float64), np.int64(k)))


def test_search_shows_all_its_options():
    options = inspect.signature(Index.search).parameters
    kinds = {name: option.kind is inspect.Parameter.KEYWORD_ONLY for name, option in options.items()}
    only = ["num_threads", "exact", "on_short", "effort", "max_cost", "observe", "out", "stats"]
    assert kinds == dict.fromkeys(["self", "x", "k"], False) | dict.fromkeys(only, True)
    assert "Parameters" in Index.search.__doc__


def test_an_option_that_there_is_not_is_named(fitted, data):
    with pytest.raises(TypeError, match=r"^Index\.search\(\) got an unexpected .*'n_threads'"):
        fitted.search(data[2][0], 10, n_threads=2)


def test_queries_that_lie_askew(index, data):
    for query in (data[2][0], data[2][:3]):
        room = bytearray(query.nbytes + 1)
        askew = np.frombuffer(room, np.float32, query.size, offset=1).reshape(query.shape)
        askew[...] = query
        assert not askew.flags.aligned
        same(index.search(askew, 5), index.search(query, 5))


def test_one_float32_query_takes_the_fast_way(fitted, data, monkeypatch):
    query = data[2][0]
    expected = fitted.search(query, 10, stats=True)
    monkeypatch.delattr(Index, "_search")  # the general way
    same(fitted.search(query, 10), expected)
    same(fitted.search(x=query, k=10), expected)
    same(fitted.search(query), expected)
    for options in ({"stats": True}, {"effort": "adaptive"}, {"exact": True}, {"max_cost": 1.0}):
        with pytest.raises(AttributeError, match="_search"):
            fitted.search(query, 10, **options)
    for other in (query.astype(np.float64), query[None], np.repeat(query, 2)[::2], query.tolist()):
        with pytest.raises(AttributeError, match="_search"):
            fitted.search(other, 10)
    for k in (None, 0, -1, 129, 2**70, 10.0, np.int64(10), True):
        with pytest.raises(AttributeError, match="_search"):
            fitted.search(query, k)


@pytest.mark.parametrize("n", [0, 1, 3])
def test_shapes(index, data, n):
    labels, scores = index.search(data[2][:n], 4)
    assert labels.shape == scores.shape == (n, 4)
    assert index.search(np.zeros((0, 24)), 4, exact=True).labels.shape == (0, 4)
    assert len(index.candidates(data[2][:n])[0]) == n + 1


def test_the_result_is_a_pair_with_names(index, data):
    result = index.search(data[2][0], 3)
    labels, scores = result
    assert isinstance(result, tuple)
    assert isinstance(result, SearchResult)
    assert result.labels is labels
    assert result.scores is scores
    assert result.stats is None
    again = pickle.loads(pickle.dumps(index.search(data[2][0], 3, stats=True)))
    same(again, result)
    names = {"probes", "entries", "neighbors", "candidates", "rescored", "step", "trust"}
    assert set(again.stats) == names


@pytest.mark.parametrize(
    "form",
    [
        np.ndarray.tolist,
        lambda x: x.astype(np.float64),
        np.asfortranarray,
        lambda x: np.repeat(x, 2, axis=-1)[..., ::2],
        lambda x: x[::-1].copy()[::-1],
        lambda x: x.astype(">f4"),
    ],
)
def test_any_sane_array_will_do(index, data, form):
    x = data[2][:9]
    same(index.search(form(x), 5), index.search(x, 5))
    same(index.search(form(x[4]), 5), index.search(x[4], 5))
    same(index.candidates(form(x)), index.candidates(x))


def test_arrays_may_be_read_only():
    W, b, Q = layer(n=100)
    for array in (W, b, Q):
        array.flags.writeable = False
    index = Index.from_weights(W, b).fit(Q, np.arange(100), progress=False)
    same(index.search(Q[0], 3), [part[0] for part in index.search(Q[:2], 3)])


def test_the_index_owns_its_rows():
    W, b, Q = layer(n=5)
    index = Index.from_weights(W, b)
    expected = index.search(Q, 3, exact=True)
    W[:], b[:] = 0, 0
    same(index.search(Q, 3, exact=True), expected)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_rows_are_used_where_they_lie_if_so_wished(dtype, tmp_path):
    W, b, Q = layer(m=60)
    W = W.astype(dtype)
    W.flags.writeable = False
    copied = Index.from_weights(W, b)
    labels = copied.search(Q, 5, exact=True).labels
    lent = Index.from_weights(W.view(), b, copy=False)
    for index in (lent, copy.deepcopy(lent), pickle.loads(pickle.dumps(lent))):
        found = index.search(Q, 5, exact=True)
        assert (found.labels == labels).all()
    fitted = lent.fit(Q, labels, target=None, progress=False)
    again = copied.fit(Q, labels, target=None, progress=False)
    assert (fitted.search(Q, 5).labels == again.search(Q, 5).labels).all()
    fitted.save(tmp_path / "index.safetensors")
    del lent, W
    assert (fitted.search(Q, 5, exact=True).labels == labels).all()
    kept = Index.load(tmp_path / "index.safetensors")
    assert (kept.search(Q, 5, exact=True).labels == labels).all()


def test_memory_that_is_lent_is_shared():
    W, _, Q = layer(m=60)
    lent, copied = (Index.from_weights(W, copy=copied) for copied in (False, True))
    W *= -1
    assert (lent.search(Q[0], 5, exact=True).labels == best(Q[:1] @ W.T, 5)[0][0]).all()
    assert (copied.search(Q[0], 5, exact=True).labels == best(Q[:1] @ -W.T, 5)[0][0]).all()


@pytest.mark.parametrize(
    ("change", "config"),
    [
        (lambda W: W.astype(np.float64), None),
        (lambda W: W.astype(">f4"), None),
        (lambda W: W.astype(">f2"), None),
        (lambda W: np.asfortranarray(W), None),
        (lambda W: W[:, :-1], None),
        (lambda W: W[::2], None),
        (lambda W: W.tolist(), None),
        (lambda W: W, LSSConfig(dtype="float16")),
    ],
)
def test_rows_that_have_to_be_copied_are_not_lent(change, config):
    W, b, _ = layer(m=60)
    W = change(W)
    with pytest.raises(
        ValueError, match=r"'copy' must be True, for W is to be contiguous rows of float(32|16)"
    ):
        Index.from_weights(W, b[: len(W)], config, copy=False)
    assert Index.from_weights(W, b[: len(W)], config).m == len(W)


def test_rows_of_another_byte_order():
    W, b, Q = layer(m=60)
    for dtype in ("float32", "float16"):
        swapped = Index.from_weights(W.astype(dtype).astype(np.dtype(dtype).newbyteorder(">")), b)
        expected = Index.from_weights(W.astype(dtype), b).search(Q, 5, exact=True)
        assert (swapped.search(Q, 5, exact=True).scores == expected.scores).all()


def test_tensors_are_lent():
    torch = pytest.importorskip("torch")
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        linear = torch.nn.Linear(8, 40, dtype=dtype)
        index = Index.from_linear(linear, copy=False)
        query = np.ones(8, np.float32)
        before = index.search(query, 1, exact=True).scores
        with torch.no_grad():
            linear.weight += 1.0
        assert index.search(query, 1, exact=True).scores > before + 4
    with pytest.raises(ValueError, match="'copy' must be True"):
        Index.from_weights(torch.ones(8, 40).T, copy=False)


def test_tensors():
    torch = pytest.importorskip("torch")
    W, b, Q = layer(whole=True)
    linear = torch.nn.Linear(24, 300)
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(W))
        linear.bias.copy_(torch.from_numpy(b))
    expected = Index.from_weights(W, b).fit(Q, progress=False)
    index = Index.from_linear(linear).fit(torch.from_numpy(Q), progress=False)
    assert index.to_bytes() == expected.to_bytes()
    same(index.search(torch.from_numpy(Q[:4]), 5), expected.search(Q[:4], 5))
    same(index.search(torch.from_numpy(Q[0]), 5), expected.search(Q[0], 5))
    half = Index.from_linear(linear.to(torch.bfloat16))
    assert half.dtype == "bfloat16"
    same(half.search(torch.from_numpy(Q[:4]).to(torch.bfloat16), 5, exact=True), best(Q[:4] @ W.T + b, 5))
    bare = torch.nn.Linear(24, 300, bias=False)
    assert Index.from_linear(bare, PAPER).config == PAPER
    with pytest.raises(
        TypeError, match=says("'x' must be on the CPU. Got a tensor on meta (pass x.cpu()) instead.")
    ):
        index.search(torch.zeros(24, device="meta"))
    with pytest.raises(
        TypeError, match=r"^'W' must be on the CPU. Got a tensor on meta \(pass W.cpu\(\)\) instead.$"
    ):
        Index.from_linear(torch.nn.Linear(4, 5, device="meta"))


# Candidates


def test_candidates_rise_and_are_the_same_for_any_threads(fitted, data):
    indptr, indices = fitted.candidates(data[2][:80])
    assert indptr.dtype == indices.dtype == np.int64
    assert indptr[0] == 0
    assert indptr[-1] == len(indices)
    for ids in lists((indptr, indices)):
        assert (np.diff(ids) > 0).all()
        assert ids[0] >= 0
        assert ids[-1] < fitted.m
    for num_threads in (1, 3):
        same(fitted.candidates(data[2][:80], num_threads=num_threads), (indptr, indices))
    same(fitted.candidates(data[2][3]), fitted.candidates(data[2][3:4]))


@pytest.mark.parametrize("config", [PAPER, LSSConfig(n_probes=1), LSSConfig(n_tables=1, n_probes=1)])
def test_always_include(data, config):
    W, b, Q = data
    wanted = (0, 17, 299)
    config = LSSConfig.from_json({**config.to_json(), "always_include": wanted})
    index = Index.from_weights(W, b, config).fit(Q, progress=False)
    assert all(np.isin(wanted, ids).all() for ids in lists(index.candidates(Q[:50])))
    far = 100 * np.ones((3, 24), np.float32)
    assert all(np.isin(wanted, ids).all() for ids in lists(index.candidates(far)))


@pytest.mark.parametrize(
    ("Y", "teacher_top"),
    [("labels", 0), ("labels", 1), ("labels", 10), (None, 1), (None, 10), (None, 300)],
)
@pytest.mark.parametrize("n_neighbors", [5, 1000])
@pytest.mark.parametrize("method", ["aligned", "simhash"])
def test_a_training_query_finds_what_it_was_taught_in_its_first_bucket(
    data, Y, teacher_top, n_neighbors, method
):
    W, b, Q = data
    rng = np.random.default_rng(1)
    truth = [rng.integers(0, 300, rng.integers(0, 4)).tolist() if Y else [] for _ in Q]
    config = LSSConfig(
        method=method, n_tables=1, n_probes=1, n_bits=6, teacher_top=teacher_top, n_neighbors=n_neighbors
    )
    index = Index.from_weights(W, b, config).fit(Q, truth if Y else None, progress=False)
    top = index.search(Q, teacher_top, exact=True).labels if teacher_top else np.empty((len(Q), 0), int)
    candidates = lists(index.candidates(Q))
    taught = [set(y) | set(t) for y, t in zip(truth, top.tolist(), strict=True)]
    assert all(wanted <= set(ids.tolist()) for wanted, ids in zip(taught, candidates, strict=True))
    # and nothing that no one was taught
    everyone = set().union(*taught)
    assert all(set(ids.tolist()) <= everyone for ids in candidates)
    if teacher_top < 300:
        assert np.mean([len(ids) for ids in candidates]) < 0.7 * len(everyone)


def test_queries_of_every_slice_are_taught():
    W, b, Q = layer(n=2 * BLOCK + 100)
    Y = np.random.default_rng(0).integers(0, 300, len(Q))
    config = LSSConfig(n_tables=1, n_probes=1, teacher_top=0)
    index = Index.from_weights(W, b, config).fit(Q, Y, progress=False)
    candidates = lists(index.candidates(Q))
    assert all(y in ids for y, ids in zip(Y, candidates, strict=True))
    assert np.mean([len(ids) for ids in candidates]) < 30


@pytest.mark.parametrize("method", ["aligned", "simhash"])
@pytest.mark.parametrize("sketch_bytes", [64, 128])
def test_sketches_know_the_bias_and_the_mean_query(method, sketch_bytes):
    """All rows are candidates and few are rescored: what is found is what the sketches put first."""
    W, _, Q = layer(m=3000, d=16)
    Q += 2 * np.random.default_rng(1).standard_normal(16, dtype=np.float32)
    deviation = (Q @ W.T).std()
    b = deviation * np.random.default_rng(2).standard_normal(3000, dtype=np.float32)
    config = LSSConfig(
        method=method, fill="rows", n_bits=2, n_tables=1, n_probes=4, sketch_bytes=sketch_bytes, n_rescore=10
    )
    index = Index.from_weights(W, b, config).fit(Q[:800], progress=False)
    result = index.search(Q[800:], 5, stats=True)
    assert (result.stats["candidates"] == 3000).all()
    assert (result.stats["rescored"] == 10).all()
    truth = index.search(Q[800:], 5, exact=True).labels
    assert lss_rs.metrics.precision_at_k(result.labels, truth, 5) > 0.97


@pytest.mark.parametrize("method", ["aligned", "simhash"])
def test_every_bucket_of_rows_holds_every_row_once(data, method):
    W, b, Q = data
    config = LSSConfig(method=method, fill="rows", n_bits=5, n_tables=3, n_probes=1000, sketch_bytes=0)
    index = Index.from_weights(W, b, config).fit(Q, progress=False)
    result = index.search(Q[:20], 9, stats=True)
    assert (result.stats["entries"] == 3 * 300).all()
    assert (result.stats["candidates"] == 300).all()
    same(result, index.search(Q[:20], 9, exact=True))


def test_more_probes_find_more(data):
    W, b, Q = data
    sizes = []
    for n_probes in (1, 4, 16):
        config = LSSConfig(n_probes=n_probes, n_bits=6, teacher_top=5, n_neighbors=1000)
        index = Index.from_weights(W, b, config).fit(Q, progress=False)
        sizes.append([set(ids.tolist()) for ids in lists(index.candidates(Q[:30]))])
    assert all(a <= b <= c for a, b, c in zip(*sizes, strict=True))
    assert sum(map(len, sizes[0])) < sum(map(len, sizes[1])) < sum(map(len, sizes[2]))


def test_a_longer_reach_meets_more():
    W, b, Q = layer(whole=True)
    config = LSSConfig(n_bits=6, n_probes=64, max_entries=10_000, n_neighbors=3, teacher_top=5)
    index = Index.from_weights(W, b, config).fit(Q, k=5, target=None, progress=False)
    entries = []
    for reach in (0.0, 0.25, 0.75, None):
        index.apply(index.operating_point._replace(reach=reach))
        entries.append(index.search(Q[:50], 5, stats=True).stats["entries"])
    assert (np.diff(entries, axis=0) >= 0).all()
    assert np.mean(entries[0]) < np.mean(entries[1]) < np.mean(entries[2]) <= np.mean(entries[3])
    assert (entries[3] == len(Q)).all()


# Options of search


@pytest.fixture(scope="module")
def short():
    """An index whose training queries brought one label each."""
    W, b, Q = layer(whole=True)
    config = LSSConfig(n_tables=1, n_probes=1, n_bits=8, teacher_top=1)
    return Index.from_weights(W, b, config).fit(Q, k=10, progress=False), W, b, Q


def test_short_results_are_padded(short):
    index, W, b, Q = short
    expected = best_of(index.candidates(Q[:60]), Q[:60] @ W.T + b, 10)
    assert (expected[0] == -1).any()
    same(index.search(Q[:60], 10), expected)
    same(index.search(Q[0], 10), [part[0] for part in expected])


def test_short_results_are_exact_if_so_wished(short):
    index, W, b, Q = short
    counts = np.diff(index.candidates(Q[:60])[0])
    padded, full = index.search(Q[:60], 3), best(Q[:60] @ W.T + b, 3)
    assert 0 < (counts < 3).sum() < 60
    expected = [np.where((counts < 3)[:, None], f, p) for f, p in zip(full, padded, strict=True)]
    same(index.search(Q[:60], 3, on_short="exact"), expected)
    same(index.search(Q[0], 3, on_short="exact"), [part[0] for part in expected])


def test_short_results_raise_if_so_wished(short):
    index, _, _, Q = short
    counts = np.diff(index.candidates(Q[:60])[0])
    first = int(np.argmax(counts < 3))
    text = f"Query {first} has {counts[first]} candidates, fewer than k=3"
    with pytest.raises(ShortResultError, match=f"^{re.escape(text)}"):
        index.search(Q[:60], 3, on_short="raise")
    enough = Q[:60][counts >= 3]
    same(index.search(enough, 3, on_short="raise"), index.search(enough, 3))
    with pytest.raises(ShortResultError, match=says("There are 300 rows, fewer than k=301.")):
        index.search(Q[0], 301, exact=True, on_short="raise")


@pytest.mark.parametrize("on_short", ["pad", "exact"])
@pytest.mark.parametrize("exact", [False, True])
def test_more_answers_than_rows_are_padded(on_short, exact):
    W, b, Q = layer(m=6, n=100)
    index = Index.from_weights(W, b).fit(Q, k=20, progress=False)
    for x in (Q[:3], Q[0]):
        labels, scores = index.search(x, 20, on_short=on_short, exact=exact)
        assert labels.shape[-1] == 20
        assert (np.sort(labels[..., :6]) == np.arange(6)).all()
        assert (labels[..., 6:] == -1).all()
        assert (scores[..., 6:] == -np.inf).all()


@pytest.mark.parametrize("single", [False, True])
def test_out(index, data, single):
    x = data[2][3] if single else data[2][:20]
    shape = (6,) if single else (20, 6)
    out = np.full(shape, 7), np.full(shape, 7, np.float32)
    result = index.search(x, 6, out=out)
    assert result.labels is out[0]
    assert result.scores is out[1]
    same(out, index.search(x, 6))


def test_out_may_be_a_part_of_something_larger(index, data):
    labels, scores = np.full((9, 6), 7), np.full((9, 6), 7, np.float32)
    index.search(data[2][:3], 6, out=(labels[2:5], scores[2:5]))
    same((labels[2:5], scores[2:5]), index.search(data[2][:3], 6))
    assert (labels[[0, 1, 5, 6, 7, 8]] == 7).all()


def test_stats_count_the_work(fitted, data):
    x = data[2][:40]
    result = fitted.search(x, 5, stats=True)
    counts = np.diff(fitted.candidates(x)[0])
    assert all(value.shape == (40,) for value in result.stats.values())
    assert {value.dtype.name for name, value in result.stats.items() if name != "trust"} == {"int64"}
    assert (result.stats["step"] == 1).all()
    np.testing.assert_array_equal(result.stats["candidates"], counts)
    assert (result.stats["neighbors"] <= result.stats["entries"]).all()
    sketched = fitted.params["sketch_bytes"] > 0
    most = fitted.params["n_rescore"] if sketched else 300
    if fitted.operating_point.judge is None and not (counts > most).any():
        np.testing.assert_array_equal(result.stats["rescored"], counts)
    # where estimates say that nothing better is left, fewer will do
    assert (result.stats["rescored"] <= np.minimum(counts, most)).all()
    assert (result.stats["rescored"] >= np.minimum(counts, 5)).all()
    one = fitted.search(x[7], 5, stats=True).stats
    for name, value in one.items():
        np.testing.assert_array_equal(value, result.stats[name][7])
    assert np.ndim(one["entries"]) == 0
    exact = fitted.search(x, 5, exact=True, stats=True).stats
    assert (exact["rescored"] == 300).all()


def test_a_larger_k_than_was_fitted_for_warns_once(data):
    W, b, Q = data
    index = Index.from_weights(W, b).fit(Q, k=5, progress=False)
    index.search(Q[0], 5)
    index.search(Q[:2], 6, exact=True)
    with pytest.warns(UserWarning, match=r"k=6 is more than the 5 answers .* Fit with k=6") as caught:
        index.search(Q[0], 6)
    assert caught[0].filename == __file__
    index.search(Q[0], 7)
    index.search(Q[:2], 7)
    index.fit(Q, k=5, progress=False)
    with pytest.warns(UserWarning, match="k=6 is more than the 5 answers") as caught:
        index.search(Q[:2], 6)
    assert caught[0].filename == __file__
    again = Index.from_bytes(index.to_bytes())
    with pytest.warns(UserWarning, match="k=6 is more than the 5 answers"):
        again.search(Q[0], 6)


def test_a_larger_k_than_is_rescored_warns(data):
    W, b, Q = data
    index = Index.from_weights(W, b, LSSConfig(n_rescore=4)).fit(Q, progress=False)
    with pytest.warns(UserWarning, match="k=5 is more than the 4 answers"):
        labels = index.search(Q[0], 5).labels
    assert (labels >= 0).all()
    rows = Index.from_weights(W, b, PAPER).fit(Q, k=1, progress=False)
    rows.search(Q[0], 50)  # filled from rows, nothing was learned for a k


# Refusals of search


@pytest.mark.parametrize("method", ["search", "candidates"])
@pytest.mark.parametrize(
    ("x", "error", "text"),
    [
        (np.zeros(23), ValueError, "'x' must be of shape (24,) or (n, 24). Got shape (23,) instead."),
        (
            np.zeros((2, 25), np.float32),
            ValueError,
            "'x' must be of shape (24,) or (n, 24). Got shape (2, 25) instead.",
        ),
        (
            np.zeros(25, np.float32),
            ValueError,
            "'x' must be of shape (24,) or (n, 24). Got shape (25,) instead.",
        ),
        (
            np.zeros((1, 1, 24)),
            ValueError,
            "'x' must be of shape (24,) or (n, 24). Got shape (1, 1, 24) instead.",
        ),
        ([[1.0], [1.0, 2.0]], ValueError, "'x' must be rectangular. Got rows of different lengths instead."),
        (
            np.zeros(24, int),
            TypeError,
            f"'x' must be {FLOATS}. Got dtype int64 instead.",
        ),
        (
            None,
            TypeError,
            f"'x' must be {FLOATS}. Got a NoneType instead.",
        ),
    ],
)
def test_queries_refused(index, method, x, error, text):
    with pytest.raises(error, match=says(text)):
        getattr(index, method)(x)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("exact", [False, True])
def test_queries_that_are_not_finite(index, bad, dtype, exact):
    x = np.zeros((5, 24), dtype)
    x[3, 20] = bad
    expected = says("'x' must be finite. Got NaN or infinity at [3, 20] instead.")
    with pytest.raises(ValueError, match=expected):
        index.search(x, exact=exact)
    with pytest.raises(ValueError, match=expected):
        index.candidates(x)
    with pytest.raises(ValueError, match=says("'x' must be finite. Got NaN or infinity at [0, 20] instead.")):
        index.search(x[3], exact=exact)


@pytest.mark.parametrize("num_threads", [1, 2])
def test_the_first_query_of_a_batch_that_is_not_finite_is_named(index, data, num_threads):
    assert not index.operating_point.exact
    x = np.resize(data[2], (5000, 24))
    x[4321, 7] = x[4900, 0] = np.nan
    expected = says("'x' must be finite. Got NaN or infinity at [4321, 7] instead.")
    with pytest.raises(ValueError, match=expected):
        index.search(x, num_threads=num_threads)
    x[1234, 5] = np.inf
    expected = says("'x' must be finite. Got NaN or infinity at [1234, 5] instead.")
    with pytest.raises(ValueError, match=expected):
        index.search(x, num_threads=num_threads)


def test_queries_beyond_float32(index):
    with pytest.raises(ValueError, match="'x' must be finite"):
        index.search(np.full(24, 1e39))


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"k": 0}, ValueError, "'k' must be an int >= 1. Got 0 instead."),
        ({"k": -3}, ValueError, "'k' must be an int >= 1. Got -3 instead."),
        ({"k": True}, TypeError, "'k' must be an int >= 1. Got True instead."),
        ({"k": 2.0}, TypeError, "'k' must be an int >= 1. Got 2.0 instead."),
        ({"k": None}, TypeError, "'k' must be an int >= 1. Got None instead."),
        ({"num_threads": 0}, ValueError, "'num_threads' must be an int >= 1. Got 0 instead."),
        ({"num_threads": 1.5}, TypeError, "'num_threads' must be an int >= 1. Got 1.5 instead."),
        ({"num_threads": 100_000}, ValueError, "'num_threads' must be at most 4096. Got 100000 instead."),
        (
            {"on_short": "ignore"},
            ValueError,
            "'on_short' must be 'pad', 'exact' or 'raise'. Got 'ignore' instead.",
        ),
        ({"exact": "no"}, TypeError, "'exact' must be True or False. Got 'no' instead."),
        ({"observe": 1}, TypeError, "'observe' must be True or False. Got 1 instead."),
        ({"stats": None}, TypeError, "'stats' must be True or False. Got None instead."),
        ({"on_short": None}, ValueError, "'on_short' must be 'pad', 'exact' or 'raise'. Got None instead."),
        (
            {"out": np.zeros(3)},
            TypeError,
            "'out' must be a pair (labels, scores) of arrays. Got a ndarray instead.",
        ),
        (
            {"out": (np.zeros((9, 9), int), np.zeros((8, 10), np.float32))},
            ValueError,
            "'out[labels]' must be of shape (8, 10). Got shape (9, 9) instead.",
        ),
    ],
)
def test_options_refused(index, data, options, error, text):
    with pytest.raises(error, match=says(text)):
        index.search(data[2][:8], **options)


def test_threads_of_candidates_refused(index, data):
    with pytest.raises(ValueError, match=says("'num_threads' must be an int >= 1. Got 0 instead.")):
        index.candidates(data[2], num_threads=0)


@pytest.mark.parametrize("k", [0, -1, True, 2.0, None, "3", 10**30])
def test_k_is_checked_for_a_single_query_too(index, data, k):
    with pytest.raises((TypeError, ValueError, OverflowError)):
        index.search(data[2][0], k)


def test_an_option_that_is_not_is_refused(index, data):
    with pytest.raises(TypeError, match="filter"):
        index.search(data[2][0], filter=[1])


def test_unfitted(unfitted, data):
    Q = data[2]
    expected = says("This index has no tables yet: call fit first, or search with exact=True.")
    for call in (
        lambda: unfitted.search(Q[0]),
        lambda: unfitted.search(Q[:2]),
        lambda: unfitted.search(Q[:0]),
        lambda: unfitted.candidates(Q[:2]),
        lambda: unfitted.search(Q[:9], on_short="exact", num_threads=2),
        lambda: unfitted.search(np.full(24, np.nan, np.float32)),
        lambda: unfitted.search(np.full((1, 24), np.nan)),
        lambda: unfitted.search(np.full((9, 24), np.nan)),
    ):
        with pytest.raises(NotFittedError, match=expected):
            call()
    assert issubclass(NotFittedError, ValueError)
    assert unfitted.search(Q[:2], exact=True).labels.shape == (2, 10)


# Making


@pytest.mark.parametrize(
    ("W", "b", "error", "text"),
    [
        (
            np.zeros(3),
            None,
            ValueError,
            "'W' must be a matrix of at least one row and one column. Got shape (3,) instead.",
        ),
        (
            np.zeros((0, 3)),
            None,
            ValueError,
            "'W' must be a matrix of at least one row and one column. Got shape (0, 3) instead.",
        ),
        (
            np.zeros((2, 3), int),
            None,
            TypeError,
            f"'W' must be {FLOATS}. Got dtype int64 instead.",
        ),
        ([[0.0, np.nan]], None, ValueError, "'W' must be finite. Got NaN or infinity at [0, 1] instead."),
        (
            np.zeros((2, 3)),
            np.zeros(3),
            ValueError,
            "'b' must be of shape (2,), one a row of W. Got shape (3,) instead.",
        ),
        (
            np.zeros((2, 3)),
            [0.0, np.inf],
            ValueError,
            "'b' must be finite. Got NaN or infinity at [1] instead.",
        ),
        (
            np.zeros((2, 3)),
            [0, 1],
            TypeError,
            f"'b' must be {FLOATS}. Got dtype int64 instead.",
        ),
    ],
)
def test_weights_refused(W, b, error, text):
    with pytest.raises(error, match=says(text)):
        Index.from_weights(W, b)


def test_other_ways_of_making_refused():
    with pytest.raises(TypeError, match="An Index is made by from_weights, from_linear, load or from_bytes"):
        Index(np.zeros((2, 3)))
    with pytest.raises(TypeError, match=says("'config' must be an LSSConfig or None. Got a dict instead.")):
        Index.from_weights(np.zeros((2, 3)), config={})
    with pytest.raises(ValueError, match=says("'always_include' must be label ids in 0..1. Got 2 instead.")):
        Index.from_weights(np.zeros((2, 3)), config=LSSConfig(always_include=(2,)))
    expected = (
        "'linear' must be a layer with weight and bias, as torch.nn.Linear. "
        "Got a object without weight and bias instead."
    )
    with pytest.raises(TypeError, match=re.escape(expected)):
        Index.from_linear(object())


def test_properties(data):
    W, b, Q = data
    config = LSSConfig(n_tables=3, dtype="float16")
    index = Index.from_weights(W, b, config)
    assert (index.m, index.d, index.dtype, index.config, index.fitted) == (300, 24, "float16", config, False)
    assert index.params == {}
    assert index.nbytes == 300 * (24 * 2 + 4)
    assert repr(index) == "Index(m=300, d=24, dtype='float16', not fitted)"
    index.fit(Q, k=7, progress=False)
    assert index.fitted
    assert index.config == config
    params = index.params
    assert (params["n_tables"], params["k"], params["teacher_top"], params["seed"]) == (3, 7, 200, 0)
    assert params["nbytes"]["rows"] >= 300 * (24 * 2 + 4)
    assert index.nbytes == sum(params["nbytes"].values()) > params["nbytes"]["rows"]
    assert re.fullmatch(
        r"Index\(m=300, d=24, dtype='float16', n_bits=7, n_tables=3, n_probes=128, max_entries=1024, "
        r"n_neighbors=50, n_rescore=64, sketch_bytes=128, fill='queries', 0\.\d MB\)",
        repr(index),
    )
    with pytest.raises(AttributeError):
        index.m = 3
    with pytest.raises(AttributeError):
        index.anything = 3


@pytest.mark.parametrize("m", [1, 2, 40])
@pytest.mark.parametrize("d", [1, 3, 33])
@pytest.mark.parametrize("n", [2, 70])
@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.filterwarnings("ignore:. training queries are few")
@pytest.mark.filterwarnings("ignore:.. training queries are few")
def test_layers_and_fits_of_any_size(m, d, n, config):
    W, b, Q = layer(m, d, n)
    given = {**CONFIGS[config].to_json(), "always_include": [m - 1], "n_bits": None}
    index = Index.from_weights(W, b, LSSConfig.from_json(given)).fit(Q, progress=False)
    labels, scores = index.search(Q, 10)
    assert (labels[:, 0] >= 0).all()
    assert (scores[:, 1:] <= scores[:, :-1]).all()
    same(Index.from_bytes(index.to_bytes()).search(Q, 10), (labels, scores))
    if m <= 2 and given["fill"] == "queries":
        same((labels, scores), index.search(Q, 10, exact=True))


# Fitting


def test_fitting_repeats_whatever_the_form_of_its_arguments(tmp_path):
    W, b, Q = layer(n=BLOCK + 50)
    rng = np.random.default_rng(0)
    Y = [rng.integers(0, 300, 2).tolist() for _ in Q]
    expected = Index.from_weights(W, b).fit(Q, Y, target=None, progress=False).to_bytes()
    mapped = np.memmap(tmp_path / "q", np.float32, "w+", shape=Q.shape)
    mapped[:] = Q
    forms = [
        (Q.astype(np.float64), np.array(Y)),
        (mapped, [np.array(y) for y in Y]),
        (np.asfortranarray(Q), as_labels(Y, len(Q), 300)),
    ]
    for queries, labels in forms:
        index = Index.from_weights(W, b).fit(queries, labels, target=None, progress=False)
        assert index.to_bytes() == expected
    other = Index.from_weights(W, b, LSSConfig(seed=1)).fit(Q, Y, target=None, progress=False)
    assert other.to_bytes() != expected


def test_sparse_labels():
    sparse = pytest.importorskip("scipy.sparse")
    W, b, Q = layer()
    Y = np.arange(900) % 300
    matrix = sparse.csr_array((np.ones(900), (np.arange(900), Y)), shape=(900, 300))
    expected = Index.from_weights(W, b).fit(Q, Y, progress=False).to_bytes()
    assert Index.from_weights(W, b).fit(Q, matrix, progress=False).to_bytes() == expected


def test_fitting_starts_anew_and_returns_the_index(data):
    W, b, Q = data
    index = Index.from_weights(W, b)
    assert index.fit(Q[:500], k=3, progress=False) is index
    index.fit(Q, progress=False)
    assert index.to_bytes() == Index.from_weights(W, b).fit(Q, progress=False).to_bytes()


@pytest.mark.parametrize("stage", ["queries", "rows", "teacher", "build"])
@pytest.mark.parametrize("before", [False, True])
def test_an_interrupted_fit_leaves_the_index_as_it_was(data, stage, before):
    W, b, Q = data
    index = Index.from_weights(W, b)
    if before:
        index.fit(Q[:300], k=3, progress=False)
    state, config = index.to_bytes(), index.params

    def interrupt(at, done, total):
        if at == stage:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index.fit(Q, progress=False, callback=interrupt)
    assert index.to_bytes() == state
    assert index.params == config


def test_a_failed_fit_leaves_the_index_as_it_was(data):
    W, b, Q = data
    index = Index.from_weights(W, b).fit(Q, progress=False)
    state = index.to_bytes()
    bad = np.concatenate([np.repeat(Q, 6, axis=0), np.full((1, 24), np.nan, np.float32)])
    with pytest.raises(
        ValueError, match=says("'Q' must be finite. Got NaN or infinity at [5400, 0] instead.")
    ):
        index.fit(bad, progress=False)
    assert index.to_bytes() == state


def test_a_fit_that_fails_at_the_very_end_leaves_the_index_as_it_was(data, monkeypatch):
    class Failing:
        def __init__(self, *args, **options):
            self.add = Builder(*args, **options).add

        def finish(self):
            raise MemoryError

    W, b, Q = data
    index = Index.from_weights(W, b).fit(Q, k=3, progress=False)
    state, params = index.to_bytes(), index.params
    monkeypatch.setattr("lss_rs.index.Builder", Failing)
    with pytest.raises(MemoryError):
        index.fit(Q[:300], progress=False)
    assert index.to_bytes() == state
    assert index.params == params


def test_a_callback_that_is_no_function_is_refused(data):
    W, b, Q = data
    index = Index.from_weights(W, b)
    with pytest.raises(TypeError, match=says("'callback' must be a function or None. Got 3 instead.")):
        index.fit(Q, progress=False, callback=3)
    with pytest.raises(TypeError, match=says("'progress' must be True or False. Got 'no' instead.")):
        index.fit(Q, progress="no")
    with pytest.raises(NotFittedError):
        index.search(Q[0])


def test_the_callback_hears_of_every_slice(data):
    W, b, _ = data
    Q = layer(n=2 * BLOCK + 5)[2]
    heard = []
    options = {"target": None, "progress": False, "callback": lambda *what: heard.append(what)}
    Index.from_weights(W, b).fit(Q, **options)
    slices = [BLOCK, 2 * BLOCK, 2 * BLOCK + 5]
    steps = sum(stage == "refine" for stage, _, _ in heard)
    assert steps > 0
    assert heard == [
        *[("queries", done, 2 * BLOCK + 5) for done in slices],
        ("rows", 300, 300),
        *[("refine", done + 1, steps) for done in range(steps)],
        ("planes", 1, 1),
        *[("teacher", done, 2 * BLOCK + 5) for done in slices],
        ("build", 0, 1),
        ("build", 1, 1),
    ]
    heard.clear()
    Index.from_weights(W, b, PAPER).fit(Q, **options)
    assert heard == [("planes", 1, 1), ("build", 0, 1), ("build", 1, 1)]


def test_progress_is_shown_if_tqdm_is_there(data, capsys):
    pytest.importorskip("tqdm")
    W, b, Q = data
    Index.from_weights(W, b).fit(Q)
    shown = capsys.readouterr().err
    assert all(stage in shown for stage in ("queries", "rows", "teacher", "build"))
    Index.from_weights(W, b).fit(Q, progress=False)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("Q", "Y", "options", "error", "text"),
    [
        (
            np.zeros((50, 23)),
            None,
            {},
            ValueError,
            "'Q' must be of shape (n, 24). Got shape (50, 23) instead.",
        ),
        (np.zeros(24), None, {}, ValueError, "'Q' must be of shape (n, 24). Got shape (24,) instead."),
        (
            np.zeros((50, 24), int),
            None,
            {},
            TypeError,
            f"'Q' must be {FLOATS}. Got dtype int64 instead.",
        ),
        (
            np.zeros((0, 24)),
            None,
            {},
            ValueError,
            "'Q' must be at least one query with fill='queries'. Got 0 instead.",
        ),
        (np.ones((50, 24)), [1], {}, ValueError, "'Y' must be as long as the queries (50). Got 1 instead."),
        (np.ones((2, 24)), [1, 300], {}, ValueError, "'Y' must be label ids in 0..299. Got 300 instead."),
        (np.ones((50, 24)), None, {"k": 0}, ValueError, "'k' must be an int >= 1. Got 0 instead."),
    ],
)
def test_fits_refused(unfitted, Q, Y, options, error, text):
    with pytest.raises(error, match=says(text)):
        unfitted.fit(Q, Y, progress=False, **options)
    assert not unfitted.fitted


def test_fits_that_have_nothing_to_learn_from(data):
    W, b, Q = data
    labels_only = Index.from_weights(W, b, LSSConfig(teacher_top=0))
    with pytest.raises(
        ValueError,
        match=says(
            "'Y' must be given with teacher_top=0, which learns from true labels only. Got None instead."
        ),
    ):
        labels_only.fit(Q, progress=False)
    aligned_rows = Index.from_weights(W, b, LSSConfig(fill="rows"))
    with pytest.raises(
        ValueError, match=says("'Q' must be at least one query, better 2 * d = 48. Got 0 instead.")
    ):
        aligned_rows.fit(Q[:0], progress=False)
    # the paper's start learns nothing from queries
    assert Index.from_weights(W, b, PAPER).fit(Q[:0], progress=False).fitted


def test_more_bits_than_directions_are_refused_if_asked_for(data):
    W, b, Q = layer(m=5, d=24)
    with pytest.raises(ValueError, match=r"'n_bits' parameter of LSSConfig must be at most 4.*Got 9 instead"):
        Index.from_weights(W, b, LSSConfig(n_bits=9)).fit(Q, progress=False)
    index = Index.from_weights(W, b).fit(Q, progress=False)
    assert index.params["n_bits"] == 4
    assert index.params["n_probes"] == 16


def test_few_queries_warn(data):
    W, b, Q = data
    with pytest.warns(UserWarning, match=r"47 training queries are few for d=24.*2 \* d = 48") as caught:
        Index.from_weights(W, b).fit(Q[:47], progress=False)
    assert caught[0].filename == __file__
    Index.from_weights(W, b).fit(Q[:48], progress=False)
    Index.from_weights(W, b, PAPER).fit(Q[:4], progress=False)  # nothing is taken a covariance of


def test_labels_without_use_warn(data):
    W, b, Q = data
    with pytest.warns(UserWarning, match="'Y' has no use with fill='rows'") as caught:
        Index.from_weights(W, b, PAPER).fit(Q, np.zeros(len(Q), int), progress=False)
    assert caught[0].filename == __file__


# Keeping


@pytest.fixture(params=["fitted", "unfitted"])
def kept(request, fitted):
    if request.param == "fitted":
        return fitted
    W, b, _ = layer()
    return Index.from_weights(W, b, fitted.config)


@pytest.mark.parametrize(
    "way",
    [
        "save",
        "mmap",
        "prefault",
        "bytes",
        "bytearray",
        "pickle",
        "copy",
        "deepcopy",
    ],
)
def test_what_is_kept_comes_back(kept, data, tmp_path, way):
    path = tmp_path / "index.safetensors"
    if way in ("save", "mmap", "prefault"):
        kept.save(path if way == "save" else str(path))
        again = Index.load(path, mmap=way != "save", prefault=way == "prefault")
    elif way == "bytes":
        again = Index.from_bytes(kept.to_bytes())
    elif way == "bytearray":
        again = Index.from_bytes(memoryview(bytearray(kept.to_bytes())))
    elif way == "pickle":
        again = pickle.loads(pickle.dumps(kept))
    else:
        again = getattr(copy, way)(kept)
    assert type(again) is Index
    for name in ("m", "d", "dtype", "config", "params", "fitted", "nbytes"):
        assert getattr(again, name) == getattr(kept, name), name
    assert repr(again) == repr(kept)
    assert again.to_bytes() == kept.to_bytes()
    x = data[2][:20]
    same(again.search(x, 5, exact=True), kept.search(x, 5, exact=True))
    if kept.fitted:
        same(again.search(x, 5), kept.search(x, 5))
        same(again.search(x[0], 5), kept.search(x[0], 5))
        same(again.candidates(x), kept.candidates(x))


def test_a_file_holds_the_bytes(index, tmp_path):
    index.save(tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == index.to_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_mapped_index_can_be_fitted_anew(index, data, tmp_path):
    index.save(tmp_path / "a")
    mapped = Index.load(tmp_path / "a", mmap=True)
    mapped.fit(data[2], progress=False)
    assert mapped.to_bytes() == index.to_bytes()


def test_a_copy_is_apart(index, data):
    other = copy.copy(index)
    before = index.to_bytes()
    other.fit(data[2][:100], progress=False)
    assert index.to_bytes() == before


def test_saving_replaces_a_file_that_is_mapped(index, data, tmp_path):
    path = tmp_path / "a"
    index.save(path)
    mapped = Index.load(path, mmap=True)
    expected = mapped.search(data[2][:5], 5)
    Index.from_weights(*layer(m=5, d=3)[:2]).save(path)
    same(mapped.search(data[2][:5], 5), expected)
    assert Index.load(path).m == 5


def test_a_subclass_comes_back_as_itself(data):
    class Mine(Index):
        __slots__ = ()

    mine = Mine.from_weights(data[0])
    assert type(copy.copy(mine)) is Mine
    assert type(Mine.from_bytes(mine.to_bytes())) is Mine


def test_metadata(index, data, tmp_path):
    path = tmp_path / "a"
    index.save(path)
    metadata = Index.metadata(path)
    assert {name: metadata[name] for name in ("format_version", "m", "d", "dtype")} == {
        "format_version": 1,
        "m": 300,
        "d": 24,
        "dtype": "float32",
    }
    assert LSSConfig.from_json(metadata["config"]) == index.config
    assert metadata["params"].items() <= index.params.items()
    with path.open("r+b") as file:  # tensors are not read
        file.truncate(path.stat().st_size - 100_000)
    assert Index.metadata(path) == metadata
    Index.from_weights(data[0]).save(path)
    assert Index.metadata(path)["params"] is None


def test_files_refused(index, tmp_path):
    path = tmp_path / "a"
    with pytest.raises(FileNotFoundError) as caught:
        Index.load(path)
    assert pathlib.Path(caught.value.filename) == path
    with pytest.raises(FileNotFoundError):
        Index.metadata(path)
    where = tmp_path / "no" / "where"
    for at in (where, str(where), os.fsencode(where)):
        with pytest.raises(FileNotFoundError) as caught:
            index.save(at)
        assert str(caught.value) == f"[Errno {errno.ENOENT}] {os.strerror(errno.ENOENT)}: {str(where)!r}"
    with pytest.raises(OSError, match="is a directory"):
        index.save(tmp_path)
    with pytest.raises(
        ValueError, match=says("'prefault' must be False without mmap=True. Got True instead.")
    ):
        Index.load(path, prefault=True)
    with pytest.raises(TypeError, match=says("'mmap' must be True or False. Got 'r' instead.")):
        Index.load(path, mmap="r")
    with pytest.raises(TypeError, match=says("'prefault' must be True or False. Got 'r' instead.")):
        Index.load(path, mmap=True, prefault="r")
    with pytest.raises(TypeError, match=says("'data' must be bytes. Got a str instead.")):
        Index.from_bytes("abc")
    with pytest.raises(TypeError):
        Index.load(3)
    for damaged in (b"", b"abc", b"\0" * 100, index.to_bytes()[:-64], index.to_bytes() + b"\0" * 64):
        path.write_bytes(damaged)
        for read in (
            lambda: Index.load(path),
            lambda: Index.load(path, mmap=True),
            lambda damaged=damaged: Index.from_bytes(damaged),
        ):
            with pytest.raises(FormatError):
                read()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda text: text.replace("n_tables", "n_cables"), "has no parameter 'n_cables'"),
        (lambda text: text.replace("refine", "magical"), "'method' parameter"),
        (lambda text: text.replace("resolved", "relovsed"), "damaged"),
        (lambda text: text[:-1], "damaged"),
        (lambda text: "[]", "damaged"),
        (lambda text: "", "damaged"),
        (lambda text: '{"config": {}, "resolved": null, "k": 0}', "do not belong together"),
    ],
)
def test_configurations_refused(index, change, text):
    data = index._core.to_bytes(change(index._extra()))
    with pytest.raises(FormatError, match=text):
        Index.from_bytes(data)


@pytest.mark.parametrize("seed", range(50))
def test_flipped_bytes_are_refused_or_harmless(short, seed):
    """Whatever a file says, reading and searching it ends in an answer or an error, not in a crash."""
    index, _, _, Q = short
    rng = np.random.default_rng(seed)
    data = np.frombuffer(index.to_bytes(), np.uint8).copy()
    where = rng.integers(0, len(data) if seed % 2 else 3000, 5)
    data[where] ^= rng.integers(1, 256, 5).astype(np.uint8)
    try:
        again = Index.from_bytes(data.tobytes())
    except FormatError:
        return
    if again.d == index.d:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            labels, _ = again.search(Q[:20], 5)
        assert labels.max() < again.m


# Threads and processes


def test_searches_from_many_threads(fitted, data):
    x = data[2][:200]
    expected = fitted.search(x, 5)

    def search(i):
        if i % 3:
            return [fitted.search(query, 5) for query in x]
        return fitted.search(x, 5, num_threads=1 + i % 2)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for i, result in enumerate(pool.map(search, range(16))):
            if i % 3:
                result = [np.stack(part) for part in zip(*result, strict=True)]
            same(result, expected)


def test_searches_see_the_state_before_or_after_a_fit(data):
    W, b, Q = data
    states = []
    for n in (300, 900):
        states.append(Index.from_weights(W, b).fit(Q[:n], progress=False).search(Q[:50], 5))
    index = Index.from_weights(W, b).fit(Q[:300], progress=False)
    done, seen, wrong = threading.Event(), set(), []

    def watch():
        while True:
            last = done.is_set()
            got = index.search(Q[:50], 5)
            found = [i for i, state in enumerate(states) if (got.scores == state.scores).all()]
            seen.update(found)
            wrong.extend([got] * (not found))
            if last:
                return

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        index.fit(Q, progress=False)
    finally:
        done.set()
        watcher.join()
    assert not wrong
    assert 1 in seen


FORK = """
import os, signal
import numpy as np
from lss_rs import Index

rng = np.random.default_rng(0)
W = rng.standard_normal((300, 8), dtype=np.float32)
Q = rng.standard_normal((500, 8), dtype=np.float32)
index = Index.from_weights(W).fit(Q, progress=False)
expected = index.search(Q, 5, num_threads=2)  # the pool's threads are there, and gone in the child
child = os.fork()
if child == 0:
    signal.alarm(60)
    same = all((a == b).all() for a, b in zip(index.search(Q, 5, num_threads=2), expected))
    index.fit(Q[:400], progress=False)
    os._exit(0 if same and len(index.search(Q[0], 5).labels) == 5 else 1)
_, status = os.waitpid(child, 0)
assert status == 0, status
assert (index.search(Q, 5, num_threads=2).labels == expected.labels).all()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_searches_and_fits():
    subprocess.run([sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK], check=True, timeout=120)


# The package


def test_threads_are_set_for_the_package(index, data):
    before = lss_rs.get_num_threads()
    expected = index.search(data[2][:50], 5)
    try:
        lss_rs.set_num_threads(3)
        assert lss_rs.get_num_threads() == 3
        same(index.search(data[2][:50], 5), expected)
        with pytest.raises(ValueError, match=says("'n' must be 0 or more threads. Got -1 instead.")):
            lss_rs.set_num_threads(-1)
        with pytest.raises(ValueError, match="'n' must be at most 4096 threads"):
            lss_rs.set_num_threads(5000)
    finally:
        lss_rs.set_num_threads(before)


def test_show_versions(capsys):
    lss_rs.show_versions()
    shown = capsys.readouterr().out
    assert f"lss_rs: {lss_rs.__version__}\n" in shown
    assert f"numpy: {np.__version__}\n" in shown
    assert f"kernel: {lss_rs._core.active_kernel()}\n" in shown
    assert all(name in shown for name, there in lss_rs.cpu_features().items() if there)


@pytest.mark.parametrize("of_rows", [1e-30, 1e-24, 1.0, 1e25])
@pytest.mark.parametrize("of_queries", [1e-10, 1.0, 1e10])
def test_scale_changes_no_answer(of_rows, of_queries):
    rng = np.random.default_rng(5)
    W = rng.standard_normal((500, 16)).astype(np.float32)
    Q = rng.standard_normal((1200, 16)).astype(np.float32)
    config = LSSConfig(max_entries=200, n_rescore=20)
    expected = Index.from_weights(W, config=config).fit(Q, k=5, progress=False).search(Q, k=1).labels
    # Powers of two: the same digits at another size.
    of_rows, of_queries = (np.float32(2.0 ** round(np.log2(s))) for s in (of_rows, of_queries))
    index = Index.from_weights(W * of_rows, config=config).fit(Q * of_queries, k=5, progress=False)
    assert (index.search(Q * of_queries, k=1).labels == expected).mean() > 0.99


def test_a_query_that_hides_all_others_is_warned_of(data):
    W, b, Q = data
    Q = Q.copy()
    Q[7] *= 1e6
    with pytest.warns(UserWarning, match="'Q' hardly varies in 9.% of its 24 directions"):
        Index.from_weights(W, b).fit(Q, progress=False)


def test_out_may_overlap_the_queries(data):
    W, b, Q = data
    index = Index.from_weights(W, b).fit(Q, progress=False)
    expected = index.search(Q[:4], k=5)
    shared = Q[:4].copy()
    labels = np.empty((4, 5), np.int64)
    scores = shared.reshape(-1)[:20].reshape(4, 5)
    index.search(shared, k=5, out=(labels, scores))
    np.testing.assert_array_equal(labels, expected.labels)
    np.testing.assert_array_equal(scores, expected.scores)


def test_counts_have_limits(data):
    W, b, Q = data
    index = Index.from_weights(W, b)
    with pytest.raises(ValueError, match=r"'k' must be at most 2147483647. Got 1180591620717411303424"):
        index.search(Q[:1], k=2**70, exact=True)
    with pytest.raises(ValueError, match=r"'num_threads' must be at most 4096. Got 18446744073709551616"):
        index.search(Q[:1], k=1, exact=True, num_threads=2**64)


def test_nothing_to_learn_from(data):
    W, b, _ = data
    index = Index.from_weights(W, b, LSSConfig(teacher_top=0))
    with pytest.raises(ValueError, match=r"'Y' .*at least one label with teacher_top=0"):
        index.fit(np.ones((60, 24), np.float32), [[]] * 60, progress=False)


def test_what_is_saved_during_fits_belongs_together(data):
    W, b, Q = data
    index = Index.from_weights(W, b).fit(Q[:200], k=3, progress=False)
    stop = threading.Event()

    def refit():
        for k in range(1, 9):
            index.fit(Q[: 100 * k], k=k, progress=False)
        stop.set()

    worker = threading.Thread(target=refit)
    worker.start()
    while not stop.is_set():
        Index.from_bytes(index.to_bytes())
    worker.join()

"""Scoring in torch against loops in numpy, on every device that is there."""

import contextlib
import types
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from lss_rs import Index, LSSConfig, NotFittedError  # noqa: E402
from lss_rs.torch import Scorer, _products  # noqa: E402
from lss_rs.torch import scorer as module  # noqa: E402

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
MPS = pytest.mark.skipif(not torch.backends.mps.is_available(), reason="no Metal device here")
DEVICES = ["cpu", pytest.param("cuda", marks=CUDA), pytest.param("mps", marks=MPS)]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
M, D, N = 300, 12, 700


def layer(m=M, d=D, n=N, seed=0):
    rng = np.random.default_rng(seed)
    W, Q = (rng.standard_normal((rows, d), dtype=np.float32) for rows in (m, n))
    return W, rng.standard_normal(m, dtype=np.float32), Q


def fitted(config=None, **sizes):
    W, b, Q = layer(**sizes)
    config = config or LSSConfig(n_neighbors=4, teacher_top=12)
    return Index.from_weights(W, b, config).fit(Q, k=5, target=None, progress=False)


# Few and many candidates, lists of like and of unlike lengths, and lists of none.
CONFIGS = {
    "queries": LSSConfig(n_neighbors=4, teacher_top=12),
    "one neighbour": LSSConfig(n_neighbors=1, teacher_top=3, max_entries=4),
    "rows": LSSConfig(fill="rows", method="simhash", n_bits=8, n_tables=1, n_probes=1, sketch_bytes=0),
    "rows, many": LSSConfig(fill="rows", n_bits=4, n_tables=4),
}
INDEXES = {name: fitted(config) for name, config in CONFIGS.items()}


def rows_of(index, dtype):
    """The rows as a device stores them, and the bias."""
    W = torch.from_numpy(index._core.rows(0, index.m)).to(dtype)
    return W, W.double().numpy(), index._core.bias.astype(np.float64)


def ranked(labels, logits, k):
    order = np.lexsort((labels, -logits))[:k]
    return labels[order], logits[order]


def agree(found, expected, W, b, query, error=1e-4):
    """Check labels and values against an exact ranking, ties and rounding aside."""
    values, labels = (part.cpu().numpy() for part in found)
    known = labels >= 0
    assert known.sum() == len(expected[0])
    assert (values[~known] == -np.inf).all()
    assert len(set(labels[known].tolist())) == known.sum()
    np.testing.assert_allclose(values[known], expected[1], atol=error)
    np.testing.assert_allclose(values[known], W[labels[known]] @ query + b[labels[known]], atol=error)
    assert (np.diff(values[known]) <= 0).all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CONFIGS)
@settings(max_examples=20)
@given(
    n=st.integers(0, 40),
    k=st.integers(1, 400),
    seed=st.integers(0, 99),
    chunk=st.sampled_from([1, 5_000, 100_000, 1 << 28]),
    always=st.sets(st.integers(0, M - 1), max_size=4),
)
def test_candidates_of_the_tables_are_ranked(name, dtype, device, n, k, seed, chunk, always):
    index = INDEXES[name]
    W, exact, b = rows_of(index, dtype)
    Q = layer(n=n, seed=seed)[2]
    scorer = Scorer(index, W, device, always=always, chunk_bytes=chunk)
    found = scorer.topk(torch.from_numpy(Q), k)
    assert found.values.shape == found.indices.shape == (n, k)
    assert found.values.device.type == device
    assert found.values.dtype is torch.float32
    indptr, ids = index.candidates(Q)
    for i, query in enumerate(Q.astype(np.float64)):
        mine = np.union1d(ids[indptr[i] : indptr[i + 1]], np.array(sorted(always), np.int64)).astype(np.int64)
        expected = ranked(mine, exact[mine] @ query + b[mine], k)
        agree((found.values[i], found.indices[i]), expected, exact, b, query)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@settings(max_examples=20)
@given(
    n=st.integers(0, 40),
    k=st.integers(1, 30),
    r=st.integers(1, 400),
    p=st.none() | st.integers(1, D),
    seed=st.integers(0, 99),
    chunk=st.sampled_from([1, 20_000, 1 << 28]),
)
def test_a_scan_scores_the_rows_that_promise_most(dtype, device, n, k, r, p, seed, chunk):
    index = INDEXES["queries"]
    W, exact, b = rows_of(index, dtype)
    Q = layer(n=n, seed=seed)[2]
    scorer = Scorer(index, W, device, path="scan", n_rescore=r, n_coordinates=p, chunk_bytes=chunk)
    # The device has it all: of the index no more is asked than its size.
    scorer.index = types.SimpleNamespace(m=M, d=D, operating_point=index.operating_point)
    found = scorer.topk(torch.from_numpy(Q), k)
    coordinates, base = index._core.row_coordinates(p or D)
    query_map, offset = index._core.query_map()
    z = Q @ query_map.T[:, : p or D] + offset[: p or D]
    estimates = z @ coordinates.T + base
    error = 1e-3 if dtype is torch.float32 else 0.03 * np.abs(estimates).max(initial=1)
    for i, query in enumerate(Q.astype(np.float64)):
        values, labels = found.values[i].cpu().numpy(), found.indices[i].cpu().numpy()
        count = min(k, M)
        assert (labels[:count] >= 0).all()
        assert (labels[count:] == -1).all()
        labels, values = labels[:count], values[:count]
        np.testing.assert_allclose(values, exact[labels] @ query + b[labels], atol=1e-4)
        assert (np.diff(values) <= 0).all()
        # Whoever clearly is among the most promising, and has a logit above the last answer's, is an answer.
        least = np.sort(estimates[i])[::-1][min(max(r, k), M) - 1]
        assert (estimates[i][labels] >= least - error).all()
        sure = np.flatnonzero(estimates[i] > least + error)
        logits = exact[sure] @ query + b[sure]
        assert set(sure[logits > values[-1] + 1e-3]) <= set(labels.tolist())


@contextlib.contextmanager
def summing_wide(device):
    """Let a device pass for one that sums products of halves in single precision, as CUDA does itself."""

    def widened(product):
        def multiply(a, b, out_dtype=None):
            assert a.dtype == b.dtype
            return product(a.to(out_dtype), b.to(out_dtype)) if out_dtype else product(a, b)

        return multiply

    with pytest.MonkeyPatch.context() as patch:
        if device != "cuda":
            patch.setattr(module, "sums_wide", lambda _: True)
            for name in ("mm", "bmm"):
                patch.setattr(torch, name, widened(getattr(torch, name)))
        yield


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("asked", DTYPES, ids=lambda dtype: f"asked in {dtype}")
@pytest.mark.parametrize("path", ["tables", "scan", "core"])
@settings(max_examples=15)
@given(
    name=st.sampled_from(["queries", "one neighbour", "rows", "rows, many"]),
    n=st.integers(0, 110),
    k=st.integers(1, 40),
    r=st.integers(1, 20),
    seed=st.integers(0, 99),
    chunk=st.sampled_from([1, 5_000, 30_000, None]),
    always=st.sets(st.integers(0, M - 1), max_size=4),
)
def test_halves_are_multiplied_as_they_are(path, asked, dtype, device, name, n, k, r, seed, chunk, always):
    name = name if path == "tables" else "queries"
    index = INDEXES[name]
    W, exact, b = rows_of(index, dtype)
    if path == "core":  # from rows of its own, but for these
        own, others = exact, sorted(always)
        exact = index._core.rows(0, M).astype(np.float64)
        exact[others] = own[others]
    q = torch.from_numpy(layer(n=n, seed=seed)[2]).to(asked)
    Q = q.float().numpy()
    with summing_wide(device):
        listed = r if path == "scan" else 50
        sizes = {"n_rescore": r, "n_candidates": listed, "chunk_bytes": chunk}
        scorer = Scorer(index, W, device, path=path, always=always, **sizes)
        found = scorer.topk(q.to(device), k)
        labels, logits = (part.cpu().numpy() for part in scorer.candidates(q.to(device)))
    assert found.values.shape == found.indices.shape == (n, k)
    assert found.values.device.type == device
    assert found.values.dtype is torch.float32
    # All rows take the place of lists as the documentation says, and of a list that all is asked of never.
    indptr, ids = index.candidates(Q)
    a_time = max(1, (chunk or 1 << 30) // (16 * M))
    first = min(64, a_time)
    mean = {"tables": np.diff(indptr)[:first].mean() if n > first else 0, "scan": max(r, k), "core": 0}[path]
    everything = asked == dtype != torch.float32 and min(n, a_time) * mean >= M
    for i, query in enumerate(Q.astype(np.float64)):
        mine = labels[i][labels[i] >= 0]
        assert len(set(mine.tolist())) == len(mine)
        assert always <= set(mine.tolist())
        np.testing.assert_allclose(logits[i][labels[i] >= 0], exact[mine] @ query + b[mine], atol=1e-4)
        assert (logits[i][labels[i] < 0] == -np.inf).all()
        if path == "tables":
            assert set(mine.tolist()) == set(ids[indptr[i] : indptr[i + 1]].tolist()) | always
        if path == "scan":
            assert r <= len(mine) <= r + len(always)
        if path == "core" or (path == "scan" and k > r and not everything):
            continue  # what is found depends on how many are asked for, and has a test
        mine = np.arange(M) if everything else mine
        expected = ranked(mine, exact[mine] @ query + b[mine], k)
        agree((found.values[i], found.indices[i]), expected, exact, b, query)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("most", [1, 7, 30, M])
def test_a_scan_lists_the_best_of_what_it_scores(most, device):
    index = INDEXES["queries"]
    W, q = rows_of(index, torch.float32)[0], torch.from_numpy(layer(n=20, seed=2)[2]).to(device)
    labels, logits = Scorer(index, W, device, path="scan", n_rescore=30, n_candidates=most).candidates(q)
    assert labels.shape == logits.shape == (20, most)
    best = Scorer(index, W, device, path="scan", n_rescore=max(30, most)).topk(q, most)
    order = logits.sort(1, descending=True)
    torch.testing.assert_close(order.values, best.values)
    assert torch.equal(labels.gather(1, order.indices), best.indices)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("r", "lists"), [(9, 30), (10, 30), (300, 1)])
def test_all_rows_are_scored_where_as_many_would_be_gathered(r, lists, dtype, device):
    index = INDEXES["queries"]
    W, q = rows_of(index, dtype)[0], torch.from_numpy(layer(n=lists, seed=2)[2]).to(dtype)
    full = (q.double() @ W.double().T + torch.from_numpy(index._core.bias)).topk(5)
    with summing_wide(device):
        # One coordinate tells so little that a scan is not as good by chance.
        scorer = Scorer(index, W, device, path="scan", n_rescore=r, n_coordinates=1)
        found = scorer.topk(q.to(device), 5)
    everything = r * lists >= M and dtype is not torch.float32
    assert torch.equal(found.indices.cpu(), full.indices) == (everything or r == M)


@CUDA
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n", [1, 30, 300])
def test_a_scan_never_waits_for_the_device(n, dtype):
    index = INDEXES["queries"]
    q = torch.from_numpy(layer(n=n, seed=1)[2]).to("cuda", dtype)
    scorer = Scorer(index, rows_of(index, dtype)[0], "cuda", path="scan", n_rescore=5, chunk_bytes=1 << 20)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype")
        try:
            torch.cuda.set_sync_debug_mode("error")
            scorer.topk(q, 5)
            scorer.candidates(q)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_halves_are_summed_wide_where_torch_can():
    assert not _products.sums_wide(torch.device("cpu"))
    if torch.cuda.is_available() and hasattr(torch.ops.aten.bmm, "dtype"):
        assert _products.sums_wide(torch.device("cuda"))


@pytest.mark.parametrize("free", [1 << 20, 64 << 30])
def test_batches_are_cut_to_the_memory_there_is(free, monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 2 * free))
    assert module._spare_bytes(torch.device("cpu")) == 256 << 20
    assert module._spare_bytes(torch.device("cuda")) == max(256 << 20, free // 16)
    index = INDEXES["queries"]
    assert Scorer(index, rows_of(index, torch.float32)[0]).chunk_bytes == 256 << 20


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["queries", "rows, many"])
@settings(max_examples=20)
@given(n=st.integers(0, 40), k=st.integers(1, 30), seed=st.integers(0, 99), chunk=st.sampled_from([1, 900]))
def test_the_core_answers_as_it_does(name, device, n, k, seed, chunk):
    index = INDEXES[name]
    Q = layer(n=n, seed=seed)[2]
    found = Scorer(index, rows_of(index, torch.float32)[0], device, path="core", chunk_bytes=chunk).topk(
        torch.from_numpy(Q), k
    )
    labels, scores = np.empty((n, k), np.int64), np.empty((n, k), np.float32)
    index._core.search(Q, k, labels, scores, False, "pad", True, np.inf, 1)
    np.testing.assert_array_equal(found.indices.cpu().numpy(), labels)
    np.testing.assert_array_equal(found.values.cpu().numpy(), scores)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("path", ["tables", "scan", "core", "core-scan"])
@given(
    n=st.integers(0, 9),
    always=st.sets(st.integers(0, M - 1), max_size=4),
    chunk=st.sampled_from([1, 1 << 20]),
)
@settings(max_examples=20)
def test_all_candidates_are_listed_once(path, dtype, device, n, always, chunk):
    index = INDEXES["queries"]
    W, exact, b = rows_of(index, dtype)
    rows, others = index._core.rows(0, M).astype(np.float64), sorted(always)
    rounded = exact[others] - rows[others]
    if path in ("core", "core-scan"):  # from rows of its own, but for these
        rows[others] = exact[others]
        exact = rows
    Q = layer(n=n, seed=5)[2]
    few = {"n_candidates": 20, "n_rescore": 20, "chunk_bytes": chunk}
    scorer = Scorer(index, W, device, path=path, always=always, **few)
    labels, logits = (part.cpu() for part in scorer.candidates(torch.from_numpy(Q).to(device)))
    best = scorer.topk(torch.from_numpy(Q).to(device), 3)
    by_core = scorer.index.search(Q, 3, effort="adaptive")
    indptr, ids = index.candidates(Q)
    for i in range(n):
        known = labels[i] >= 0
        mine = labels[i][known].tolist()
        assert len(set(mine)) == len(mine)
        assert always <= set(mine)
        assert (logits[i][~known] == -torch.inf).all()
        np.testing.assert_allclose(logits[i][known].numpy(), exact[mine] @ Q[i] + b[mine], atol=1e-4)
        if path == "tables":
            assert set(mine) == set(ids[indptr[i] : indptr[i + 1]].tolist()) | always
        else:
            assert 20 <= len(mine) <= 20 + len(always)
        assert set(best.indices[i].tolist()) <= set(mine)
        if path == "core-scan":  # of more than tables find
            error = 1e-4 + np.abs(rounded @ Q[i]).max(initial=0)
            assert (best.values[i].cpu().numpy() >= by_core.scores[i] - error).all()


@pytest.mark.parametrize("path", ["tables", "scan", "core", "core-scan"])
def test_an_exact_index_scores_all_rows(path):
    index = fitted()
    W, exact, b = rows_of(index, torch.float32)
    Q = layer(n=50, seed=3)[2]
    scorer = Scorer(index, W, path=path, chunk_bytes=10_000)
    index.apply(index.operating_point._replace(exact=True))
    found = scorer.topk(torch.from_numpy(Q), 7)
    for i, query in enumerate(Q.astype(np.float64)):
        expected = ranked(np.arange(M), exact @ query + b, 7)
        agree((found.values[i], found.indices[i]), expected, exact, b, query)


NEVER, ALWAYS = ((5.0, bias, *[0.0] * 9) for bias in (-30.0, 30.0))
"""Judges: nothing convinces the one, anything the other."""


def test_the_core_scans_where_it_is_not_trusted():
    index = fitted(LSSConfig(n_neighbors=3, teacher_top=8, n_rescore=20))
    W, Q = rows_of(index, torch.float32)[0], torch.from_numpy(layer(n=30, seed=4)[2])
    point = index.operating_point

    def listed(path, n, **changes):
        index.apply(point._replace(**changes))
        labels, _ = Scorer(index, W, path=path, n_candidates=n).candidates(Q)
        return [set(row[row >= 0].tolist()) for row in labels]

    tables = listed("core", 100)
    scanned = listed("core-scan", 100)
    assert all(len(row) < 30 for row in tables)
    assert all(len(row) == 100 for row in scanned)
    assert listed("core", 100, trust=0.5, judge=ALWAYS) == tables
    assert listed("core", 100, trust=0.5, judge=NEVER) == scanned
    assert listed("core-scan", 100, trust=0.5, judge=ALWAYS) == scanned
    # All that is probable: the best hundred of all rows but for those that sketches confuse.
    best = (Q @ W.T + torch.from_numpy(index._core.bias)).topk(100).indices
    found = [len(row & set(all_rows.tolist())) for row, all_rows in zip(scanned, best, strict=True)]
    assert np.mean(found) > 97
    # Each on its own: some are trusted and some not.
    trust = index.apply(point._replace(judge=(5.0, 0.0, 1.0, *[0.0] * 8))).search(Q.numpy(), 5, stats=True)
    middle = float(np.median(trust.stats["trust"]))
    some = listed("core", 100, trust=middle, judge=(5.0, 0.0, 1.0, *[0.0] * 8))
    doubtful = trust.stats["trust"] < middle
    assert 0 < doubtful.sum() < 30
    assert some == [s if d else t for s, t, d in zip(scanned, tables, doubtful, strict=True)]


def test_a_point_that_is_applied_holds_for_scans_too():
    index = fitted(LSSConfig(n_neighbors=3, teacher_top=8, n_rescore=20))
    W, Q = rows_of(index, torch.float32)[0], torch.from_numpy(layer(n=30, seed=4)[2])
    scorer = Scorer(index, W, path="core-scan")
    scorer.topk(Q, 5)
    twin = scorer._scanning()
    assert scorer._scanning() is twin
    index.apply(index.operating_point._replace(n_scan=7))
    assert scorer._scanning().operating_point.n_scan == 7
    fresh = Scorer(index, W, path="core-scan")
    for found, expected in zip(scorer.topk(Q, 5), fresh.topk(Q, 5), strict=True):
        assert torch.equal(found, expected)


class Largest(TorchDispatchMode):
    """Remember the bytes of the largest tensor that any operation makes."""

    largest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for part in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(part, torch.Tensor):
                self.largest = max(self.largest, part.untyped_storage().nbytes())
        return made


class Listing:
    """An index that remembers the bytes of the largest list of candidates it gave."""

    def __init__(self, index):
        self.index, self.largest = index, 0

    def __getattr__(self, name):
        return getattr(self.index, name)

    def candidates(self, x):
        indptr, ids = self.index.candidates(x)
        self.largest = max(self.largest, ids.nbytes)
        return indptr, ids


# Halves are not widened on CUDA; queries in single precision have rows widened anywhere.
@pytest.mark.parametrize("asked", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("path", ["tables", "scan", "core", "core-scan"])
def test_memory_does_not_grow_with_the_batch(path, exact, device, asked):
    index = fitted(LSSConfig(n_neighbors=30, teacher_top=40))
    index.apply(index.operating_point._replace(exact=exact))
    chunk, queries = 200_000, torch.randn(3000, D).to(device, asked)
    scorer = Scorer(index, rows_of(index, asked)[0], device, path=path, n_rescore=40, chunk_bytes=chunk)
    scorer.index = listing = Listing(index)
    for n in (300, 3000):
        with Largest() as seen:
            scorer.topk(queries[:n], 5)
        inherent = n * max(D * 4, 5 * 8)  # queries and answers
        assert seen.largest <= max(chunk, inherent)
        assert listing.largest <= chunk
        assert (listing.largest > 0) == (path == "tables" and not exact)


def test_shapes_and_devices_of_answers():
    index = INDEXES["queries"]
    W = rows_of(index, torch.float32)[0]
    scorer = Scorer(index, W)
    q = torch.randn(D)
    one, row = scorer.topk(q, 4), scorer.topk(q[None], 4)
    assert one.indices.shape == (4,)
    assert torch.equal(one.indices, row.indices[0])
    assert torch.equal(one.values, row.values[0])
    half = scorer.topk(q.to(torch.bfloat16), 4)
    assert torch.equal(half.values, scorer.topk(q.to(torch.bfloat16).float(), 4).values)
    assert scorer.W.data_ptr() == W.data_ptr()
    assert not scorer.topk(q.clone().requires_grad_(), 2).values.requires_grad


def test_what_does_not_fit_is_named():
    index = INDEXES["queries"]
    W = rows_of(index, torch.float32)[0]
    for make, error, text in [
        (lambda: Scorer(index, W[1:]), ValueError, rf"'W' must be of shape \({M}, {D}\)"),
        (lambda: Scorer(index, W.long()), TypeError, "'W' must be a tensor of floats"),
        (lambda: Scorer(index, W, b=W[0]), ValueError, "'b' must be of shape"),
        (lambda: Scorer(index, W, dtype=torch.float64), TypeError, "'dtype' must be float32, float16 or"),
        (
            lambda: Scorer(index, W, path="gpu"),
            ValueError,
            "'path' must be 'tables', 'scan', 'core' or 'core-scan'",
        ),
        (lambda: Scorer(index, W, always=[M]), ValueError, "'always' must be label ids in 0..299. Got 300"),
        (lambda: Scorer(INDEXES["rows"], W, path="scan"), ValueError, "index without sketches"),
        (lambda: Scorer(INDEXES["rows, many"], W, path="core-scan"), ValueError, "index .* of rows"),
        (lambda: Scorer(Index.from_weights(W), W), NotFittedError, "call fit first"),
        (lambda: Scorer(index, W).topk(W[:, 1:], 3), ValueError, "'q' must be of shape"),
        (lambda: Scorer(index, W).topk(W.long(), 3), TypeError, "'q' must be a tensor of floats"),
        (lambda: Scorer(index, W).topk(W / 0, 3), ValueError, "'q' must be finite"),
        (lambda: Scorer(index, W).topk(W, 0), ValueError, "'k' must be an int >= 1"),
        (lambda: Scorer(index, W, chunk_bytes=0), ValueError, "'chunk_bytes' must be an int >= 1"),
    ]:
        with pytest.raises(error, match=text):
            make()

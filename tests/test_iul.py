"""IUL against the paper's words, read as sets and loops, and as a method of ``fit``."""

import logging
import math
from dataclasses import asdict

import numpy as np
import pytest

pytest.importorskip("hypothesis")
torch = pytest.importorskip("torch")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from lss_rs import Index, IULOptions, LSSConfig, metrics  # noqa: E402
from lss_rs._arrays import QueryRows, as_labels  # noqa: E402
from lss_rs.learn import iul  # noqa: E402
from lss_rs.learn.iul import Pairs, Round  # noqa: E402
from lss_rs.learn.simhash import simhash_planes  # noqa: E402

pytestmark = pytest.mark.inference

SEEDS = st.integers(0, 2**32 - 1)


def planted(m=400, d=16, n=1500, seed=0):
    """Rows, queries near the row of their only label, and these labels."""
    rng = np.random.default_rng(seed)
    W = rng.standard_normal((m, d), dtype=np.float32)
    W /= np.linalg.norm(W, axis=1, keepdims=True)
    Y = rng.integers(0, m, n)
    return W, W[Y] + 0.08 * rng.standard_normal((n, d), dtype=np.float32), Y


def layer(seed, m=60, d=4, n=25, n_bits=4, whole=True):
    """Up to three labels a query. Whole numbers have exact inner products, and ties."""
    rng = np.random.default_rng(seed)
    shapes = (m, d), (m,), (n, d), (3, n_bits, d + 1)
    W, b, Q, planes = (rng.integers(-3, 4, s) if whole else rng.standard_normal(s) for s in shapes)
    labels = [set(rng.integers(0, m, rng.integers(0, 4)).tolist()) for _ in range(n)]
    return W.astype("f4"), b.astype("f4"), Q.astype("f4"), labels, planes.astype("f4")


def learn(W, b, Q, labels, planes, *, k=10, seed=0, **options):
    Y = None if labels is None else as_labels(list(map(list, labels)), len(Q), len(W))
    core, queries = Index.from_weights(W, b)._core, QueryRows(Q, W.shape[1])
    return iul.iul_planes(core, queries, Y, planes, IULOptions(**options), k, seed, lambda *_: None)


# The paper's words


def augmented(W, b, Q):
    return np.c_[W, b].astype(np.float64), np.c_[Q, np.ones(len(Q))]


def buckets(x, planes):
    """Where each table puts a vector."""
    return {(t, *(bool(plane @ x > 0) for plane in table)) for t, table in enumerate(planes)}


def retrieved(queries, rows, planes):
    """Return of each query the rows that share a bucket with it."""
    of_rows = [buckets(w, planes) for w in rows]
    of_queries = [buckets(q, planes) for q in queries]
    return [{j for j, of_row in enumerate(of_rows) if of_row & of_query} for of_query in of_queries]


def mean_quantile(logits, share):
    return sum(sorted(of_query)[math.ceil(share * len(of_query)) - 1] for of_query in logits) / len(logits)


def pairs_by_hand(W, b, Q, labels, planes, options):
    rows, queries = augmented(W, b, Q)
    logits = (queries @ rows.T).tolist()
    t1, t2 = max(mean_quantile(logits, options.t1_quantile), 0), mean_quantile(logits, options.t2_quantile)
    positive, negative = set(), set()
    for i, found in enumerate(retrieved(queries, rows, planes)):
        wanted = labels[i] if options.positives == "labels" else range(len(rows))
        positive |= {(i, j) for j in wanted if j not in found and logits[i][j] > t1}
        negative |= {(i, j) for j in found if j not in labels[i] and logits[i][j] < t2}
    return positive, negative


def curve_by_hand(W, b, Q, labels, planes):
    """Label recall, P@1 and sample size."""
    rows, queries = augmented(W, b, Q)
    recall, hits, sizes = [], 0, 0
    for q, true, found in zip(queries, labels, retrieved(queries, rows, planes), strict=True):
        sizes += len(found)
        if true:
            recall.append(len(found & true) / len(true))
        if found:
            hits += max(found, key=lambda j, q=q: (rows[j] @ q, -j)) in true
    return np.mean(recall) if recall else math.nan, hits / len(Q), sizes / len(Q)


def loss_by_hand(planes, queries, rows, meet, beta):
    total = 0.0
    for q, w, together in zip(queries, rows, meet, strict=True):
        for table in planes:
            agreement = sum(math.tanh(beta * (p @ q)) * math.tanh(beta * (p @ w)) for p in table)
            share = 1 / (1 + math.exp(-agreement))
            total -= math.log(share if together else 1 - share)
    return total / (len(meet) * len(planes))


# Its parts


@given(SEEDS, st.sampled_from(["labels", "rows"]), st.sampled_from([0.5, 0.8, 0.999, 1.0]))
def test_pairs_are_those_of_the_paper(seed, positives, t1_quantile):
    W, b, Q, labels, planes = layer(seed, m=30, n=9, n_bits=2)
    options = IULOptions(positives=positives, t1_quantile=t1_quantile)
    rows, x, theta = (torch.tensor(a, dtype=torch.float32) for a in (*augmented(W, b, Q), planes))
    found = iul.same_bucket(iul.codes(x, theta), iul.codes(rows, theta))
    true = iul.label_pairs(as_labels(list(map(list, labels)), len(Q)), np.arange(len(Q)), x.device)
    mined = iul.mine(x @ rows.T, found, true, options)
    expected = pairs_by_hand(W, b, Q, labels, planes, options)
    assert tuple(set(zip(i.tolist(), j.tolist(), strict=True)) for i, j in mined) == expected
    assert tuple(len(pairs.queries) for pairs in mined) == tuple(map(len, expected))


@given(SEEDS, st.integers(1, 40), st.integers(1, 40), st.floats(1e-3, 1), st.floats(1e-3, 1))
def test_thresholds_are_mean_quantiles(seed, n, m, one, other):
    logits = np.random.default_rng(seed).integers(-9, 5, (n, m))
    t1, t2 = iul.thresholds(
        torch.tensor(logits, dtype=torch.float64), IULOptions(t1_quantile=one, t2_quantile=other)
    )
    assert t1 == pytest.approx(max(mean_quantile(logits.tolist(), one), 0))
    assert t2 == pytest.approx(mean_quantile(logits.tolist(), other))


def test_the_first_threshold_is_not_below_zero():
    assert iul.thresholds(torch.full((2, 5), -3.0), IULOptions()) == (0.0, -3.0)


@pytest.mark.parametrize("n_bits", [1, 8, 24])
def test_codes_tell_buckets_apart(n_bits):
    rng = np.random.default_rng(0)
    x, planes = rng.standard_normal((200, 5)), rng.standard_normal((3, n_bits, 5))
    codes = iul.codes(torch.from_numpy(x), torch.from_numpy(planes)).tolist()
    for table, of_table in zip(planes, codes, strict=True):
        bits = (x @ table.T > 0).tolist()
        assert len(set(zip(map(tuple, bits), of_table, strict=True))) == len(set(of_table))
        assert len(set(map(tuple, bits))) == len(set(of_table))
        assert 0 <= min(of_table) <= max(of_table) < 2**n_bits


@given(SEEDS, st.integers(0, 30), st.integers(0, 30), st.integers(1, 20))
def test_equal_numbers_of_pairs_are_drawn(seed, n_positive, n_negative, most):
    given = [
        Pairs(torch.arange(first, first + n), torch.arange(first, first + n) + 1000)
        for first, n in ((0, n_positive), (100, n_negative))
    ]
    i, j, meet = iul.draw(*given, most, torch.Generator().manual_seed(seed))
    n = min(n_positive, n_negative, most)
    assert meet.tolist() == [True] * n + [False] * n
    assert (j - i).tolist() == [1000] * (2 * n)
    assert len(set(i.tolist())) == 2 * n
    assert set(i[:n].tolist()) <= set(range(n_positive))
    assert set(i[n:].tolist()) <= set(range(100, 100 + n_negative))


def test_every_pair_may_be_drawn():
    many, few = (Pairs(torch.arange(n), torch.arange(n)) for n in (10, 3))
    generator = torch.Generator().manual_seed(0)
    for drawn in ((many, few), (few, many)):
        queries = torch.cat([iul.draw(*drawn, 5, generator)[0] for _ in range(50)])
        assert set(queries.tolist()) == set(range(10))


@pytest.mark.parametrize("beta", [0.3, 1.0])
def test_the_loss_is_that_of_the_paper(beta):
    rng = np.random.default_rng(0)
    planes, queries, rows = (rng.standard_normal(shape) for shape in ((3, 4, 5), (7, 5), (7, 5)))
    meet = rng.random(7) < 0.5
    loss = iul.iul_loss(*map(torch.from_numpy, (planes, queries, rows, meet)), beta)
    assert loss.item() == pytest.approx(loss_by_hand(planes, queries, rows, meet, beta), abs=1e-9)


def test_gradients_are_finite_differences():
    rng = np.random.default_rng(1)
    planes, queries, rows = (rng.standard_normal(shape) for shape in ((2, 3, 4), (5, 4), (5, 4)))
    meet = np.arange(5) < 2
    theta = torch.tensor(planes, requires_grad=True)
    iul.iul_loss(theta, *map(torch.from_numpy, (queries, rows, meet)), 0.7).backward()
    for at in np.ndindex(planes.shape):
        ends = []
        for step in (-1e-5, 1e-5):
            moved = planes.copy()
            moved[at] += step
            ends.append(loss_by_hand(moved, queries, rows, meet, 0.7))
        assert theta.grad[at].item() == pytest.approx((ends[1] - ends[0]) / 2e-5, abs=1e-8)


# Rounds


@pytest.mark.parametrize("positives", ["labels", "rows"])
@pytest.mark.parametrize("seed", range(5))
def test_each_round_meets_the_tables_of_its_planes(seed, positives):
    W, b, Q, labels, start = layer(seed, whole=False)
    options = {"positives": positives, "t1_quantile": 0.7, "batch": 25, "rate": 0.1}
    history = learn(W, b, Q, labels, start, rounds=4, **options)[1]
    assert len(history) == 4
    for done, met in enumerate(history):
        planes = learn(W, b, Q, labels, start, rounds=done, **options)[0] if done else start
        positive, negative = pairs_by_hand(W, b, Q, labels, planes, IULOptions(**options))
        assert (met.positives, met.negatives) == (len(positive), len(negative))
        assert met.pairs == min(len(positive), len(negative))
        curve = met.label_recall, met.precision, met.candidates
        assert curve == pytest.approx(curve_by_hand(W, b, Q, labels, planes), rel=1e-6)
    assert history[0][:3] != history[-1][:3]


def test_rounds_are_steps_of_adam_on_the_pairs_drawn():
    W, b, Q, labels, start = layer(0, n=100, whole=False)
    options = IULOptions(rounds=3, batch=100, rate=0.03, beta=0.2, t1_quantile=0.7)
    generator = torch.Generator().manual_seed(3)
    theta, mean, square = torch.tensor(start), 0.0, 0.0
    losses = []
    for step in (1, 2, 3):
        ids = torch.randperm(100, generator=generator).numpy()
        rows, x = (torch.tensor(a, dtype=torch.float32) for a in augmented(W, b, Q[ids]))
        found = iul.same_bucket(iul.codes(x, theta), iul.codes(rows, theta))
        true = iul.label_pairs(as_labels(list(map(list, labels)), 100), ids, x.device)
        i, j, meet = iul.draw(*iul.mine(x @ rows.T, found, true, options), options.pairs, generator)
        assert len(meet) > 6
        theta.requires_grad_()
        losses.append(iul.iul_loss(theta, x[i], rows[j], meet, 0.2))
        (gradient,) = torch.autograd.grad(losses[-1], theta)
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        change = mean / (1 - 0.9**step) / ((square / (1 - 0.999**step)).sqrt() + 1e-8)
        theta = (theta - 0.03 * change).detach()
        if step == 1:
            assert iul.iul_loss(theta, x[i], rows[j], meet, 0.2) < losses[0]
    planes, history = learn(W, b, Q, labels, start, seed=3, **asdict(options))
    np.testing.assert_allclose(planes, theta.numpy(), atol=1e-4)
    assert [met.loss for met in history] == pytest.approx([loss.item() for loss in losses], rel=1e-4)


def test_who_finds_nothing_has_no_hit():
    logits, nothing = torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.bool)
    assert iul.measure(logits, nothing, Pairs(torch.tensor([0, 1]), torch.tensor([0, 0]))) == (0, 0, 0)


def test_rounds_take_all_queries_in_turn():
    seen = []
    Q = np.eye(10, dtype=np.float32)

    class Watched(QueryRows):
        __slots__ = ()

        def slice(self, lo, hi, step=1):
            seen.append(lo)
            return super().slice(lo, hi, step)

    core, planes = Index.from_weights(Q)._core, simhash_planes(10, 2, 2, 0)[0]
    for seed in (0, 1):
        options = IULOptions(rounds=6, batch=4)
        iul.iul_planes(core, Watched(Q, 10), None, planes, options, 1, seed, lambda *_: None)
    assert len(seen) == 40
    epochs = [seen[lo : lo + 10] for lo in range(0, 40, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 4


def test_without_labels_the_best_are_the_labels():
    rng = np.random.default_rng(0)
    W, b, Q = (rng.standard_normal(shape, dtype=np.float32) for shape in ((50, 6), (50,), (20, 6)))
    best = np.argsort(-(Q @ W.T + b), axis=1)
    planes = simhash_planes(6, 3, 3, seed=0)[0]
    options = {"rounds": 3, "t1_quantile": 0.8, "rate": 0.1}
    for k in (1, 4, 50, 60):
        expected = learn(W, b, Q, [set(ids[:k]) for ids in best.tolist()], planes, **options)
        got = learn(W, b, Q, None, planes, k=k, **options)
        np.testing.assert_array_equal(got[0], expected[0])
        np.testing.assert_equal(got[1], expected[1])
    assert learn(W, b, Q, None, planes, k=1)[1] != learn(W, b, Q, None, planes, k=4)[1]


def test_pairs_are_capped():
    W, b, Q, labels, planes = layer(0)
    options = {"rounds": 1, "t1_quantile": 0.7, "positives": "rows"}
    more, fewer = (learn(W, b, Q, labels, planes, pairs=pairs, **options)[1][0] for pairs in (4096, 5))
    assert fewer.pairs == 5 < more.pairs
    assert (fewer.positives, fewer.negatives) == (more.positives, more.negatives)


def test_beta_matters():
    W, b, Q, labels, planes = layer(0)
    loss = [learn(W, b, Q, labels, planes, t1_quantile=0.7, beta=beta)[1][0].loss for beta in (1e-3, 1.0)]
    assert loss[0] == pytest.approx(math.log(2), abs=1e-3)
    assert loss[1] != pytest.approx(math.log(2), abs=0.1)


def test_nothing_to_compare_is_not_a_number():
    W, b, Q, _, planes = layer(0)
    planes, (met, *_) = learn(W, b, Q, [[]] * len(Q), planes)
    assert math.isnan(met.label_recall)
    assert math.isnan(met.loss)
    assert (met.precision, met.positives, met.pairs) == (0, 0, 0)
    np.testing.assert_array_equal(planes, layer(0)[4])


def test_inner_products_beyond_float32_are_refused():
    W, Q, Y = planted(m=40, n=100)
    start = simhash_planes(16, 2, 2, seed=0)[0]
    start[0, 0, 0] = np.inf
    with pytest.raises(ValueError, match="'Q' must be such that inner products fit in float32"):
        learn(W, None, Q, [{y} for y in Y.tolist()], start)


# As a method of fit

PAPER = LSSConfig(method="iul", fill="rows", sketch_bytes=0, n_bits=5, n_tables=6, n_probes=1)


def with_options(**options):
    return LSSConfig.from_json({**PAPER.to_json(), "iul": options})


def test_it_finds_more_labels_among_fewer_candidates():
    W, Q, Y = planted(n=2000)
    met = {}
    for config in (
        with_options(rounds=80, batch=256),
        LSSConfig.from_json({**PAPER.to_json(), "method": "simhash"}),
    ):
        index = Index.from_weights(W, config=config)
        index.fit(Q[:1500], Y[:1500] if config.method == "iul" else None, progress=False)
        candidates = index.candidates(Q[1500:])
        met[config.method] = metrics.label_recall(candidates, Y[1500:]), len(candidates[1]) / 500
    (recall, size), (recall_before, size_before) = met["iul"], met["simhash"]
    assert recall > recall_before + 0.15
    assert size < size_before


def test_the_learning_curve_is_kept():
    W, Q, Y = planted()
    index = Index.from_weights(W, config=with_options(rounds=40, batch=1500, rate=0.02))
    assert index.history == ()
    history = index.fit(Q, Y, progress=False).history
    assert len(history) == 40
    assert all(type(met) is Round and met.pairs == min(met.positives, met.negatives) > 0 for met in history)
    first, last = history[0], history[-1]
    assert last.label_recall > first.label_recall
    assert last.loss < first.loss
    # the next point would be what this fit ended with
    config = with_options(rounds=41, batch=1500, rate=0.02)
    last = Index.from_weights(W, config=config).fit(Q, Y, progress=False).history[-1]
    candidates = index.candidates(Q)
    assert last.label_recall == pytest.approx(metrics.label_recall(candidates, Y), abs=1e-3)
    assert last.candidates == pytest.approx(len(candidates[1]) / 1500, rel=1e-3)
    assert last.precision == pytest.approx(metrics.precision_at_k(index.search(Q, 1).labels, Y, 1), abs=1e-3)
    assert Index.from_bytes(index.to_bytes()).history == ()


def test_buckets_hold_the_rows_that_the_learned_planes_send_there():
    W, Q, Y = planted()
    config = with_options(rounds=5)
    index = Index.from_weights(W, config=config).fit(Q, Y, progress=False)
    start = simhash_planes(16, 6, 5, seed=0)[0]
    planes, history = learn(W, None, Q, [{y} for y in Y.tolist()], start, rounds=5)
    assert (planes != start).mean() > 0.99
    assert history == index.history
    rows, queries = augmented(W, np.zeros(len(W)), Q[:50])
    indptr, indices = index.candidates(Q[:50])
    found = [set(ids.tolist()) for ids in np.split(indices, indptr[1:-1])]
    assert found == retrieved(queries, rows, planes)


def test_a_seed_repeats_and_nothing_outside_is_touched():
    W, Q, Y = planted()

    def fit(seed):
        config = LSSConfig.from_json({**with_options(rounds=5, batch=200).to_json(), "seed": seed})
        return Index.from_weights(W, config=config).fit(Q, Y, progress=False).to_bytes()

    torch.manual_seed(1)
    expected, state = fit(0), torch.get_rng_state()
    torch.manual_seed(2)
    assert fit(0) == expected != fit(1)
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)
    with torch.inference_mode():
        assert fit(0) == expected
    torch.set_default_dtype(torch.float64)
    try:
        assert fit(0) == expected
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("fill", ["queries", "rows"])
@pytest.mark.parametrize("sketch_bytes", [0, 64])
def test_any_fill_and_sketch(fill, sketch_bytes):
    W, Q, Y = planted()
    config = LSSConfig(method="iul", fill=fill, sketch_bytes=sketch_bytes, iul=IULOptions(rounds=2))
    index = Index.from_weights(W, config=config).fit(Q, Y, progress=False)
    assert index.params["fill"] == fill
    assert len(index.history) == 2
    labels = index.search(Q, 5).labels
    assert metrics.precision_at_k(labels, index.search(Q, 5, exact=True).labels, 5) > 0.5
    again = Index.from_bytes(index.to_bytes())
    np.testing.assert_array_equal(again.search(Q, 5).labels, labels)
    assert again.config == config


def test_the_callback_hears_of_every_round(caplog):
    W, Q, Y = planted()
    heard = []
    index = Index.from_weights(W, config=with_options(rounds=3))
    with caplog.at_level(logging.INFO, "lss_rs"):
        index.fit(Q, Y, progress=False, callback=lambda *what: heard.append(what))
    last = [("planes", 1, 1), ("build", 0, 1), ("build", 1, 1)]
    assert heard == [*[("iul", done, 3) for done in (1, 2, 3)], *last]
    rounds = [message for message in caplog.messages if message.startswith("iul, round")]
    assert rounds == [f"iul, round {done} of 3: {met}" for done, met in enumerate(index.history, 1)]


@pytest.mark.parametrize("before", [False, True])
def test_an_interrupted_fit_leaves_the_index_as_it_was(before):
    W, Q, Y = planted()
    index = Index.from_weights(W, config=with_options(rounds=4))
    if before:
        index.fit(Q[:500], Y[:500], k=3, progress=False)
    state, params, history = index.to_bytes(), index.params, index.history

    def interrupt(stage, done, total):
        if (stage, done) == ("iul", 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index.fit(Q, Y, progress=False, callback=interrupt)
    assert (index.to_bytes(), index.params, index.history) == (state, params, history)


@pytest.mark.parametrize(("n_bits", "n_tables", "found"), [(24, 1, r"\d+ and 0"), (1, 40, r"0 and \d+")])
def test_nothing_to_learn_from_is_warned_of(n_bits, n_tables, found):
    W, Q, Y = planted()
    options = {"n_bits": n_bits, "n_tables": n_tables, "iul": {"rounds": 2, "batch": 200}}
    config = LSSConfig.from_json({**PAPER.to_json(), **options})
    with pytest.warns(UserWarning, match=rf"IUL learned nothing.* it found {found}\.") as caught:
        index = Index.from_weights(W, config=config).fit(Q, Y, progress=False)
    assert caught[0].filename == __file__
    random = LSSConfig.from_json({**config.to_json(), "method": "simhash", "iul": None})
    expected = Index.from_weights(W, config=random).fit(Q, progress=False).candidates(Q)
    for got, wanted in zip(index.candidates(Q), expected, strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_no_queries_are_refused():
    with pytest.raises(ValueError, match="'Q' must be at least one query with method='iul'"):
        Index.from_weights(planted()[0], config=PAPER).fit(np.empty((0, 16)), progress=False)


@pytest.mark.parametrize("device", ["nonsense", "meta"])  # meta: tensors without values
def test_devices_are_torchs(device):
    W, Q, Y = planted()
    with pytest.raises((RuntimeError, NotImplementedError), match=device):
        Index.from_weights(W, config=with_options(device=device)).fit(Q, Y, progress=False)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("positives", ["labels", "rows"])
def test_a_gpu_learns_alike(positives):
    W, Q, Y = planted()
    recall = []
    for device in ("cpu", "cuda"):
        config = with_options(rounds=40, rate=0.02, device=device, positives=positives)
        index = Index.from_weights(W, config=config).fit(Q, Y, progress=False)
        recall.append(metrics.label_recall(index.candidates(Q), Y))
    assert recall[0] == pytest.approx(recall[1], abs=0.05)

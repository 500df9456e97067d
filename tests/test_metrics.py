import re

import numpy as np
import pytest

pytest.importorskip("hypothesis")
sparse = pytest.importorskip("scipy.sparse")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from lss_rs import metrics  # noqa: E402

Y_LISTS = [[1, 3], [0], [], [2, 4, 5]]
Y_CSR = sparse.csr_array((np.ones(6), np.array([1, 3, 0, 2, 4, 5]), np.array([0, 2, 3, 3, 6])), shape=(4, 6))
Y_PAIR = Y_CSR.indptr, Y_CSR.indices
ANSWERS = np.array([[3, 0, 1], [5, 0, -1], [1, 2, 3], [2, 5, 4]])


@pytest.mark.parametrize("Y", [Y_LISTS, Y_CSR, Y_PAIR])
def test_precision(Y):
    assert metrics.precision_per_query(ANSWERS, Y, 1).tolist() == [1, 0, 0, 1]
    assert metrics.precision_per_query(ANSWERS, Y, 2).tolist() == [1 / 2, 1 / 2, 0, 1]
    assert metrics.precision_per_query(ANSWERS, Y, 3).tolist() == [2 / 3, 1 / 3, 0, 1]
    assert metrics.precision_at_k(ANSWERS, Y, 2) == 0.5


def test_precision_with_one_label_each():
    assert metrics.precision_per_query(ANSWERS, [3, 1, 3, 4], 3).tolist() == [1 / 3, 0, 1 / 3, 1 / 3]


def test_padding_is_a_miss_even_for_label_zero():
    assert metrics.precision_at_k([[-1, -1]], [[0]], 2) == 0
    assert metrics.precision_at_k([[0, -1]], [[0]], 2) == 0.5


def test_an_answer_counts_once():
    assert metrics.precision_at_k([[2, 2, 2]], [[2]], 3) == pytest.approx(1 / 3)


def test_answers_that_no_query_has_as_a_label():
    assert metrics.precision_at_k([[2**62, 7]], [[2]], 2) == 0
    assert metrics.precision_at_k([[3]], [[]], 1) == 0


label = st.integers(0, 9)


@given(st.data())
def test_precision_is_that_of_sets(data):
    n, k, width = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 4)), data.draw(st.integers(0, 2))
    answers = [
        data.draw(st.lists(st.integers(-1, 9), min_size=k + width, max_size=k + width)) for _ in range(n)
    ]
    Y = [data.draw(st.lists(label, max_size=5)) for _ in range(n)]
    expected = [len((set(row[:k]) - {-1}) & set(y)) / k for row, y in zip(answers, Y, strict=True)]
    assert metrics.precision_per_query(answers, Y, k).tolist() == expected
    assert metrics.precision_at_k(answers, Y, k) == pytest.approx(np.mean(expected))


@given(st.lists(st.tuples(st.lists(label, max_size=6), st.lists(label, max_size=4)), min_size=1, max_size=6))
def test_label_recall_is_that_of_sets(queries):
    found, Y = [f for f, _ in queries], [y for _, y in queries]
    indptr = np.cumsum([0, *map(len, found)])
    candidates = indptr, np.array([label for row in found for label in row], np.int64)
    every = [len(set(f) & set(y)) / len(set(y)) if y else np.nan for f, y in queries]
    np.testing.assert_array_equal(metrics.label_recall_per_query(candidates, Y), every)
    shares = [share for share in every if share == share]
    if not shares:
        with pytest.raises(
            ValueError, match=re.escape("'Y' must be labels of at least one query. Got none instead.")
        ):
            metrics.label_recall(candidates, Y)
    else:
        assert metrics.label_recall(candidates, Y) == pytest.approx(np.mean(shares))


@pytest.mark.parametrize(
    ("labels", "Y", "k", "error", "text"),
    [
        (
            ANSWERS,
            Y_LISTS,
            4,
            ValueError,
            "'labels' must be of shape (n, 4) or wider. Got shape (4, 3) instead.",
        ),
        (
            ANSWERS[0],
            [1],
            1,
            ValueError,
            "'labels' must be of shape (n, 1) or wider. Got shape (3,) instead.",
        ),
        (
            ANSWERS * 1.0,
            Y_LISTS,
            1,
            TypeError,
            "'labels' must be an array of ints. Got dtype float64 instead.",
        ),
        (ANSWERS, Y_LISTS[:3], 1, ValueError, "'Y' must be as long as the queries (4). Got 3 instead."),
        (ANSWERS, Y_LISTS, 0, ValueError, "'k' must be an int >= 1. Got 0 instead."),
        (ANSWERS, Y_LISTS, 1.0, TypeError, "'k' must be an int >= 1. Got 1.0 instead."),
        (ANSWERS[:0], [], 1, ValueError, "'labels' must be answers to at least one query. Got none instead."),
        (
            ANSWERS,
            (np.array([0, 1.0]), np.array([1])),
            1,
            TypeError,
            "'Y' must be (indptr, indices), arrays of ints",
        ),
        (
            ANSWERS,
            (np.array([0, 2, 1, 1, 1]), np.array([1])),
            1,
            ValueError,
            "'Y' must be (indptr, indices) where",
        ),
        (
            ANSWERS,
            (np.array([0, 1, 1, 1, 2]), np.array([1])),
            1,
            ValueError,
            "'Y' must be (indptr, indices) where",
        ),
    ],
)
def test_precision_refuses(labels, Y, k, error, text):
    with pytest.raises(error, match="^" + re.escape(text)):
        metrics.precision_at_k(labels, Y, k)


def test_label_recall_refuses_candidates_that_are_no_csr():
    with pytest.raises(ValueError, match=re.escape("'candidates' must be (indptr, indices) where")):
        metrics.label_recall((np.array([1, 2]), np.array([1, 2])), [[1]])


# By frequency


@pytest.mark.parametrize("Y", [Y_LISTS, Y_CSR, Y_PAIR])
def test_label_counts(Y):
    counts = metrics.label_counts(Y, 6)
    assert counts.tolist() == [1] * 6
    assert counts.dtype == np.int64


def test_label_counts_of_queries():
    assert metrics.label_counts([2, 0, 2], 3).tolist() == [1, 0, 2]  # one label each
    assert metrics.label_counts([[2, 2], [2, 0]], 3).tolist() == [1, 0, 2]  # queries, not mentions
    assert metrics.label_counts([], 2).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("Y", "m", "error", "text"),
    [
        ([[0], [3]], 3, ValueError, "'Y' must be label ids in 0..2. Got 3 instead."),
        ([[0], [-1]], 3, ValueError, "'Y' must be label ids in 0..2. Got -1 instead."),
        (Y_CSR, 5, ValueError, "'Y' must be a sparse matrix of shape (n, 5). Got shape (4, 6) instead."),
        ([[0.5]], 3, TypeError, "'Y' must be label ids"),
        ([[0]], 0, ValueError, "'m' must be an int >= 1. Got 0 instead."),
    ],
)
def test_label_counts_refuses(Y, m, error, text):
    with pytest.raises(error, match="^" + re.escape(text)):
        metrics.label_counts(Y, m)


@st.composite
def judged(draw, width=5):
    """Answers of ``width``, true labels and k, over labels 0..9."""
    n, k = draw(st.integers(1, 6)), draw(st.integers(1, width))
    answer = st.lists(st.integers(-1, 11), min_size=width, max_size=width)
    answers = draw(st.lists(answer, min_size=n, max_size=n))
    return answers, draw(st.lists(st.lists(label, max_size=6), min_size=n, max_size=n)), k


@given(judged(), st.lists(st.integers(0, 6), min_size=10, max_size=10).filter(any), st.integers(1, 12))
def test_precision_by_frequency_is_that_of_a_loop(case, counts, n_groups):
    answers, Y, k = case

    def group_of(name):
        rarer = sum(count for count in counts if count < counts[name])
        return 1 + n_groups * rarer // sum(counts) if counts[name] else 0

    names, occurrences, hits = (np.zeros(n_groups + 1, int) for _ in range(3))
    most = np.zeros(n_groups + 1, int)
    for name, count in enumerate(counts):
        names[group_of(name)] += 1
        most[group_of(name) :] = np.maximum(most[group_of(name) :], count)
    for row, y in zip(answers, Y, strict=True):
        for name in set(y):
            occurrences[group_of(name)] += 1
            hits[group_of(name)] += name in row[:k]
    groups = metrics.precision_by_frequency(answers, Y, k, counts, n_groups=n_groups)
    assert groups.up_to.tolist() == most.tolist()
    assert groups.n_labels.tolist() == names.tolist()
    assert groups.occurrences.tolist() == occurrences.tolist()
    assert groups.precision.tolist() == (hits / (len(Y) * k)).tolist()
    asked = occurrences > 0
    assert groups.recall[asked].tolist() == (hits[asked] / occurrences[asked]).tolist()
    assert np.isnan(groups.recall[~asked]).all()
    assert groups.precision.sum() == pytest.approx(metrics.precision_at_k(answers, Y, k))


def test_deciles_of_what_zipf_would_say_are_about_equally_asked_for():
    m = 20_000
    counts = np.concatenate([[0, 0], 100_000 // np.arange(20, m)])
    Y = np.repeat(np.arange(len(counts)), counts)
    groups = metrics.precision_by_frequency(Y[:, None], Y, 1, counts)
    share = groups.occurrences / len(Y)
    assert groups.n_labels[0] == 2
    assert share[0] == 0
    assert np.abs(share[1:] - 0.1).max() < 0.02
    assert (np.diff(groups.n_labels[1:]) < 0).all()
    assert groups.recall[1:].tolist() == [1] * 10


def test_a_label_of_most_occurrences_leaves_groups_empty():
    groups = metrics.precision_by_frequency([[0], [0]], [0, 1], 1, [60, 40, 0])
    assert groups.up_to.tolist() == [0, 40, 40, 40, 40, 60, 60, 60, 60, 60, 60]
    assert groups.n_labels.tolist() == [1, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0]
    assert groups.precision.tolist() == [0, 0, 0, 0, 0, 0.5, 0, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"counts": [1, 2]}, ValueError, "'Y' must be label ids in 0..1. Got 5 instead."),
        ({"counts": [[1]]}, ValueError, "'counts' must be of shape (m,). Got shape (1, 1) instead."),
        ({"counts": [1.0]}, TypeError, "'counts' must be an array of ints. Got dtype float64 instead."),
        ({"counts": [1, -1]}, ValueError, "'counts' must be not negative. Got -1 instead."),
        (
            {"counts": [0] * 6},
            ValueError,
            "'counts' must be above 0 for at least one label. Got zeros instead.",
        ),
        ({"n_groups": 0}, ValueError, "'n_groups' must be an int >= 1. Got 0 instead."),
        ({"k": 4}, ValueError, "'labels' must be of shape (n, 4) or wider. Got shape (4, 3) instead."),
        (
            {"labels": ANSWERS[:0], "Y": []},
            ValueError,
            "'labels' must be answers to at least one query. Got none instead.",
        ),
    ],
)
def test_precision_by_frequency_refuses(options, error, text):
    given = {"labels": ANSWERS, "Y": Y_LISTS, "k": 1, "counts": [1] * 6, **options}
    with pytest.raises(error, match="^" + re.escape(text)):
        metrics.precision_by_frequency(**given)


# Propensities


def test_propensities_by_hand():
    # c = (ln 20 - 1) * (3 + 1) ** 0.5 = 1.9957323 * 2, and (counts + 3) ** -0.5 = 1 / 3 ** 0.5, 1/2, 1/3, 1/4
    c = 3.9914645
    expected = [1 / (1 + c / 3**0.5), 1 / (1 + c / 2), 1 / (1 + c / 3), 1 / (1 + c / 4)]
    assert metrics.propensities([0, 1, 6, 13], 20, a=0.5, b=3) == pytest.approx(expected, rel=1e-7)


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=5), st.floats(0, 2), st.floats(0.1, 5))
def test_what_is_common_is_less_often_missed(counts, a, b):
    p = metrics.propensities(counts, 10**6, a=a, b=b)
    assert ((p > 0) & (p < 1)).all()
    assert (np.diff(p[np.argsort(counts)]) >= 0).all()


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"n": 2}, ValueError, "'n' must be at least 3 and the highest count (7). Got 2 instead."),
        ({"n": 6}, ValueError, "'n' must be at least 3 and the highest count (7). Got 6 instead."),
        ({"n": 9.0}, TypeError, "'n' must be an int >= 1. Got 9.0 instead."),
        ({"a": -0.1}, ValueError, "'a' must be finite and not negative. Got -0.1 instead."),
        ({"a": np.inf}, ValueError, "'a' must be finite and not negative. Got inf instead."),
        ({"b": 0}, ValueError, "'b' must be finite and above 0. Got 0 instead."),
        ({"b": np.nan}, ValueError, "'b' must be finite and above 0. Got nan instead."),
        ({"counts": [-1]}, ValueError, "'counts' must be not negative. Got -1 instead."),
    ],
)
def test_propensities_refuses(options, error, text):
    given = {"counts": [0, 7], "n": 10, **options}
    with pytest.raises(error, match="^" + re.escape(text)):
        metrics.propensities(given.pop("counts"), given.pop("n"), **given)


@given(judged(), st.lists(st.floats(0.01, 1), min_size=10, max_size=10))
def test_propensity_scored_precision_is_that_of_a_loop(case, p):
    answers, Y, k = case
    found = [set(row[:k]) & set(y) for row, y in zip(answers, Y, strict=True)]
    attained = [sum(1 / p[name] for name in names) / k for names in found]
    best = [sum(sorted((1 / p[name] for name in set(y)), reverse=True)[:k]) / k for y in Y]
    pair = metrics.propensity_scored_precision_per_query(answers, Y, k, p)
    assert pair[0] == pytest.approx(attained)
    assert pair[1] == pytest.approx(best)
    if sum(best):
        whole = metrics.propensity_scored_precision_at_k(answers, Y, k, p)
        assert whole == pytest.approx(sum(attained) / sum(best))
        assert 0 <= whole <= 1 + 1e-12
        if len(Y) > 1:
            assert metrics.paired_bootstrap(*pair, n_boot=1).estimate == pytest.approx(whole)


@given(judged())
def test_equal_propensities_leave_precision(case):
    answers, Y, k = case
    attained, best = metrics.propensity_scored_precision_per_query(answers, Y, k, np.full(10, 0.25))
    assert (attained / 4).tolist() == metrics.precision_per_query(answers, Y, k).tolist()
    assert (best / 4).tolist() == [min(len(set(y)), k) / k for y in Y]


def test_the_best_is_attained():
    p = np.linspace(0.1, 1, 6)
    best = [[1, 3, -1], [0, -1, -1], [-1, -1, -1], [2, 4, 5]]
    for k in (1, 2, 3):
        assert metrics.propensity_scored_precision_at_k(best, Y_LISTS, k, p) == 1


@pytest.mark.parametrize(
    ("propensity", "Y", "text"),
    [
        ([[0.5]], Y_LISTS, "'propensity' must be of shape (m,). Got shape (1, 1) instead."),
        ([0.5] * 5 + [0.0], Y_LISTS, "'propensity' must be above 0 and at most 1. Got other values instead."),
        ([0.5] * 5 + [np.nan], Y_LISTS, "'propensity' must be above 0 and at most 1."),
        ([0.5] * 5, Y_LISTS, "'Y' must be label ids in 0..4. Got 5 instead."),
        ([0.5], [[], [], [], []], "'Y' must be labels of at least one query. Got none instead."),
    ],
)
def test_propensity_scored_precision_refuses(propensity, Y, text):
    with pytest.raises(ValueError, match="^" + re.escape(text)):
        metrics.propensity_scored_precision_at_k(ANSWERS, Y, 1, propensity)


# What scikit-learn has as well


@pytest.fixture
def sklearn():
    return pytest.importorskip("sklearn.metrics")


M, N = 30, 200


def ranked(seed=0):
    """Scores (N, M), and their order: the best first."""
    scores = np.random.default_rng(seed).random((N, M))
    return scores, np.argsort(-scores, axis=1)


def indicator(labels):
    """(N, M), from labels (N, t)."""
    matrix = np.zeros((N, M), int)
    np.put_along_axis(matrix, labels, 1, axis=1)
    return matrix


def some_labels(seed=1):
    """True labels (N, M) as 0 or 1, some common and some rare; a few queries have none."""
    rng = np.random.default_rng(seed)
    return (rng.random((N, M)) < np.geomspace(0.002, 0.4, M)).astype(int)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_precision_is_scikit_learns(sklearn, k):
    _, answers = ranked()
    Y = some_labels()
    expected = sklearn.precision_score(Y, indicator(answers[:, :k]), average="samples", zero_division=0)
    assert metrics.precision_at_k(answers, sparse.csr_array(Y), k) == pytest.approx(expected)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_precision_with_one_label_each_is_scikit_learns_top_k_accuracy(sklearn, k):
    scores, answers = ranked()
    y = np.random.default_rng(2).integers(0, M, N)
    expected = sklearn.top_k_accuracy_score(y, scores, k=k, labels=np.arange(M))
    assert metrics.precision_at_k(answers, y, k) * k == pytest.approx(expected)


def test_label_recall_is_scikit_learns(sklearn):
    _, answers = ranked()
    Y = some_labels()
    has = Y.any(axis=1)
    expected = sklearn.recall_score(Y[has], indicator(answers[:, :7])[has], average="samples")
    candidates = np.arange(N + 1) * 7, answers[:, :7].ravel()
    assert metrics.label_recall(candidates, sparse.csr_array(Y)) == pytest.approx(expected)


@pytest.mark.parametrize("k", [1, 5])
def test_recall_by_frequency_is_scikit_learns(sklearn, k):
    _, answers = ranked()
    Y = some_labels()
    counts = metrics.label_counts(sparse.csr_array(some_labels(3)), M)
    groups = metrics.precision_by_frequency(answers, sparse.csr_array(Y), k, counts)
    assert groups.n_labels[0] > 0
    for g in range(11):
        below = groups.up_to[g - 1] if g else -1
        members = np.flatnonzero((counts > below) & (counts <= groups.up_to[g]))
        assert groups.n_labels[g] == len(members)
        if groups.occurrences[g]:
            predicted = indicator(answers[:, :k])
            recall = sklearn.recall_score(Y, predicted, labels=members, average="micro")
            assert groups.recall[g] == pytest.approx(recall)


# Bootstrap


@given(st.lists(st.floats(-10, 10, width=16), min_size=2, max_size=8), st.integers(0, 2**32))
def test_a_mean_is_a_difference_from_nothing(values, seed):
    options = {"confidence": 0.8, "n_boot": 50, "seed": seed}
    nothing = np.zeros(len(values))
    alone = metrics.bootstrap(values, **options)
    assert alone == metrics.paired_bootstrap(values, nothing, statistic="difference", **options)
    assert alone.estimate == pytest.approx(np.mean(values))


@pytest.mark.parametrize(
    ("values", "options", "text"),
    [
        ([1.0], {}, "'values' must be of shape (n,), n >= 2. Got shape (1,) instead."),
        ([[1.0, 1.0]], {}, "'values' must be of shape (n,), n >= 2. Got shape (1, 2) instead."),
        ([1.0, np.inf], {}, "'values' must be finite. Got other values instead."),
        ([1.0, 0.0], {"confidence": 1}, "'confidence' must be between 0 and 1. Got 1 instead."),
        ([1.0, 0.0], {"n_boot": 0}, "'n_boot' must be an int >= 1. Got 0 instead."),
        ([1.0, 0.0], {"groups": [1]}, "'groups' must be of shape (2,). Got shape (1,) instead."),
        ([1.0, 0.0], {"groups": [1, 1]}, "'groups' must be at least two different groups. Got 1 instead."),
    ],
)
def test_bootstrap_of_one_mean_refuses(values, options, text):
    with pytest.raises(ValueError, match="^" + re.escape(text)):
        metrics.bootstrap(values, **options)


def naive_bootstrap(a, b, statistic, groups=None, n_boot=4000, seed=1):
    """Resample indices, whole groups at a time, in a loop."""
    rng = np.random.default_rng(seed)
    groups = np.arange(len(a)) if groups is None else groups
    members = [np.flatnonzero(groups == name) for name in np.unique(groups)]
    values = []
    for _ in range(n_boot):
        drawn = np.concatenate([members[i] for i in rng.integers(len(members), size=len(members))])
        x, y = a[drawn].mean(), b[drawn].mean()
        values.append(x / y if statistic == "ratio" else x - y)
    return np.quantile(values, [0.025, 0.975])


@pytest.mark.parametrize("statistic", ["ratio", "difference"])
@pytest.mark.parametrize("kind", ["binary", "continuous"])
@pytest.mark.parametrize("grouped", [False, True])
def test_bootstrap_is_the_naive_one(statistic, kind, grouped):
    rng = np.random.default_rng(0)
    n = 300
    groups = rng.integers(0, 40, n) if grouped else None
    b = rng.random(n) if kind == "continuous" else (rng.random(n) < 0.6).astype(float)
    if grouped:
        b = np.clip(b + rng.random(40)[groups] - 0.5, 0, 1)
    a = np.where(rng.random(n) < 0.9, b, 0.0)
    interval = metrics.paired_bootstrap(a, b, statistic=statistic, groups=groups)
    low, high = naive_bootstrap(a, b, statistic, groups)
    width = high - low
    expected = a.mean() / b.mean() if statistic == "ratio" else a.mean() - b.mean()
    assert interval.estimate == pytest.approx(expected)
    assert abs(interval.low - low) < 0.1 * width
    assert abs(interval.high - high) < 0.1 * width


def test_pairing_removes_what_both_share():
    rng = np.random.default_rng(0)
    b = rng.random(1000)
    same = metrics.paired_bootstrap(b * 0.5, b)
    assert same.low == pytest.approx(0.5)
    assert same.high == pytest.approx(0.5)
    shuffled = metrics.paired_bootstrap(rng.permutation(b) * 0.5, b)
    assert shuffled.high - shuffled.low > 0.01


def test_groups_that_resemble_within_widen_the_interval():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(50), 20)
    b = np.ones(1000)
    a = np.repeat(rng.random(50) < 0.8, 20).astype(float)
    alone = metrics.paired_bootstrap(a, b)
    clustered = metrics.paired_bootstrap(a, b, groups=groups)
    assert clustered.estimate == alone.estimate
    # the design effect of 20 equal members is sqrt(20) in width
    assert (clustered.high - clustered.low) / (alone.high - alone.low) == pytest.approx(20**0.5, rel=0.15)
    names = metrics.paired_bootstrap(a, b, groups=[f"document {i}" for i in groups])
    assert names.estimate == alone.estimate


def test_coverage():
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        b = (rng.random(400) < 0.5).astype(float)
        a = np.where(rng.random(400) < 0.9, b, 1 - b)
        low, high = metrics.paired_bootstrap(a, b, confidence=0.9, n_boot=500, seed=trial)[1:]
        covered += low <= 1.0 <= high
    assert 0.85 <= covered / 200 <= 0.95


def test_more_confidence_is_wider_and_a_seed_repeats():
    rng = np.random.default_rng(0)
    b = rng.random(200)
    a = b * rng.random(200)
    bounds = [metrics.paired_bootstrap(a, b, confidence=c) for c in (0.5, 0.9, 0.99)]
    assert bounds[2].low < bounds[1].low < bounds[0].low < bounds[0].high < bounds[1].high < bounds[2].high
    assert metrics.paired_bootstrap(a, b, seed=3) == metrics.paired_bootstrap(a, b, seed=3)
    assert metrics.paired_bootstrap(a, b, seed=3) != metrics.paired_bootstrap(a, b, seed=4)


def test_nothing_right_in_either_is_even():
    assert metrics.paired_bootstrap([0.0, 0.0], [0.0, 0.0]) == (1.0, 1.0, 1.0)
    estimate, low, high = metrics.paired_bootstrap([1.0, 1.0, 1.0], [0.0, 0.0, 1.0])
    assert (estimate, low, high) == (3.0, 1.0, np.inf)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"b": [1.0]}, ValueError, "'b' must be of shape (n,), n >= 2, the same for a and b. Got shape (1,)"),
        ({"a": [[1.0, 1.0, 1.0]]}, ValueError, "'a' must be of shape (n,)"),
        ({"a": [1.0, np.nan, 1.0]}, ValueError, "'a' must be finite and not negative."),
        ({"b": [1.0, -1.0, 1.0]}, ValueError, "'b' must be finite and not negative."),
        (
            {"statistic": "odds"},
            ValueError,
            "'statistic' must be 'ratio' or 'difference'. Got 'odds' instead.",
        ),
        ({"confidence": 95}, ValueError, "'confidence' must be between 0 and 1. Got 95 instead."),
        ({"n_boot": 0}, ValueError, "'n_boot' must be an int >= 1. Got 0 instead."),
        ({"groups": [1, 2]}, ValueError, "'groups' must be of shape (3,). Got shape (2,) instead."),
        ({"groups": [1, 1, 1]}, ValueError, "'groups' must be at least two different groups. Got 1 instead."),
    ],
)
def test_bootstrap_refuses(options, error, text):
    given = {"a": [1.0, 0.0, 1.0], "b": [1.0, 1.0, 1.0], **options}
    with pytest.raises(error, match="^" + re.escape(text)):
        metrics.paired_bootstrap(given.pop("a"), given.pop("b"), **given)


def test_differences_may_be_of_either_sign():
    assert metrics.paired_bootstrap([-1.0, 0.0], [1.0, 0.0], statistic="difference").estimate == -1.0

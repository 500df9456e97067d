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
    shares = [len(set(f) & set(y)) / len(set(y)) for f, y in queries if y]
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


# Bootstrap


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

"""Regions: lists of labels that are read first, and trusted where trust has been learned."""

import json
from contextlib import nullcontext

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lss_rs import FirstRead, Index, ListPoint, LSSConfig, _core, tune, tuning
from lss_rs._arrays import Labels, QueryRows
from lss_rs.learn import learn
from lss_rs.learn.centers import Lists, Targets, climb, found_in, k_means, moved, nearest
from lss_rs.learn.need import farthest, learn_need
from lss_rs.learn.regions import learn_regions
from lss_rs.learn.teacher import taught_slices
from lss_rs.learn.trust import learn_list_trust
from lss_rs.tuning import _in_json

M, D, N = 3000, 24, 6000


def layer(seed=0, spread=0.7):
    """Rows and queries in clusters, so that regions have labels of their own."""
    rng = np.random.default_rng(seed)
    centers = 2 * rng.standard_normal((12, D))
    W = centers[rng.integers(12, size=M)] + rng.standard_normal((M, D))
    Q = centers[rng.integers(12, size=N)] + spread * rng.standard_normal((N, D))
    return W.astype(np.float32), Q.astype(np.float32)


W, Q = layer()


@pytest.fixture(scope="module")
def fitted():
    return Index.from_weights(W, config=LSSConfig(n_regions=16)).fit(Q[:5000], k=5, progress=False)


@pytest.fixture
def index(fitted):
    return fitted._at(fitted.operating_point)


@pytest.fixture(scope="module")
def spread_out():
    """An index whose queries lie between clusters, too, and these."""
    rows, queries = layer(spread=1.5)
    return Index.from_weights(rows, config=LSSConfig(n_regions=16)).fit(
        queries[:5000], k=5, progress=False
    ), queries


def reading(index, n_listed=4000, n_rescore=32, trust=0.0):
    """The same index, that reads lists whatever they are worth."""
    judge = index.operating_point.judge or (5.0, *[0.0] * 10)
    point = ListPoint(n_listed, n_rescore, trust, (0.0,) * 9)
    return index.apply(index.operating_point._replace(judge=judge, list=point, exact=False))


# Learning


def test_k_means_puts_clusters_together():
    rng = np.random.default_rng(0)
    truth = 10 * rng.standard_normal((4, 3)).astype(np.float32)
    of = rng.integers(4, size=2000)
    points = truth[of] + 0.1 * rng.standard_normal((2000, 3)).astype(np.float32)
    centers = k_means(points, 32, 0, lambda *_: None)
    found = nearest(points, centers)
    for region in np.unique(found):
        assert len(np.unique(of[found == region])) == 1
    np.testing.assert_array_equal(centers, k_means(points, 32, 0, lambda *_: None))
    spread = np.linalg.norm(points - centers[found], axis=1)
    assert spread.mean() < 0.2


def test_k_means_keeps_centers_that_nothing_is_near_to():
    points = np.repeat(np.float32([[0, 0], [1, 1]]), 50, axis=0)
    centers = k_means(points, 5, 0, lambda *_: None)
    assert np.isfinite(centers).all()
    assert set(map(tuple, centers.tolist())) <= {(0.0, 0.0), (1.0, 1.0)}


def regions_of(Q, n_regions, most=100_000):
    """What is learned of them."""
    index = Index.from_weights(W, config=LSSConfig(n_regions=n_regions))
    learned = learn(index._core, QueryRows(Q, D), None, index.config, 5, lambda *_: None)
    builder = _core.Builder(
        index._core.bare(),
        learned.planes,
        learned.coordinates,
        fill="queries",
        always_include=np.empty(0, np.int64),
        sketch_bytes=128,
        point=learned.config._point,
    )
    targets = Targets(len(Q), most)
    for block, needed in taught_slices(index._core.teacher, QueryRows(Q, D), None, 50):
        builder.add(block, needed.indptr, needed.indices)
        targets.add(needed, 50)
    more = QueryRows(Q, D), targets, M, n_regions, 0, lambda *_: None
    return learn_regions(builder, learned.regional, *more), builder


@pytest.mark.parametrize("step", [1, 4])
def test_regions_are_of_their_queries(step):
    regions, builder = regions_of(Q, 8, most=N // step)
    np.testing.assert_array_equal(builder.place(regions.centers, Q), regions.of)
    kept, of, sample = regions.alignment, regions.of[::step], Q[::step]
    z = sample @ kept.query_map.T + kept.query_offset
    assert len(set(of)) >= 6
    within = np.zeros((z.shape[1],) * 2)
    for region in np.unique(of):
        members = of == region
        np.testing.assert_allclose(regions.means[region], sample[members].mean(axis=0), atol=1e-3)
        about = z[members] - z[members].mean(axis=0)
        within += about.T @ about
    within /= len(sample)
    for region in np.unique(of):
        about = z[of == region] - z[of == region].mean(axis=0)
        n, prior = len(about), 0.5 * z.shape[1]
        expected = (about.T @ about + prior * within) / (n + prior)
        np.testing.assert_allclose(regions.covariances[region], expected, atol=2e-3)


@pytest.mark.parametrize("n", [1, 60])
def test_as_many_regions_as_queries_at_most(n):
    with pytest.warns(UserWarning, match="are few") if n == 1 else nullcontext():
        assert regions_of(Q[:n], 500)[0].means.shape == (n, D)


def test_a_query_is_placed_at_the_nearest_center():
    regions, builder = regions_of(Q, 8)
    rng = np.random.default_rng(1)
    kept = regions.alignment.leading(5)
    weights, centers = np.float32([3, 2, 1, 0, 1]), rng.standard_normal((6, 5)).astype(np.float32)
    expected = nearest(kept.place(Q) * weights, centers)
    found = builder.place(_core.Centers(weights, centers), Q)
    assert (found == expected).mean() > 0.95  # a search has them in bytes


# What centers are moved by


def csr(lists):
    """Labels of each, as a fit has them."""
    indptr = np.cumsum([0, *map(len, lists)])
    return Labels(indptr, np.array([label for labels in lists for label in labels], np.int64))


@given(
    lists=st.lists(
        st.tuples(st.lists(st.integers(0, 30), unique=True, max_size=6), st.permutations(range(31))),
        min_size=1,
        max_size=20,
    ),
    top=st.integers(0, 12),
    step=st.integers(1, 4),
    cut=st.integers(0, 20),
)
def test_targets_are_the_best_labels_and_true_ones_count_more(lists, top, step, cut):
    needed = [[*true, *best[:top]] for true, best in lists]
    targets = Targets(len(needed), -(-len(needed) // step))
    step = targets.step
    for part in (needed[:cut], needed[cut:]):
        targets.add(csr(part), top)
    for (true, best), ids, weights in zip(lists[::step], targets.ids, targets.weights, strict=True):
        expected = best[: min(top, 5)] if top else true[:5]
        count = [3.0 if label in true else 1.0 for label in expected] if top else [1.0] * len(expected)
        there = weights > 0
        assert ids[there].tolist() == list(expected)
        assert (ids[~there] == -1).all()
        np.testing.assert_allclose(weights[there], np.array(count) / max(sum(count), 1), rtol=1e-6)


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 12), regions=st.integers(1, 5), k=st.integers(1, 5))
def test_what_is_found_counts_by_its_place(seed, n, regions, k):
    rng, m = np.random.default_rng(seed), 9000
    lists = [rng.permutation(m)[: rng.choice([0, 3, 700, 5000])] for _ in range(regions)]
    ends, whole = np.sort(rng.integers(6000, size=(regions, 129)), axis=1), int(rng.integers(9000))
    near = rng.integers(regions, size=(n, k))
    ids, weights = rng.integers(-1, m, size=(n, 3)), rng.random((n, 3), np.float32)
    weights[ids < 0] = 0
    found = found_in(Lists(*csr(lists), ends, whole), near, ids, weights, m)
    for query in range(n):
        for at, region in enumerate(near[query]):
            places = {int(label): place for place, label in enumerate(lists[region])}
            of = [places.get(int(label), 6000) for label in ids[query]]
            read = [min(128 * n // max(whole, 1), 128) for n in (128, 256, 512, 1024, 2048, 4096)]
            counts = [sum(place < ends[region, n] for n in read) / 6 for place in of]
            np.testing.assert_allclose(found[query, at], np.dot(counts, weights[query]), atol=1e-5)


def test_centers_climb_what_is_found():
    rng = np.random.default_rng(0)
    points, centers = rng.standard_normal((7, 3)), rng.standard_normal((5, 3))
    near, found = np.argsort(rng.random((7, 5)), axis=1)[:, :2], rng.random((7, 2))

    def average(centers):
        squares = ((points[:, None] - centers) ** 2).sum(axis=2)
        chosen = np.exp(-np.take_along_axis(squares, near, axis=1) / 2 / 0.7)
        chosen /= chosen.sum(axis=1, keepdims=True)
        return (chosen * found).sum(axis=1).mean()

    step = climb(points, centers, near, found, 0.7)
    np.testing.assert_allclose(step.found, average(centers), rtol=1e-6)
    for at in np.ndindex(centers.shape):
        aside = np.zeros_like(centers)
        aside[at] = 1e-5
        slope = (average(centers + aside) - average(centers - aside)) / 2e-5
        np.testing.assert_allclose(step.centers[at], slope, rtol=1e-4, atol=1e-8)


def stripes(n, seed):
    """Points that vary much along one coordinate, and need labels by where they lie along another."""
    rng = np.random.default_rng(seed)
    points = (rng.standard_normal((n, 2)) * [3.0, 0.5]).astype(np.float32)
    stripe = np.clip((points[:, 1] + 1) * 4, 0, 7).astype(np.int64)
    labels = stripe[:, None] * 1000 + rng.integers(600, size=(n, 5))
    return points, labels


def listed(regions, labels, n):
    """The labels that points of each region need."""
    of = [labels[regions == region].ravel() for region in range(n)]
    counted = [np.unique(labels, return_counts=True) for labels in of]
    return read_alike([labels[np.argsort(-counts, kind="stable")] for labels, counts in counted])


def read_alike(lists):
    """Lists of which as many labels are read."""
    sizes = np.array([len(labels) for labels in lists])
    ends = np.minimum(max(sizes) * np.arange(129) // 128, sizes[:, None])
    return Lists(*csr(lists), ends, int(max(sizes)))


def test_centers_move_to_where_lists_hold_what_is_needed():
    points, labels = stripes(6000, 0)
    targets = Targets(len(labels))
    targets.add(csr(labels.tolist()), 5)
    first = k_means(points, 16, 0, lambda *_: None)
    args = points, targets, lambda of: listed(of, labels, 16), 8000, 0, lambda *_: None
    centers = moved(first, *args)
    np.testing.assert_array_equal(centers, moved(first, *args))
    others, needed = stripes(2000, 1)

    def found(centers):
        lists = listed(nearest(points, centers), labels, 16)
        of = nearest(others, centers)[:, None]
        return found_in(lists, of, needed, np.full(needed.shape, 0.2), 8000).mean()

    assert found(centers) > found(first) + 0.05


def test_queries_are_judged_by_lists_that_have_not_seen_them(monkeypatch):
    points, _ = stripes(3200, 0)
    labels = np.arange(3200 * 5).reshape(3200, 5)  # nobody else needs them
    targets = Targets(3200)
    targets.add(csr(labels.tolist()), 5)
    asked, found = [], []

    def lists(of):
        asked.append(of)
        return listed(of, labels, 16)

    monkeypatch.setattr("lss_rs.learn.centers.found_in", lambda *of: found.append(found_in(*of)) or found[-1])
    moved(k_means(points, 16, 0, lambda *_: None), points, targets, lists, 16000, 0, lambda *_: None)
    for first, second in zip(asked[::2], asked[1::2], strict=True):
        assert ((first < 16) != (second < 16)).all()
        assert ((first < 16).reshape(16, -1).sum(axis=1) == [0, 200] * 8).all()  # neighbours go together
    assert len(found) == 14
    assert not np.concatenate(found).any()


def test_rounds_after_which_less_is_found_are_forgotten():
    points, labels = stripes(3200, 0)
    targets = Targets(3200)
    targets.add(csr(labels.tolist()), 5)
    first, made = k_means(points, 16, 0, lambda *_: None), []

    def lists(of):
        made.append(of)
        return listed(of, labels, 16) if len(made) <= 2 else read_alike([[]] * 16)

    np.testing.assert_array_equal(moved(first, points, targets, lists, 8000, 0, lambda *_: None), first)
    assert (made[0] != made[2])[(made[0] < 16) & (made[2] < 16)].any()  # they had moved


def test_centers_that_cannot_do_better_stay():
    points = np.repeat(np.float32([[0, 0], [1, 1]]), 50, axis=0)
    targets = Targets(100)
    targets.add(csr([[0]] * 100), 1)
    for n in (1, 5):
        centers = k_means(points, n, 0, lambda *_: None)
        lists = lambda of, n=n: read_alike([[0]] * n)  # noqa: E731
        np.testing.assert_array_equal(moved(centers, points, targets, lists, 1, 0, lambda *_: None), centers)


def test_regions_of_hardly_any_queries_answer():
    """More regions than clusters of queries: some hold one query or none, and their lists few labels."""
    few = np.repeat(Q[:40], 3, axis=0)
    index = Index.from_weights(W, config=LSSConfig(n_regions=64, teacher_top=3))
    with pytest.warns(UserWarning, match="are few"):
        index.fit(few[:45], k=5, target=None, progress=False)
    found = reading(index).search(Q[:200], k=5, stats=True)
    expected = index.search(Q[:200], k=5, effort="fixed")
    on = found.stats["step"] == 1  # fewer labels than answers
    np.testing.assert_array_equal(found.labels[on], expected.labels[on])
    assert on.any()
    assert np.isfinite(found.scores[~on]).all()


# How far queries read


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 12), regions=st.integers(1, 5))
def test_the_farthest_label_counts(seed, n, regions):
    rng, m = np.random.default_rng(seed), 400
    lists = [rng.permutation(m)[: rng.choice([0, 3, 70, 300])] for _ in range(regions)]
    of, ids = rng.integers(regions, size=n), rng.integers(-1, m, size=(n, 3))
    found = farthest(read_alike(lists), of, ids, m)
    longest = max(map(len, lists))
    for query, region in enumerate(of):
        places = {int(label): place for place, label in enumerate(lists[region])}
        needed = [places.get(int(label), longest) for label in ids[query] if label >= 0]
        assert found[query] == max(needed, default=0)


def shares(known, need):
    """How far queries read."""
    return np.exp(need[0] + known @ need[1:]).clip(1 / 8, 8)


def test_queries_that_need_more_read_more_and_all_together_as_much():
    """Of two regions: a coordinate says how far labels lie in the list, and nothing else does."""
    rng = np.random.default_rng(0)
    n, listed = 4000, 1000
    known = rng.standard_normal((n, 4)).astype(np.float32)
    known = np.column_stack([known, np.full(n, 6.9), 1e-6 * known[:, 1]]).astype(np.float32)
    of = rng.integers(2, size=n)
    place = np.exp(4 + 0.8 * known[:, 1] + 0.3 * rng.standard_normal(n)).astype(int).clip(0, listed - 1)
    lists = read_alike([np.arange(listed), np.arange(listed, 2 * listed)])
    ids = np.column_stack([place + listed * of, np.full(n, -1)])
    need = learn_need(known, of, ids, lambda _: lists, 2, 2 * listed)
    assert need.dtype == np.float32
    np.testing.assert_allclose(need[1:5], [0, 0.4, 0, 0], atol=0.02)  # half of it is believed
    np.testing.assert_array_equal(need[5:], 0)  # what is the same for all, but for rounding, says nothing
    assert shares(known, need).mean() == pytest.approx(1, abs=1e-3)


def test_need_is_learned_from_lists_that_have_not_seen_the_query():
    """Labels that nobody else needs are in no such list, wherever their own half has them."""
    n = 320
    labels = np.arange(n)[:, None]
    known = np.random.default_rng(0).standard_normal((n, 1)).astype(np.float32)
    place = np.where(known[:, 0] > 0, 0, n)  # in lists that have seen them, early or late

    def lists(regions):
        asked = np.flatnonzero(regions == 0)
        return read_alike([asked[np.argsort(place[asked], kind="stable")]])

    need = learn_need(known, np.zeros(n, int), labels, lists, 1, n)
    np.testing.assert_allclose(need, 0, atol=1e-6)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 16])
def test_few_queries_say_little(n):
    known = np.random.default_rng(0).standard_normal((n, 3)).astype(np.float32)
    ids = np.arange(n)[:, None]
    need = learn_need(known, np.zeros(n, int), ids, lambda of: read_alike([np.flatnonzero(of == 0)]), 1, n)
    np.testing.assert_allclose(shares(known, need), 1, atol=0.2)


def test_where_nothing_is_needed_all_read_alike():
    none = np.full((6, 2), -1)
    known = np.ones((6, 2), np.float32)
    assert not learn_need(known, np.zeros(6, int), none, lambda _: read_alike([[1, 2]]), 1, 9).any()


def test_what_all_queries_find_is_no_target():
    targets = Targets(3, without=np.array([4, 7]))
    targets.add(csr([[7, 1, 2], [4, 3, 4], [5, 7, 4]]), 2)
    assert targets.ids.tolist() == [[1, 2], [3, -1], [-1, -1]]
    np.testing.assert_array_equal(targets.weights, [[0.5, 0.5], [1, 0], [0, 0]])


def test_queries_of_few_dimensions_read_the_average():
    """Coordinates in which queries hardly vary are rounding, and say nothing."""
    rng = np.random.default_rng(0)
    flat = (rng.standard_normal((N, 8)) @ rng.standard_normal((8, D))).astype(np.float32)
    config = LSSConfig(n_regions=4)
    with pytest.warns(UserWarning, match="hardly varies"):
        index = Index.from_weights(W, config=config).fit(flat[:5000], k=5, target=None, progress=False)
    read = reading(index, 200).search(flat[5000:], k=5, stats=True).stats["candidates"]
    assert 150 < read.mean() < 250


# Searching


def test_queries_read_as_far_as_they_are_foreseen_to_need():
    """Reading by need finds more than reading as far everywhere, of as many labels."""
    rows, Q = layer(spread=1.0)
    config = LSSConfig(n_regions=16)
    index = Index.from_weights(rows, config=config).fit(Q[:5000], k=5, target=None, progress=False)
    full = index.search(Q[5000:], k=5, exact=True).labels

    def found(index):
        answer = reading(index, 32, 64).search(Q[5000:], k=5, stats=True)
        right = np.mean([len(set(a) & set(b)) for a, b in zip(full, answer.labels, strict=True)])
        return right, answer.stats["candidates"]

    table = bytearray(index.to_bytes())
    start = 8 + int.from_bytes(table[:8], "little")
    first, last = json.loads(table[8:start])["region_need"]["data_offsets"]
    table[start + first : start + last] = bytes(last - first)
    (by_need, read), (alike, as_far) = found(index), found(Index.from_bytes(bytes(table)))
    assert read.mean() < as_far.mean() + 1
    assert read.std() > 2 * as_far.std()
    assert by_need > alike + 0.01


def test_whole_lists_hold_nearly_all_that_is_needed(index):
    full = index.search(Q[5000:], k=5, exact=True).labels
    found = reading(index, n_rescore=64).search(Q[5000:], k=5, stats=True)
    assert (found.stats["step"] == 0).all()
    assert (found.stats["candidates"] < M / 2).all()
    assert np.mean([len(set(a) & set(b)) for a, b in zip(full, found.labels, strict=True)]) > 4.9
    for query, labels, scores in zip(Q[5000:5050], *found[:2], strict=False):
        np.testing.assert_allclose(scores, W[labels] @ query, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("n_listed", [1, 5, 64, 200])
def test_so_many_labels_are_read(index, n_listed):
    stats = reading(index, n_listed).search(Q[:5000], k=1, stats=True).stats
    listed = stats["candidates"][stats["step"] == 0]
    assert len(listed) == 5000
    # on average over all queries that were learned from, about
    assert abs(listed.mean() - n_listed) < 0.15 * n_listed + 1
    assert (listed >= n_listed // 32).all()


def test_fewer_labels_than_answers_are_not_enough(index):
    assert (reading(index, 1).search(Q[5000:5100], k=5, stats=True).stats["step"] != 0).all()


def test_of_every_list_as_many_labels_are_read_as_answers_are_asked_for(index):
    with pytest.warns(UserWarning, match="later ranks"):
        stats = reading(index, 40).search(Q[5000:], k=40, stats=True).stats
    assert (stats["step"] == 0).all()
    assert stats["candidates"].min() == 40 < stats["candidates"].max()


def in_parts(index, n_first, trust, judge=(0.0,) * 9):
    """The same index, that reads lists in two parts."""
    point = reading(index, n_rescore=16).operating_point
    return index.apply(point._replace(list=point.list._replace(first=FirstRead(n_first, trust, judge))))


def test_lists_are_read_on_where_their_beginning_is_not_trusted(spread_out):
    fitted, Q = spread_out
    index = fitted._at(fitted.operating_point)
    begun = reading(index, 80, 16).search(Q[5000:], k=5, stats=True)
    whole = reading(index, 4000, 16).search(Q[5000:], k=5, stats=True)
    assert (begun.labels != whole.labels).any()
    never = in_parts(index, 80, 0.0).search(Q[5000:], k=5, stats=True)
    np.testing.assert_array_equal(never.labels, begun.labels)
    np.testing.assert_array_equal(never.stats["candidates"], begun.stats["candidates"])
    always = in_parts(index, 80, 1.0).search(Q[5000:], k=5, stats=True)
    assert (always.labels == whole.labels).all(axis=1).mean() > 0.99
    np.testing.assert_array_equal(always.stats["candidates"], whole.stats["candidates"])

    full = index.search(Q[5000:], k=5, exact=True).labels
    read = learn_list_trust(index._core, Q[5000:], full, 5, 80, 16)
    some = in_parts(index, 80, float(np.median(read.trust)), read.judge).search(Q[5000:], k=5, stats=True)
    on = some.stats["candidates"] > begun.stats["candidates"]
    assert 0.45 < on.mean() < 0.55
    np.testing.assert_array_equal(some.labels, np.where(on[:, None], always.labels, begun.labels))

    def right(labels):
        return (np.sort(labels, axis=1) == np.sort(full, axis=1)).all(axis=1).mean()

    # Half of the work that is left does nearly all of its good.
    assert right(some.labels) > right(begun.labels) + 0.8 * (right(whole.labels) - right(begun.labels))


def test_who_does_not_trust_lists_searches_tables(index):
    expected = index.apply(index.operating_point._replace(list=None)).search(Q[5000:], k=5, stats=True)
    found = reading(index, trust=1.0).search(Q[5000:], k=5, stats=True)
    np.testing.assert_array_equal(found.labels, expected.labels)
    assert (found.stats["step"] > 0).all()
    fixed = reading(index).search(Q[5000:], k=5, effort="fixed", stats=True)
    assert (fixed.stats["step"] == 1).all()


def test_labels_of_every_query_are_in_no_list_and_in_every_answer():
    odd = W.copy()
    odd[7] = 30 * Q[5000]
    config = LSSConfig(n_regions=16, always_include=(7,))
    index = Index.from_weights(odd, config=config).fit(Q[:5000], k=5, target=None, progress=False)
    labels = reading(index, 50, 16).search(Q[5000], k=5).labels
    assert labels[0] == 7
    assert len(set(labels.tolist())) == 5


@pytest.mark.parametrize("parts", [False, True])
@pytest.mark.parametrize("scan_all", [False, True])
def test_batches_answer_as_single_queries(index, parts, scan_all):
    full = index.search(Q[5000:], k=5, exact=True).labels
    begun, whole = (learn_list_trust(index._core, Q[5000:], full, 5, n, 32) for n in (100, 300))
    at = ListPoint(300, 32, float(np.quantile(whole.trust, 0.3)), whole.judge)
    if parts:
        at = at._replace(first=FirstRead(100, float(np.median(begun.trust)), begun.judge))
    point = reading(index).operating_point
    index.apply(point._replace(list=at, trust=1.0 if scan_all else 0.0))
    together = index.search(Q[5000:5200], k=5, stats=True)
    assert 0 < (together.stats["step"] > 0).mean() < 0.6
    assert set(together.stats["step"].tolist()) == ({0, 2} if scan_all else {0, 1})
    for query, labels, scores in zip(Q[5000:5200], *together, strict=True):
        alone = index.search(query, k=5)
        np.testing.assert_array_equal(alone.labels, labels)
        np.testing.assert_array_equal(alone.scores, scores)


@pytest.mark.parametrize("first", [None, FirstRead(50, 0.25, (0.5, *[-0.125] * 8))])
def test_lists_are_kept_in_files_and_pickles(index, tmp_path, first):
    point = reading(index, 300, trust=0.3).operating_point
    index.apply(point._replace(list=point.list._replace(first=first)))
    index.save(tmp_path / "index.safetensors")
    again = Index.load(tmp_path / "index.safetensors")
    assert again.operating_point == index.operating_point
    assert isinstance(again.operating_point.list, ListPoint)
    np.testing.assert_array_equal(again.search(Q[5000:], 5).labels, index.search(Q[5000:], 5).labels)
    assert again.params["nbytes"]["regions"] == index.params["nbytes"]["regions"] > 0


# Trust and tuning


def test_features_tell_right_from_wrong(index):
    asked = Q[5000:]
    full = index.search(asked, k=5, exact=True).labels
    read = learn_list_trust(index._core, asked, full, 5, 15, 16)
    right = (np.sort(read.labels, axis=1) == np.sort(full, axis=1)).all(axis=1)
    assert 0.05 < right.mean() < 0.99
    assert read.trust[right].mean() > read.trust[~right].mean() + 0.1
    point = ListPoint(15, 16, 0.0, read.judge)
    judge = index.operating_point.judge or (5.0, *[0.0] * 10)
    found = index.apply(index.operating_point._replace(judge=judge, list=point)).search(asked, 5, stats=True)
    np.testing.assert_array_equal(found.labels, read.labels)
    np.testing.assert_allclose(found.stats["trust"], read.trust, atol=1e-3)


def test_lists_too_short_for_an_answer_are_never_trusted(index):
    full = index.search(Q[5000:5100], k=5, exact=True).labels
    read = learn_list_trust(index._core, Q[5000:5100], full, 5, 1, 16)
    assert (read.labels == -1).any(axis=1).all()
    assert not read.trust.any()
    assert np.isfinite(read.judge).all()


def test_tuning_reads_lists_where_that_is_quicker(fitted):
    report = tune(fitted, Q[5000:], progress=False)
    with_lists = [trial for trial in report.trials if trial.point.list is not None]
    assert with_lists
    assert all(min(share.low for share in trial.quality.values()) >= 0.99 for trial in with_lists[:1])
    without = [trial for trial in report.trials if trial.point.list is None and trial.point.judge is not None]
    quicker = with_lists[0].us < min(trial.us for trial in without)
    assert (report.best.list is not None) == quicker
    assert report.to_json()["trials"]
    assert "list" in report.to_json()["best"]
    assert "list_trust" in str(report)
    # Who stays with the tables has no use for lists.
    assert tune(fitted, Q[5000:], effort="fixed", progress=False).best.list is None


def test_parts_of_lists_are_planned(index):
    judge = tuning.judge_on(index, Q[5000:], None, (1, 5), 0.99)
    most, r, share = index.params["n_listed"], 32, 0.05
    known = {
        (n, r): tuning._Listed(judge.read_lists(n, r), n / 100, share, 1.0)
        for n in (*tuning._LISTED, most)
        if n <= most
    }
    then = index.search(Q[5000:], k=5, exact=True).labels
    plans = tuning._in_parts(judge, most, r, known, then)
    assert {at.first.n_listed for _, at in plans} == {n for n, _ in known if most // 4 <= n < most}
    whole = reading(index).operating_point._replace(trust=1.0, scan_trust=1.0)
    for us, at in plans:
        assert (at.n_listed, at.n_rescore) == (most, r)
        point = whole._replace(list=at)
        assert judge.keeps(judge.trial(point))
        stats = index.apply(point).search(Q[5000:], k=5, stats=True).stats
        begun = point._replace(trust=0.0, list=at._replace(n_listed=at.first.n_listed, trust=0.0, first=None))
        first = index.apply(begun).search(Q[5000:], k=5, stats=True).stats["candidates"]
        on = ((stats["candidates"] > first) | (stats["step"] > 0)).mean()
        assert us == pytest.approx((at.first.n_listed + on * (most - at.first.n_listed)) / 100 + 1, rel=0.05)
        assert 0.5 * share < (stats["step"] > 0).mean() <= share + 0.01
    assert _in_json(point)["list"]["first"] == {**at.first._asdict(), "judge": list(at.first.judge)}


def test_insurance_is_what_others_may_cost(spread_out):
    fitted, Q = spread_out
    fitted = fitted._at(fitted.operating_point)
    reports = [tune(fitted, Q[5000:], insurance=i, progress=False) for i in (0, 0.1, 1.0)]
    assert all(report.feasible for report in reports)
    chosen = [next(trial for trial in report.trials if trial.point == report.best) for report in reports]
    assert all(share.low >= 0.99 for trial in chosen for share in trial.quality.values())
    us = [trial.us for trial in chosen]
    assert us == sorted(us)
    on = [(fitted.apply(t.point).search(Q[5000:], 5, stats=True).stats["step"] > 0).mean() for t in chosen]
    assert on == sorted(on)
    assert on[0] < on[-1]


def test_foreigners_are_not_answered_from_lists(index):
    full = index.search(Q[5000:], k=5, exact=True).labels
    read = learn_list_trust(index._core, Q[5000:], full, 5, 4000, 32)
    far = 5 * np.random.default_rng(3).standard_normal((400, D)).astype(np.float32)
    _, features = index._core.read_lists(far, 5, 4000, 32)
    trust = 1 / (1 + np.exp(-(features @ np.float32(read.judge)).astype(float)))
    assert trust.mean() < read.trust.mean() - 0.2


# Configuration


def test_regions_are_asked_for():
    for without in ({"fill": "rows"}, {"sketch_bytes": 0}):
        with pytest.raises(ValueError, match="'n_regions' parameter of LSSConfig must be 0"):
            LSSConfig(n_regions=4, **without)
    index = Index.from_weights(W).fit(Q[:500], target=None, progress=False)
    assert index.params["n_regions"] == index.params["n_listed"] == index.params["nbytes"]["regions"] == 0
    with pytest.raises(ValueError, match="'list' must be None without regions"):
        reading(index)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n_listed": 0}, "'list.n_listed' must be at least 1"),
        ({"n_rescore": 0}, "'list.n_rescore' must be at least 1"),
        ({"trust": -0.1}, "'list.trust' must be in 0..=1"),
        ({"judge": (np.nan,) * 9}, "'list.judge' must be finite"),
        ({"first": FirstRead(0, 0.5, (0.0,) * 9)}, "'list.first.n_listed' must be at least 1"),
        ({"first": FirstRead(1, 1.5, (0.0,) * 9)}, "'list.first.trust' must be in 0..=1"),
        ({"first": FirstRead(1, 0.5, (np.inf,) * 9)}, "'list.first.judge' must be finite"),
    ],
)
def test_list_points_are_checked(index, change, words):
    point = reading(index).operating_point
    with pytest.raises(ValueError, match=words):
        index.apply(point._replace(list=point.list._replace(**change)))
    assert index.operating_point == point
    with pytest.raises(TypeError, match="'list' must be a ListPoint or None"):
        index.apply(point._replace(list=(1, 1, 0.0, (0.0,) * 9)))
    with pytest.raises(TypeError, match=r"'list\.first' must be a FirstRead or None"):
        index.apply(point._replace(list=point.list._replace(first=(1, 0.0, (0.0,) * 9))))
    for change in ({"n_listed": -1}, {"n_listed": 2**70}):
        with pytest.raises(ValueError, match="'point' must be of numbers in range"):
            index.apply(point._replace(list=point.list._replace(**change)))
    assert index.params["list"] == point.list


# Exact search, which reads rows in bytes


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 20), k=st.integers(1, 200), size=st.integers(-30, 30))
def test_exact_search_answers_as_if_all_rows_were_scored(fitted, seed, n, k, size):
    rng = np.random.default_rng(seed)
    near, far = Q[rng.integers(N, size=n)], rng.standard_normal((n, D), dtype=np.float32)
    queries = np.where(rng.random((n, 1)) < 0.5, near, far * np.float32(10.0**size))
    bare = Index.from_weights(W)
    expected = bare.search(queries, k=k, exact=True)
    for x, labels, scores in [(queries, *expected), (queries[0], expected.labels[0], expected.scores[0])]:
        found = fitted.search(x, k=k, exact=True)
        np.testing.assert_array_equal(found.labels, labels)
        np.testing.assert_array_equal(found.scores.view(np.int32), scores.view(np.int32))


def test_exact_search_scores_few_rows(index):
    exact = index.search(Q[5000:], k=5, exact=True, stats=True).stats
    assert (exact["step"] == 3).all()
    assert (exact["candidates"] == M).all()
    assert (exact["rescored"] >= 5).all()
    assert exact["rescored"].mean() < 60
    alone = [index.search(query, k=5, exact=True, stats=True).stats["rescored"] for query in Q[5000:5050]]
    np.testing.assert_array_equal(alone, exact["rescored"][:50])
    again = Index.from_bytes(index.to_bytes()).search(Q[5000:], k=5, exact=True, stats=True).stats
    np.testing.assert_array_equal(again["rescored"], exact["rescored"])

"""Refinement against the order in which probes meet exemplars, in loops, and as ``fit`` uses it."""

import math

import numpy as np
import pytest

from lss_rs import Index, LSSConfig
from lss_rs.learn import refine
from lss_rs.learn.aligned import aligned_planes

pytestmark = pytest.mark.inference


def clusters(n, p=12, seed=0):
    """Exemplars around far more centres than there are directions; leading coordinates count more."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((60, p))
    x = centres[rng.integers(60, size=n)] + 0.3 * rng.standard_normal((n, p))
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    return x.astype(np.float32), np.geomspace(1, 0.02, p).astype(np.float32)


def silent(*_):
    pass


def costs(planes, thresholds, queries, exemplars):
    """What it costs to probe the bucket of each exemplar, in the cheapest table."""
    tables = []
    for table, at in zip(planes, thresholds, strict=True):
        margins, others = queries @ table.T - at, exemplars @ table.T - at
        differs = (margins[:, None] > 0) != (others[None] > 0)
        tables.append((margins[:, None] ** 2 * differs).sum(axis=2))
    return np.min(tables, axis=0)


def loss_by_hand(planes, thresholds, queries, near, others, left_out):
    def bit(margin):
        return 1 / (1 + math.exp(-2 * refine.SHARPNESS * margin))

    def similar(q, x):
        total = 0.0
        for table, at in zip(planes, thresholds, strict=True):
            cost = 0.0
            for plane, threshold in zip(table, at, strict=True):
                margin = plane @ q - threshold
                a, b = bit(margin), bit(plane @ x - threshold)
                cost += margin**2 * (a * (1 - b) + b * (1 - a))
            total += math.exp(-cost / refine.TEMPERATURE)
        return total

    losses = []
    for q, x, out in zip(queries, near, left_out, strict=True):
        wanted = similar(q, x)
        drawn = [other for other, is_out in zip(others, out, strict=True) if not is_out]
        losses.append(-math.log(wanted / (wanted + sum(similar(q, other) for other in drawn))))
    return np.mean(losses)


def problem(seed, n_tables):
    rng = np.random.default_rng(seed)
    shapes = (n_tables, 3, 4), (n_tables, 3), (5, 4), (5, 4), (7, 4)
    return [*(rng.standard_normal(shape) for shape in shapes), rng.random((5, 7)) < 0.3]


@pytest.mark.parametrize("n_tables", [1, 3])
@pytest.mark.parametrize("seed", range(5))
def test_loss_is_that_of_its_definition(seed, n_tables):
    given = problem(seed, n_tables)
    assert refine.contrast(*given).loss == pytest.approx(loss_by_hand(*given), rel=1e-9)


@pytest.mark.parametrize("n_tables", [1, 3])
@pytest.mark.parametrize("seed", range(5))
def test_gradients_are_those_of_finite_differences(seed, n_tables):
    planes, thresholds, *rest = problem(seed, n_tables)
    step = refine.contrast(planes, thresholds, *rest)
    assert step.planes.shape == planes.shape
    assert step.thresholds.shape == thresholds.shape
    for changed, gradient in ((planes, step.planes), (thresholds, step.thresholds)):
        for at in np.ndindex(changed.shape):
            ends = []
            for sign in (1, -1):
                changed[at] += sign * 1e-6
                ends.append(refine.contrast(planes, thresholds, *rest).loss)
                changed[at] -= sign * 1e-6
            assert gradient[at] == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-4, abs=1e-7)


def test_loss_is_finite_where_every_cost_is_huge():
    *numbers, left_out = problem(0, 2)
    step = refine.contrast(*(np.float32(1e4) * x.astype(np.float32) for x in numbers), left_out)
    assert np.isfinite(step.loss)
    assert np.isfinite(step.planes).all()
    assert np.isfinite(step.thresholds).all()


def test_nothing_is_lost_where_all_others_are_left_out():
    *numbers, _ = problem(0, 2)
    step = refine.contrast(*numbers, np.ones((5, 7), bool))
    assert step.loss == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(step.planes, 0, atol=1e-12)


@pytest.mark.parametrize("n", [2, 3, 40, 200, 1000])
def test_nearest_are_near_in_the_logits(n):
    exemplars, variances = clusters(n)
    exemplars = np.concatenate([exemplars, exemplars[:1]])  # a query twice is its own nearest
    pairs = refine.nearest(exemplars, variances, np.random.default_rng(0))
    near = min(refine.NEAR, max(1, (n + 1) // 16))
    assert pairs.near.shape == (n + 1, near)
    assert sorted(pairs.anchors.tolist()) == list(range(n + 1))
    for anchor, found in zip(pairs.anchors, pairs.near, strict=True):
        distance = ((exemplars - exemplars[anchor]) ** 2 * variances).sum(axis=1)
        distance[anchor] = np.inf
        assert anchor not in found
        assert len(set(found.tolist())) == near
        np.testing.assert_allclose(np.sort(distance[found]), np.sort(distance)[:near], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("n_tables", [1, 2])
def test_refined_planes_meet_the_nearest_earlier(n_tables):
    exemplars, variances = clusters(6000)
    known, asked = exemplars[:5500], exemplars[5500:]
    planes, thresholds = aligned_planes(variances[:8], known[:, :8], n_tables, 6, 0)
    refined, moved = refine.refined_planes(planes, thresholds, known, variances, 12, 0, silent)
    assert refined.shape == (n_tables, 6, 12)
    assert refined.dtype == moved.dtype == np.float32
    distance = ((asked[:, None] - known[None]) ** 2 * variances).sum(axis=2)
    nearest = np.argsort(distance, axis=1)[:, :30]

    def met_before(planes, thresholds):
        """Exemplars that are met no later than a near one, on average."""
        width = planes.shape[2]
        cost = costs(planes, thresholds, asked[:, :width], known[:, :width])
        of_near = np.take_along_axis(cost, nearest, axis=1)
        places = [np.searchsorted(np.sort(row), near) for row, near in zip(cost, of_near, strict=True)]
        return np.mean(places)

    assert met_before(refined, moved) < 0.8 * met_before(planes, thresholds)


def test_seed_fixes_all():
    exemplars, variances = clusters(500)
    planes, thresholds = aligned_planes(variances[:6], exemplars[:, :6], 2, 4, 0)
    before = planes.copy(), thresholds.copy()
    once, again, other = (
        refine.refined_planes(planes, thresholds, exemplars, variances, 8, seed, silent) for seed in (0, 0, 1)
    )
    for a, b, c in zip(once, again, other, strict=True):
        np.testing.assert_array_equal(a, b)
        assert (a != c).any()
    np.testing.assert_array_equal(before[0], planes)
    np.testing.assert_array_equal(before[1], thresholds)


def test_one_exemplar_changes_nothing():
    exemplars, variances = (part[:1] if part.ndim == 2 else part for part in clusters(10))
    planes, thresholds = np.ones((1, 2, 3), np.float32), np.zeros((1, 2), np.float32)
    refined, moved = refine.refined_planes(planes, thresholds, exemplars, variances, 5, 0, silent)
    np.testing.assert_array_equal(refined[..., :3], planes)
    assert not refined[..., 3:].any()
    assert moved is thresholds


# As a method of fit


def fitted(config, n=3000):
    rng = np.random.default_rng(0)
    W = rng.standard_normal((400, 12), dtype=np.float32)
    Q, _ = clusters(n)
    return Index.from_weights(W, config=config), Q


def test_fit_reports_each_step():
    seen = []
    index, Q = fitted(LSSConfig(method="refine"), n=300)
    index.fit(Q, target=None, progress=False, callback=lambda *step: seen.append(step))
    steps = [step for step in seen if step[0] == "refine"]
    assert len(steps) == 30  # a tenth of the queries
    assert steps == [("refine", done, 30) for done in range(1, 31)]
    assert index.params["method"] == "refine"


def test_a_refined_index_meets_the_nearest_with_as_many_entries():
    """In the index as in the costs: with as many entries, more of the best labels are found."""
    Q, _ = clusters(5000)
    known, asked = Q[:4500], Q[4500:]
    W = np.random.default_rng(0).standard_normal((2000, 12), dtype=np.float32)
    shares = {}
    for method in ("aligned", "refine"):
        config = LSSConfig(method=method, n_probes=65_536, max_entries=40, n_neighbors=1, teacher_top=8)
        index = Index.from_weights(W, config=config).fit(known, k=5, target=None, progress=False)
        best = index.search(asked, k=5, exact=True).labels
        found = index.search(asked, k=5, stats=True)
        shares[method] = np.mean([len({*a} & {*b}) for a, b in zip(found.labels, best, strict=True)]) / 5
        assert found.stats["entries"].mean() < 60
    assert shares["refine"] > shares["aligned"]


def test_an_interrupted_refinement_leaves_the_index_as_it_was():
    index, Q = fitted(LSSConfig())
    index.fit(Q[:500], target=None, progress=False)
    before = index.to_bytes()

    def stop(stage, done, _):
        if stage == "refine" and done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index.fit(Q, target=None, progress=False, callback=stop)
    assert index.to_bytes() == before


@pytest.mark.filterwarnings("ignore:'Q' hardly varies")
def test_equal_queries_are_refined():
    index, Q = fitted(LSSConfig())
    index.fit(np.repeat(Q[:1], 100, axis=0), target=None, progress=False)
    assert index.search(Q[0], k=5).labels.tolist() == index.search(Q[0], k=5, exact=True).labels.tolist()


def test_rows_have_no_queries_to_be_met():
    with pytest.raises(
        ValueError, match=r"another with fill='rows', which keeps no queries to be met\. Got 'refine'"
    ):
        LSSConfig(method="refine", fill="rows")
    assert LSSConfig(fill="rows").resolve(m=100, d=8, n=100, k=5).method == "aligned"

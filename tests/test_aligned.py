import numpy as np
import pytest

from lss_rs import LSSConfig, _core
from lss_rs._arrays import QueryRows
from lss_rs.learn import _covered
from lss_rs.learn.aligned import Alignment, Moments, align, aligned_planes
from lss_rs.learn.simhash import simhash_planes

pytestmark = pytest.mark.inference


def layer(m=300, n=4000, d=12, seed=0, scale=1.0):
    """Rows and queries with a mean, correlations, and directions of very different size."""
    rng = np.random.default_rng(seed)
    spread = np.geomspace(1, 30, d)
    Q = (rng.standard_normal((n, d)) * spread) @ rng.standard_normal((d, d)) + 3 * rng.standard_normal(d)
    W = (rng.standard_normal((m, d)) / spread) @ rng.standard_normal((d, d)) + rng.standard_normal(d)
    return (scale * W).astype(np.float32), Q.astype(np.float32), rng.standard_normal(m).astype(np.float32)


# What sums in single precision may come to.
SINGLE = 64 * 2.0**-24


def blocks(x, size=701):
    return (x[lo : lo + size] for lo in range(0, len(x), size))


def solve(W, Q):
    return align(Moments.of(blocks(Q), Q.shape[1]), Moments.of(blocks(W), W.shape[1]))


def z_of(alignment, Q):
    return Q.astype(np.float64) @ alignment.query_map.T.astype(np.float64) + alignment.query_offset


def rows_of(alignment, W):
    return W.astype(np.float64) @ alignment.row_map.T.astype(np.float64) + alignment.row_offset


@pytest.mark.parametrize("size", [1, 7, 4000])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_moments_are_those_of_numpy(size, offset):
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((500, 5)) @ rng.standard_normal((5, 5)) + offset).astype(np.float32)
    moments = Moments.of(blocks(x, size), 5)
    wide = x.astype(np.float64)
    assert moments.n == 500
    np.testing.assert_allclose(moments.mean, wide.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(moments.covariance, np.cov(wide.T, bias=True), rtol=1e-9, atol=1e-9)


def test_moments_do_not_cancel_far_from_the_origin():
    x = np.float32([[16_777_216], [16_777_218]] * 1000)
    assert Moments.of(blocks(x), 1).covariance.item() == pytest.approx(1.0)


@pytest.mark.parametrize("seed", range(5))
def test_logits_are_inner_products_of_coordinates(seed):
    W, Q, b = layer(seed=seed)
    alignment = solve(W, Q)
    logits = Q[:50].astype(np.float64) @ W.T.astype(np.float64) + b
    base = W.astype(np.float64) @ Q.mean(axis=0, dtype=np.float64) + b
    rest = logits - base - z_of(alignment, Q[:50]) @ rows_of(alignment, W).T
    # what is left over is one number a query, the same for all rows, as far as single precision goes
    assert np.ptp(rest, axis=1).max() < SINGLE * np.ptp(logits, axis=1).min()


@pytest.mark.parametrize("seed", range(5))
def test_queries_are_white_and_variances_are_those_of_the_rows(seed):
    W, Q, _ = layer(seed=seed)
    alignment = solve(W, Q)
    z, Z = z_of(alignment, Q), rows_of(alignment, W)
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=1e-3)
    # Weighed by what coordinates tell: those that hardly vary are differences of large numbers.
    deviations = np.sqrt(alignment.variances / alignment.variances[0])
    error = deviations[:, None] * (np.cov(z.T, bias=True) - np.eye(Q.shape[1])) * deviations
    assert np.abs(error).max() < SINGLE
    np.testing.assert_allclose(Z.mean(axis=0), 0, atol=1e-3 * np.abs(Z).max())
    covariance = Z.T @ Z / len(Z)
    np.testing.assert_allclose(
        np.diag(covariance), alignment.variances, rtol=1e-3, atol=1e-9 * alignment.variances[0]
    )
    off = covariance - np.diag(np.diag(covariance))
    assert np.abs(off).max() < 1e-4 * alignment.variances[0]
    assert (np.diff(alignment.variances) <= 0).all()


def test_leading_coordinates_carry_most_of_the_logits():
    W, Q, b = layer()
    alignment = solve(W, Q)
    logits = (Q @ W.T + b)[:200].astype(np.float64)
    centred = logits - logits.mean(axis=1, keepdims=True)
    base = W.astype(np.float64) @ Q.mean(axis=0, dtype=np.float64) + b
    errors = []
    for p in range(1, 13):
        part = alignment.leading(p)
        guess = z_of(part, Q[:200]) @ rows_of(part, W).T + base
        errors.append(((centred - guess + guess.mean(axis=1, keepdims=True)) ** 2).mean())
    lost = alignment.variances[::-1].cumsum()[::-1][1:]
    np.testing.assert_allclose(errors[:-1], lost, rtol=0.35, atol=SINGLE**2 * errors[0])
    assert errors[-1] < SINGLE**2 * errors[0]


@pytest.mark.parametrize("seed", range(3))
def test_signs_are_fixed(seed):
    W, Q, _ = layer(seed=seed)
    values, vectors = np.linalg.eigh(np.cov(Q.astype(np.float64).T, bias=True))
    inverse_root = (vectors / np.sqrt(values)) @ vectors.T
    directions = solve(W, Q).row_map @ inverse_root
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1, atol=1e-3)
    largest = np.abs(directions).argmax(axis=1)
    assert (directions[np.arange(12), largest] > 0).all()


def test_a_direction_that_training_never_showed_stays_bounded():
    W, Q, _ = layer()
    Q[:, 0] = 2.5
    alignment = solve(W, Q)
    assert all(np.isfinite(getattr(alignment, name)).all() for name in Alignment.__dataclass_fields__)
    # floored, not dropped: the identity still holds for a query that leaves the training subspace
    q = Q[:1] + np.eye(1, 12, dtype=np.float32)
    logits = q.astype(np.float64) @ W.T.astype(np.float64)
    base = W.astype(np.float64) @ Q.mean(axis=0, dtype=np.float64)
    rest = logits - base - z_of(alignment, q) @ rows_of(alignment, W).T
    assert np.ptp(rest) < 1e-2 * np.ptp(logits)


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("m", [1, 2, 5])
def test_degenerate_layers_have_finite_coordinates(n, m):
    W, Q, _ = layer(m=m, n=n, d=4)
    alignment = solve(W, Q)
    assert all(np.isfinite(getattr(alignment, name)).all() for name in Alignment.__dataclass_fields__)
    assert 1 <= alignment.rank <= 4
    z = z_of(alignment, Q)
    planes, thresholds = aligned_planes(alignment.variances, z.astype(np.float32), 2, 1, seed=0)
    assert np.isfinite(planes).all()
    assert np.isfinite(thresholds).all()


def test_rank_is_that_of_the_rows():
    W, Q, _ = layer(m=5, d=12)
    assert solve(W, Q).rank == 4
    W, Q, _ = layer(m=300, d=12)
    assert solve(W, Q).rank == 12


# Planes


def test_planes_halve_the_queries_with_margins_of_unit_deviation():
    W, Q, _ = layer()
    alignment = solve(W, Q)
    z = z_of(alignment, Q).astype(np.float32)
    planes, thresholds = aligned_planes(alignment.variances, z, 3, 5, seed=0)
    assert planes.shape == (3, 5, 12)
    assert thresholds.shape == (3, 5)
    assert planes.dtype == thresholds.dtype == np.float32
    margins = z @ planes.reshape(15, 12).T - thresholds.reshape(15)
    np.testing.assert_allclose((margins > 0).mean(axis=0), 0.5, atol=1e-3)
    np.testing.assert_allclose(margins.std(axis=0), 1, atol=2e-3)


def test_planes_are_orthonormal_before_they_are_weighted():
    variances = np.geomspace(9, 1e-3, 7).astype(np.float32)
    planes, _ = aligned_planes(variances, np.zeros((1, 7), np.float32), 4, 7, seed=3)
    for table in planes.astype(np.float64):
        directions = table / np.sqrt(variances / variances[0])
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        np.testing.assert_allclose(directions @ directions.T, np.eye(7), atol=1e-4)
    assert np.abs(planes[0] - planes[1]).max() > 0.1


def test_coordinates_that_carry_nothing_have_no_part_in_planes():
    variances = np.float32([4, 1, 0])
    planes, _ = aligned_planes(variances, np.zeros((1, 3), np.float32), 2, 2, seed=0)
    assert (planes[:, :, 2] == 0).all()
    assert (planes[:, :, 0] != 0).all()


def test_a_seed_repeats():
    variances, sample = np.ones(6, np.float32), np.zeros((1, 6), np.float32)
    first, again, other = (aligned_planes(variances, sample, 2, 3, seed)[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_planes_lean_towards_what_was_drawn():
    """The signs of a QR decomposition are LAPACK's whim, the planes' are not."""
    planes, _ = aligned_planes(np.ones(6, np.float32), np.zeros((1, 6), np.float32), 20, 4, seed=5)
    rng = np.random.default_rng(5)
    for table in planes:
        assert (np.sum(table * rng.standard_normal((6, 4)).T, axis=1) > 0).all()


def test_more_planes_than_directions():
    with pytest.raises(ValueError, match=r"'n_bits' parameter of LSSConfig must be at most 6.*Got 7 instead"):
        aligned_planes(np.ones(6, np.float32), np.zeros((1, 6), np.float32), 1, 7, seed=0)


def test_simhash_planes_are_gaussian_through_the_origin():
    planes, thresholds = simhash_planes(d=99, n_tables=20, n_bits=10, seed=0)
    assert planes.shape == (20, 10, 100)
    assert planes.dtype == np.float32
    assert not thresholds.any()
    assert thresholds.shape == (20, 10)
    assert abs(planes.mean()) < 0.02
    assert abs(planes.std() - 1) < 0.02
    np.testing.assert_array_equal(planes, simhash_planes(99, 20, 10, seed=0)[0])
    assert (planes != simhash_planes(99, 20, 10, seed=1)[0]).any()


# What of it the core is given


@pytest.mark.parametrize("d", [3, 32, 70, 200])
@pytest.mark.parametrize("fill", ["queries", "rows"])
@pytest.mark.parametrize("sketch_bytes", [0, 64, 128])
def test_kept_coordinates_have_the_sketch_of_all(d, fill, sketch_bytes):
    variances = np.geomspace(100, 1e-3, d).astype(np.float32)
    p = _covered(variances, LSSConfig(fill=fill, sketch_bytes=sketch_bytes))
    assert (p > 0) == (fill == "queries" or sketch_bytes > 0)
    assert p <= d
    if sketch_bytes:
        widths = _core.sketch_widths(variances, sketch_bytes)
        assert _core.sketch_widths(variances[:p], sketch_bytes) == widths
    if fill == "queries":
        assert _core.exemplar_widths(variances[:p]) == _core.exemplar_widths(variances)


@pytest.mark.parametrize(("n", "step"), [(1, 1), (20_000, 1), (20_001, 2), (45_000, 3)])
def test_thresholds_look_at_evenly_spaced_queries(n, step):
    Q = np.arange(2 * n, dtype=np.float32).reshape(n, 2)
    doubled = Alignment(
        2 * np.eye(2, dtype=np.float32), np.ones(2, np.float32), *[np.ones(2, np.float32)] * 5
    )
    np.testing.assert_array_equal(doubled.sample(QueryRows(Q, 2), 20_000), 2 * Q[::step] + 1)

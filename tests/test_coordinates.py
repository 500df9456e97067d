"""Aligned coordinates as a fitted index knows them, against the closed form that they were made by."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lss_rs import Index, LSSConfig, NotFittedError
from lss_rs.learn.aligned import Moments, align


def layer(m, d, n, seed):
    rng = np.random.default_rng(seed)
    W, Q = (rng.standard_normal((rows, d), dtype=np.float32) for rows in (m, n))
    return W, rng.standard_normal(m, dtype=np.float32), Q + 1


@given(st.integers(2, 300), st.integers(1, 40), st.integers(0, 3), st.sampled_from([64, 128]))
def test_they_are_those_of_the_closed_form(m, d, seed, sketch_bytes):
    W, b, Q = layer(m, d, 2 * d + 20, seed)
    config = LSSConfig(sketch_bytes=sketch_bytes, method="aligned", n_bits=1)
    index = Index.from_weights(W, b, config)
    index.fit(Q, target=None, progress=False)
    form = align(Moments.of([Q], d), Moments.of([W], d))
    query_map, offset = index._core.query_map()
    p = len(offset)
    # In bytes: as many steps as there are of them, for the largest number of a row weighted by deviations.
    weights = np.sqrt(np.maximum(form.query_deviations, 1e-3 * form.query_deviations.max()))
    exact, known = form.query_map[:p] * weights, query_map * weights
    half = np.abs(exact).max(1, keepdims=True) / 254
    assert (np.abs(known - exact) <= 1.001 * half).all()
    of_mean = (query_map - form.query_map[:p]) @ form.query_mean
    np.testing.assert_allclose(offset + of_mean, form.query_offset[:p], atol=1e-4)
    rows, base = index._core.row_coordinates(d)
    expected = W @ form.row_map.T + form.row_offset
    np.testing.assert_allclose(base, W @ Q.astype(np.float64).mean(0) + b, rtol=1e-4, atol=1e-4)
    assert rows.shape == (m, min(p, d))
    # Half a step of a Gaussian's best quantiser; eight bits reach further where rows do. Beyond, it clips.
    width = index.params["sketch_widths"][0]
    first, expected = rows[:, :32], expected[:, :32]
    half = {8: 0.0154, 4: 0.1676, 2: 0.49785, 1: 0.798}[width] * np.sqrt(form.variances[: first.shape[1]])
    if width == 8:
        half = np.maximum(half, np.abs(expected).max(0) / 256)
    inside = np.abs(expected) <= half * 2**width
    error = np.abs(first - expected)
    assert (error <= 1.01 * half + 1e-4)[inside].all()
    beyond = ~inside & (np.abs(expected) > 1e-4)
    assert (np.sign(first) == np.sign(expected))[beyond].all()
    assert beyond.mean() < 0.5


@pytest.mark.parametrize("p", [1, 5, 1000])
def test_leading_ones_are_a_part_of_all(p):
    W, b, Q = layer(500, 48, 300, 0)
    index = Index.from_weights(W, b).fit(Q, target=None, progress=False)
    some, base = index._core.row_coordinates(p)
    every, same = index._core.row_coordinates(10_000)
    np.testing.assert_array_equal(some, every[:, :p])
    np.testing.assert_array_equal(base, same)


def test_there_are_none_without_a_fit_or_sketches():
    W, b, Q = layer(50, 4, 100, 0)
    index = Index.from_weights(W, b, LSSConfig(method="simhash", fill="rows", sketch_bytes=0))
    for ask in (lambda: index._core.row_coordinates(4), index._core.query_map):
        with pytest.raises(NotFittedError):
            ask()
    index.fit(Q, target=None, progress=False)
    for ask in (lambda: index._core.row_coordinates(4), index._core.query_map):
        with pytest.raises(ValueError, match="'sketch_bytes' must be 64 or 128"):
            ask()

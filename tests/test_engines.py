"""Every engine of the benchmark keeps to what an engine is, on data where a search of all rows is cheap.

An engine is checked in a process of its own, as it is measured: libraries bring OpenMP runtimes and thread
settings that are no others' business.
"""

import subprocess
import sys

import numpy as np
import pytest
from benchmarks import engines
from benchmarks.bundles import Labels
from benchmarks.engines import Data
from benchmarks.engines._mips import products

M, D, N, K = 2_000, 24, 500, 5
NOT_INSTALLED = 77
EXACT = {"torch_f32", "faiss_flat"}


def layer(bias):
    """Data, and the logits of its queries."""
    rng = np.random.default_rng(0)
    W, Q = (rng.normal(size=(n, D)).astype(np.float32) for n in (M, N))
    b = (2 * rng.normal(size=M) - 10 if bias else np.zeros(M)).astype(np.float32)
    logits = Q @ W.T + b
    return Data(W, b, Q, Labels(np.arange(N + 1), logits.argmax(1))), logits


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("metric", ["ip", "l2"])
def test_nearest_row_is_that_of_the_largest_logit(metric, bias):
    data, logits = layer(bias)
    rows, prepare = products(data, metric, multiple=16)
    queries = prepare(data.Q)
    assert rows.dtype == queries.dtype == np.float32
    assert rows.shape[1] == queries.shape[1] == (32 if bias or metric == "l2" else D)
    near = queries @ rows.T
    if metric == "l2":
        near = 2 * near - (rows**2).sum(1)
    np.testing.assert_array_equal(near.argmax(1), logits.argmax(1))


@pytest.mark.parametrize("name", engines.names())
def test_engine(name):
    # faiss' SWIG types have no __module__, which Python 3.12 warns of as they are made.
    warnings = ["-Werror", "-Wignore:builtin type:DeprecationWarning"]
    command = [sys.executable, *warnings, "-m", "tests.test_engines", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == NOT_INSTALLED:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr


def check(name):
    """Build and search with all settings for tiny data."""
    engine = engines.load_engine(name)
    for bias in (False, True):
        data, logits = layer(bias)
        for grid in engines.grids(name, "smoke"):
            build, settings = grid.resolve(M, D)
            built = engine(data, 1, **build)
            assert M * D <= built.size() <= 20 * data.W.nbytes
            for setting in settings:
                built.configure(**setting.search)
                check_answers(name, built, data, logits)


def check_answers(name, built, data, logits):
    """At one setting: what is found, in which form, on one thread and two, alone and in a batch."""
    prepared = built.prepare(data.Q)
    found = built.labels(built.batch(prepared, K))
    assert found.shape == (N, K)
    assert found.dtype == np.int64
    assert found.min() >= 0
    assert found.max() < M
    assert all(len(set(row)) == K for row in found.tolist())

    alone = np.concatenate([built.labels(built.one(prepared[i], K)) for i in range(50)])
    assert alone.shape == (50, K)
    # Queries in eight bits have one scale a batch.
    assert np.mean(alone == found[:50]) >= (0.85 if name == "dense_int8" else 0.99)
    built.set_num_threads(2)
    assert np.mean(built.labels(built.batch(prepared, K)) == found) >= 0.99
    assert built.labels(built.one(prepared[0], K)).shape == (1, K)
    built.set_num_threads(1)

    if built.library:  # the package's own engines learn from queries, which random ones teach nothing
        best = np.argsort(-logits, axis=1)[:, :K, None]
        recall = np.mean((found[:, None] == best).any(2))
        assert recall >= (0.999 if name in EXACT else 0.9)

    sample, bytes_read, _ = built.work(prepared)
    assert sample is None or K <= sample <= M
    assert bytes_read is None or bytes_read > 0


if __name__ == "__main__":
    try:
        check(sys.argv[1])
    except ImportError as error:
        sys.stderr.write(str(error))
        sys.exit(NOT_INSTALLED)

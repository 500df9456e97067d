import copy
import dataclasses
import json
import pickle
import re

import numpy as np
import pytest

from lss_rs import IULOptions, LSSConfig

pytestmark = pytest.mark.inference


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("n_bits", 99, "an int in 1..24 or None. Got 99 instead."),
        ("n_bits", 0, "an int in 1..24 or None. Got 0 instead."),
        ("n_bits", True, "an int in 1..24 or None. Got True instead."),
        ("n_bits", 8.0, "an int in 1..24 or None. Got 8.0 instead."),
        ("n_tables", 0, "an int in 1..256 or None. Got 0 instead."),
        ("n_tables", "4", "an int in 1..256 or None. Got '4' instead."),
        ("n_probes", -1, "an int in 1..65536 or None. Got -1 instead."),
        ("n_rescore", 0, "an int in 1..2147483647 or None. Got 0 instead."),
        ("teacher_top", -1, "an int in 0..65536 or None. Got -1 instead."),
        ("n_neighbors", 1.5, "an int in 1..2147483647 or None. Got 1.5 instead."),
        ("seed", None, f"an int in 0..{2**63 - 1}. Got None instead."),
        ("seed", -1, f"an int in 0..{2**63 - 1}. Got -1 instead."),
        ("method", "pca", "one of None, 'refine', 'aligned', 'simhash', 'iul'. Got 'pca' instead."),
        ("sketch_bytes", 32, "one of 0, 64, 128. Got 32 instead."),
        ("sketch_bytes", False, "one of 0, 64, 128. Got False instead."),
        ("fill", "both", "one of 'queries', 'rows'. Got 'both' instead."),
        ("dtype", "float64", "one of None, 'float32', 'float16', 'bfloat16'. Got 'float64' instead."),
        ("always_include", 3, "a sequence of label ids. Got 3 instead."),
        ("always_include", (1, -1), "a sequence of label ids, ints of 0 or more. Got (1, -1) instead."),
        ("always_include", (1.0,), "a sequence of label ids, ints of 0 or more. Got (1.0,) instead."),
        ("always_include", "ab", "a sequence of label ids, ints of 0 or more. Got 'ab' instead."),
        ("iul", 3, "IULOptions or None. Got 3 instead."),
        (
            "iul",
            IULOptions(),
            f"None with method=None, which has no such options. Got {IULOptions()!r} instead.",
        ),
    ],
)
def test_refuses(name, value, expected):
    text = re.escape(f"The '{name}' parameter of LSSConfig must be {expected}")
    with pytest.raises(ValueError, match=f"^{text}$"):
        LSSConfig(**{name: value})


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("rounds", 0, "an int in 1..2147483647. Got 0 instead."),
        ("rounds", None, "an int in 1..2147483647. Got None instead."),
        ("batch", 65_537, "an int in 1..65536. Got 65537 instead."),
        ("batch", True, "an int in 1..65536. Got True instead."),
        ("pairs", 2.0, "an int in 1..2147483647. Got 2.0 instead."),
        ("rate", 0, "a number above 0, at most 1000. Got 0 instead."),
        ("rate", "fast", "a number above 0, at most 1000. Got 'fast' instead."),
        ("rate", float("inf"), "a number above 0, at most 1000. Got inf instead."),
        ("beta", float("nan"), "a number above 0, at most 1000. Got nan instead."),
        ("beta", True, "a number above 0, at most 1000. Got True instead."),
        ("t1_quantile", 1.1, "a number above 0, at most 1. Got 1.1 instead."),
        ("t2_quantile", 0.0, "a number above 0, at most 1. Got 0.0 instead."),
        ("positives", "all", "one of 'labels', 'rows'. Got 'all' instead."),
        ("device", "", "the name of a torch device. Got '' instead."),
        ("device", 0, "the name of a torch device. Got 0 instead."),
    ],
)
def test_iul_refuses(name, value, expected):
    text = re.escape(f"The '{name}' parameter of IULOptions must be {expected}")
    with pytest.raises(ValueError, match=f"^{text}$"):
        IULOptions(**{name: value})
    with pytest.raises(ValueError, match=f"^{text}$"):
        LSSConfig.from_json({"method": "iul", "iul": {name: value}})


def test_refuses_what_buckets_of_rows_have_no_use_for():
    LSSConfig(fill="rows", teacher_top=0)
    with pytest.raises(
        ValueError, match=r"'teacher_top' parameter.*None or 0 with fill='rows'.* Got 5 instead"
    ):
        LSSConfig(fill="rows", teacher_top=5)
    with pytest.raises(ValueError, match=r"'n_neighbors' parameter.*None with fill='rows'.* Got 5 instead"):
        LSSConfig(fill="rows", n_neighbors=5)


def test_takes_numpy_integers_and_keeps_plain_ones():
    config = LSSConfig(n_bits=np.int32(9), always_include=np.array([3, 1]), seed=np.uint8(7))
    assert (config.n_bits, config.always_include, config.seed) == (9, (3, 1), 7)
    assert [type(value) for value in (config.n_bits, *config.always_include, config.seed)] == [int] * 4
    options = IULOptions(rounds=np.int64(3), rate=np.float32(0.5), beta=2)
    assert (options.rounds, options.rate, options.beta) == (3, 0.5, 2.0)
    assert [type(value) for value in (options.rounds, options.rate, options.beta)] == [int, float, float]


def test_is_frozen_hashable_and_keyword_only():
    config = LSSConfig(n_tables=3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.n_tables = 4
    assert hash(config) == hash(LSSConfig(n_tables=3))
    assert config != LSSConfig()
    with pytest.raises(TypeError):
        LSSConfig("aligned")


@pytest.mark.parametrize(
    "config",
    [
        LSSConfig(),
        LSSConfig(method="simhash", fill="rows", sketch_bytes=0, dtype="bfloat16"),
        LSSConfig(
            n_bits=5,
            n_tables=6,
            n_probes=7,
            max_entries=10,
            n_neighbors=3,
            n_rescore=8,
            teacher_top=0,
            always_include=[2, 9],
        ),
        LSSConfig().resolve(m=1000, d=8, n=200, k=3),
        LSSConfig(method="iul"),
        LSSConfig(method="iul", iul=IULOptions(rounds=2, rate=0.1, positives="rows", device="cuda:1")),
        LSSConfig(method="iul").resolve(m=1000, d=8, n=200, k=3),
    ],
)
def test_round_trips(config):
    assert LSSConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
    assert pickle.loads(pickle.dumps(config)) == copy.deepcopy(config) == config


def test_from_json_refuses_names_it_does_not_know():
    with pytest.raises(ValueError, match="LSSConfig has no parameter 'alpha', 'n_bit'"):
        LSSConfig.from_json({"n_bit": 4, "alpha": 1, "seed": 0})
    with pytest.raises(ValueError, match="IULOptions has no parameter 'round'"):
        LSSConfig.from_json({"method": "iul", "iul": {"round": 4}})


def test_resolves_the_case_of_the_design():
    resolved = LSSConfig().resolve(m=49_152, d=576, n=92_700, k=10)
    assert resolved == LSSConfig(
        method="refine",
        n_bits=14,
        n_tables=1,
        n_probes=2048,
        max_entries=1024,
        n_neighbors=50,
        n_rescore=64,
        teacher_top=200,
        capacity=185_400,
    )


def test_resolves_the_paper():
    paper = LSSConfig(method="simhash", fill="rows", sketch_bytes=0)
    resolved = paper.resolve(m=2**16, d=128, n=0, k=5)
    assert (resolved.n_bits, resolved.n_tables, resolved.n_probes) == (10, 8, 8)
    assert (resolved.teacher_top, resolved.n_neighbors) == (0, None)


def test_iul_resolves_to_buckets_of_rows_whatever_they_hold_in_the_end():
    for fill in ("queries", "rows"):
        resolved = LSSConfig(method="iul", fill=fill).resolve(m=2**16, d=128, n=10**6, k=5)
        assert (resolved.n_bits, resolved.n_tables) == (10, 8)
        assert resolved.iul == IULOptions()
    given = IULOptions(rounds=3)
    assert LSSConfig(method="iul", iul=given).resolve(m=2**16, d=128, n=10, k=5).iul == given


@pytest.mark.parametrize("fill", ["queries", "rows"])
@pytest.mark.parametrize("method", [None, "refine", "aligned", "simhash", "iul"])
@pytest.mark.parametrize("m", [1, 3, 70, 10_000_000])
@pytest.mark.parametrize("d", [1, 7, 4096])
@pytest.mark.parametrize("n", [0, 1, 30, 10_000_000])
@pytest.mark.parametrize("k", [1, 300])
def test_resolved_is_complete_valid_and_final(fill, method, m, d, n, k):
    if (fill, method) == ("rows", "refine"):
        return  # refused: test_refine.py
    resolved = LSSConfig(fill=fill, method=method).resolve(m, d, n, k)
    unset = [field.name for field in dataclasses.fields(resolved) if getattr(resolved, field.name) is None]
    by_rows = fill == "rows"
    unused = {"n_neighbors": by_rows, "capacity": by_rows, "dtype": True, "iul": method != "iul"}
    assert set(unset) == {name for name, is_unused in unused.items() if is_unused}
    assert 1 <= resolved.n_bits <= 20
    assert resolved.method not in ("refine", "aligned") or resolved.n_bits <= d
    assert resolved.n_probes <= 2**resolved.n_bits
    assert resolved.n_rescore >= k
    assert resolved.teacher_top <= m
    assert fill == "rows" or resolved.teacher_top >= min(k, m)
    assert resolved.resolve(m, d, n, k) == resolved
    assert resolved.resolve(m=99, d=9, n=99_999, k=k).n_bits == resolved.n_bits


def test_resolve_keeps_what_is_given():
    given = LSSConfig(
        method="aligned",
        n_bits=3,
        n_tables=2,
        n_probes=5,
        max_entries=9,
        n_neighbors=2,
        n_rescore=4,
        teacher_top=1,
        n_regions=3,
        capacity=50,
        seed=8,
    )
    assert given.resolve(m=100, d=10, n=1000, k=10) == given


def test_more_buckets_with_more_queries():
    bits = [LSSConfig().resolve(m=50_000, d=64, n=n, k=10).n_bits for n in (10, 1000, 100_000, 10**7)]
    assert bits == sorted(set(bits))
    assert bits == [4, 7, 14, 20]


def test_two_probes_an_entry():
    for max_entries, n_probes in ((3, 6), (1000, 2000), (10**6, 65_536)):
        config = LSSConfig(n_bits=20, max_entries=max_entries)
        assert config.resolve(m=100, d=30, n=1000, k=10).n_probes == n_probes


def test_probes_beyond_every_bucket_are_every_bucket():
    assert LSSConfig(n_bits=3, n_probes=100).resolve(m=100, d=10, n=1000, k=10).n_probes == 8

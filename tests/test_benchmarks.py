"""The harness without its peers: grids, records, bias, energy. ``make bench-smoke`` runs the rest."""

import math
from typing import get_type_hints

import numpy as np
import pytest
from benchmarks import energy, record
from benchmarks.bundles import Labels
from benchmarks.engines import Data, Grid, Setting, grids, names
from benchmarks.engines._mips import with_bias, with_one
from hypothesis import given
from hypothesis import strategies as st

number = st.floats(-1e12, 1e12).map(lambda value: float(f"{value:.6g}"))
text = st.text(alphabet="ab ,=\"'#0\n", max_size=8)
cells = {
    str: text,
    int: st.integers(0, 2**60),
    float: number,
    int | None: st.none() | st.integers(0, 2**60),
    float | None: st.none() | number,
}


@pytest.mark.parametrize(
    "kind",
    [
        record.Row,
        record.ShiftRow,
        record.ScaleRow,
        record.DefaultRow,
        record.MethodRow,
        record.FitRow,
        record.GenerateRow,
        record.HeadRow,
        record.DeviceRow,
        record.StageRow,
    ],
)
def test_records_are_read_as_they_were_written(kind, tmp_path_factory):
    rows = st.builds(kind, **{name: cells[hint] for name, hint in get_type_hints(kind).items()})
    heads = st.dictionaries(st.sampled_from(["m", "cpu", "versions"]), st.integers() | text | st.lists(text))
    path = tmp_path_factory.mktemp("records") / "cpu" / "2026-01-02-some-name.csv"

    @given(heads, st.lists(rows, min_size=1, max_size=3))
    def check(head, written):
        record.write(path, head, written)
        assert record.read(path, kind) == (head, written)

    check()


def test_the_newest_record_of_a_name_is_found(tmp_path):
    row = record.DefaultRow("16 bits", 1.0, 1.0, 1.0, 1.0, 1.0, 1)
    for name in ("a/2026-01-02-scale", "b/2026-03-01-scale", "b/2026-04-01-up-scale", "a/2026-02-01-scale"):
        record.write(tmp_path / f"{name}.csv", {}, [row])
    assert record.latest("scale", tmp_path) == tmp_path / "b/2026-03-01-scale.csv"
    assert record.latest("up-scale", tmp_path) == tmp_path / "b/2026-04-01-up-scale.csv"
    assert record.latest("cale", tmp_path) is None
    assert record.newest_of_each("scale", tmp_path) == [
        tmp_path / "a/2026-02-01-scale.csv",
        tmp_path / "b/2026-03-01-scale.csv",
    ]
    record.write(tmp_path / "a/2026-03-01-scale.csv", {}, [row])
    assert record.latest("scale", tmp_path) == tmp_path / "b/2026-03-01-scale.csv"  # of one day


def test_a_record_of_other_columns_is_refused(tmp_path):
    path = tmp_path / "2026-01-02-scale.csv"
    record.write(path, {"m": 1}, [record.DefaultRow("16 bits", 1.0, 1.0, 1.0, 1.0, 1.0, 1)])
    with pytest.raises(ValueError, match="not those of ScaleRow: record it anew"):
        record.read(path, record.ScaleRow)


@given(st.integers(1, 10**7), st.integers(1, 4096))
def test_sizes_in_grids(m, d):
    grid = Grid(
        {"nlist": "4 sqrt(m)", "name": "IVF m"}, [Setting({"a": "0.5 d", "b": "0.01 m", "c": 3}, "whose")]
    )
    found = grid.resolve(m, d)
    assert found.build == {"nlist": max(1, round(4 * math.sqrt(m))), "name": "IVF m"}
    expected = {"a": max(1, round(0.5 * d)), "b": max(1, round(0.01 * m)), "c": 3}
    assert found.settings == [Setting(expected, "whose")]


@pytest.mark.parametrize("name", names())
def test_every_grid_can_be_read(name):
    for size in ("grid", "smoke"):
        for grid in grids(name, size):
            resolved = grid.resolve(50_000, 128)
            assert resolved.settings
            values = [*resolved.build.values(), *(v for s in resolved.settings for v in s.search.values())]
            assert not [value for value in values if isinstance(value, str) and value[:1].isdigit()]


@pytest.mark.parametrize("name", [name for name in names() if name.startswith(("faiss_ivf", "scann"))])
def test_grids_have_settings_beside_the_recommended_ones(name):
    settings = [setting for grid in grids(name) for setting in grid.settings]
    assert any(setting.documented for setting in settings)
    assert sum(not setting.documented for setting in settings) >= 2


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 8), st.booleans())
def test_a_bias_becomes_a_column(m, d, multiple, has_bias):
    rng = np.random.default_rng(m * 10 + d)
    W, Q = rng.standard_normal((m, d), dtype=np.float32), rng.standard_normal((3, d), dtype=np.float32)
    b = rng.standard_normal(m, dtype=np.float32) * np.float32(has_bias)
    none = np.empty(0, np.int64)
    rows, added = with_bias(Data(W, b, Q, Labels(none, none)), multiple)
    queries = with_one(Q, added)
    assert rows.shape == (m, d + added)
    assert (rows.shape[1] % multiple == 0) if has_bias else (added == 0)
    np.testing.assert_allclose(queries @ rows.T, Q @ W.T + b, rtol=1e-5, atol=1e-5)


def test_estimated_energy_is_the_models():
    # 100 us on a core of 5 W are 500 uJ; a million bytes at 160 pJ are 160 uJ
    assert energy.estimate_uj(100.0, 1e6) == pytest.approx(660.0)
    assert energy.ESTIMATED.startswith("estimated: ")
    assert "5.0 W" in energy.ESTIMATED
    assert "160.0 pJ" in energy.ESTIMATED

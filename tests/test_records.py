"""The newest records are of what the definitions say: no setting was added or dropped since."""

import pytest
from benchmarks import both, device, generate, heads, methods, queries, run, scale, shift, stages
from benchmarks.defaults import SETTINGS
from benchmarks.engines import Grid, grids, names
from benchmarks.record import FOLDER
from benchmarks.report.newest import load
from benchmarks.run import text


@pytest.fixture(scope="module")
def found():
    return load(FOLDER)


def settings_of(grid):
    return {text(grid.build | setting.search) for setting in grid.settings}


@pytest.mark.parametrize("bundle", run.DEFINITION["bundle"])
def test_engines_and_their_grids(found, bundle):
    head, rows = found.bundles[bundle]
    expected = {
        (name, text(each.build), text(setting.search), setting.documented)
        for name in names()
        if name not in head["skipped"]
        for each in (grid.resolve(head["m"], head["d"]) for grid in grids(name))
        for setting in each.settings
    }
    assert {(row.name, row.build, row.search, row.documented) for row in rows} == expected
    assert len(rows) == len(expected)


def test_shift(found):
    head, rows = found.shift
    assert head["layers"] == shift.DEFINITION["layer"]
    learners = {row.name for row in rows if row.observed}
    assert learners == {"lss_fit"}
    pairs = {
        (layer["bundle"], fitted, served)
        for layer in shift.DEFINITION["layer"]
        for fitted in layer["fitted"]
        for served in layer["domains"]
    }
    nothing = ("", 0, 0)
    expected = {(*pair, name, *nothing) for pair in pairs for name in shift.DEFINITION["engines"]}
    later, anew = shift.DEFINITION["observed"], shift.DEFINITION["refresh"]
    assert head["refresh"] == anew
    for bundle, fitted, served in pairs:
        if fitted != served:
            expected |= {(bundle, fitted, served, "lss_fit", served, n, 0) for n in later}
            expected.add((bundle, fitted, served, "lss_fit", served, anew["observed"], anew["queries"]))
            expected.add((bundle, fitted, fitted, "lss_fit", served, later[-1], 0))
    assert {
        (row.bundle, row.fitted, row.served, row.name, row.learned, row.observed, row.refreshed)
        for row in rows
    } == expected


def test_scale(found):
    _, rows = found.scale
    engines = scale.DEFINITION["engine"]
    expected = {
        (engine["name"], m)
        for engine in engines
        for m in scale.DEFINITION["rows"]
        if m <= engine.get("most_rows", m)
    }
    assert {(row.name, row.m) for row in rows} == expected
    for engine in engines:
        for row in (row for row in rows if row.name == engine["name"]):
            assert row.setting in settings_of(Grid.read(engine).resolve(row.m, row.d))


def test_defaults(found):
    assert [row.setting for row in found.defaults[1]] == [name for name, _ in SETTINGS]


def test_methods(found):
    _, rows = found.methods
    definition = methods.DEFINITION
    fills = {row.method: row.fill for row in rows}
    expected = [
        (bundle, method["title"], text(method["build"]), text(budget), method.get("beside", ""))
        for bundle in definition["bundles"]
        for method in definition["method"]
        for budget in definition["budgets"][fills[method["title"]]]
    ]
    assert [(row.bundle, row.method, row.build, row.budget, row.beside) for row in rows] == expected


def test_fit(found):
    assert [row.bundle for row in found.fit[1]] == methods.DEFINITION["bundles"]


def test_queries(found):
    plans = queries.DEFINITION["plan"]
    expected = {(plan["bundle"], n, None, text(plan["point"])) for plan in plans for n in plan["queries"]}
    expected |= {
        (plan["bundle"], n, plan["capacity"], text(plan["point"]))
        for plan in plans
        if "capacity" in plan
        for n in plan["queries"]
        if n >= plan["capacity"]
    }
    _, rows = found.queries
    assert {(row.bundle, row.queries, row.capacity, row.point) for row in rows} == expected
    assert len(rows) == len(expected)


def test_both(found):
    head, rows = found.both
    assert (head["fitted"], head["served"]) == (both.FITTED, both.SERVED)
    assert len(rows) == len(both.PROBES) + 2


def test_generate(found):
    if found.generate is None:
        pytest.skip("not recorded yet")
    head, rows = found.generate
    assert head["definition"] == generate.DEFINITION
    expected = [(way, n) for n in generate.DEFINITION["threads"] for way in generate.WAYS]
    assert [(row.way, row.threads) for row in rows] == expected


def test_heads(found):
    if found.heads_of is None:
        pytest.skip("not recorded yet")
    head, rows = found.heads_of
    plan = heads.DEFINITION
    assert head["definition"] == plan
    expected = [
        (body["title"], m, n) for body in plan["body"] for m in plan["vocabularies"] for n in plan["threads"]
    ]
    assert [(row.body, row.m, row.threads) for row in rows] == expected


def test_device(found):
    if found.device is None:
        pytest.skip("not recorded yet")
    head, rows = found.device
    plan = device.DEFINITION
    assert head["definition"] == plan
    expected = [
        (dtype, batch, way)
        for dtype in plan["dtypes"]
        for batch in plan["batches"]
        for way in (device.DENSE, *device.PATHS)
    ]
    assert [(row.dtype, row.batch, row.way) for row in rows] == expected


def test_stages(found):
    if found.stages is None:
        pytest.skip("not recorded yet")
    head, rows = found.stages
    assert head["definition"] == stages.DEFINITION
    bundles = [bundle + lists for bundle in stages.DEFINITION["bundles"] for lists in ("", stages.LISTS)]
    assert list(dict.fromkeys(row.bundle for row in rows)) == bundles
    for bundle in bundles:
        assert {row.stage for row in rows if row.bundle == bundle} > {"project", "sketch", stages.WHOLE}

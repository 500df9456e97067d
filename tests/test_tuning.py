import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lss_rs
from lss_rs import Index, LSSConfig, OperatingPoint, metrics, tune, tuning
from lss_rs.config import POINT_NUMBERS
from lss_rs.tuning import Judge, _least, held_out_from

pytestmark = pytest.mark.inference

ROWS = LSSConfig(method="simhash", fill="rows", sketch_bytes=0)


def layer(m=300, d=16, n=2400):
    rng = np.random.default_rng(0)
    spread = np.geomspace(3, 0.3, d).astype(np.float32)
    W = rng.standard_normal((m, d), dtype=np.float32)
    return W, rng.standard_normal(m, dtype=np.float32), spread * rng.standard_normal((n, d), dtype=np.float32)


@pytest.fixture(scope="module")
def data():
    return layer()


@pytest.fixture(scope="module")
def taught(data):
    W, b, Q = data
    return Index.from_weights(W, b, LSSConfig(teacher_top=5)).fit(Q[:2000], k=5, target=None, progress=False)


@pytest.fixture
def index(taught):
    return Index.from_bytes(taught.to_bytes())


@pytest.fixture(scope="module")
def report(data, taught):
    return tune(taught, data[2][2000:], target=0.9, progress=False)


# The report


def test_the_best_is_the_quickest_that_keeps_the_target(report):
    times = [trial.us for trial in report.trials]
    assert times == sorted(times)
    assert len({trial.point for trial in report.trials}) == len(times) > 4
    good = [trial for trial in report.trials if all(share.low >= 0.9 for share in trial.quality.values())]
    assert report.feasible
    # what goes on where it is not trusted is worth somewhat more time than what is quickest
    judged = [trial for trial in good if trial.point.judge is not None]
    assert report.best == min([*(judged or good), report.full], key=lambda trial: trial.us).point
    assert (report.target, report.n) == (0.9, 400)


def test_searches_that_stay_with_the_tables_have_a_point_of_their_own(taught, data):
    Q = data[2][2000:]
    report = tune(taught, Q, target=0.9, effort="fixed", progress=False)
    assert report.feasible
    assert [
        trial.point for trial in report.trials if trial.point.judge is not None or trial.point.trust
    ] == []
    good = [trial for trial in report.trials if all(share.low >= 0.9 for share in trial.quality.values())]
    assert report.best == good[0].point
    index = Index.from_bytes(taught.to_bytes()).apply(report.best)
    both = [index.search(Q, 5, effort=effort).labels for effort in ("adaptive", "fixed")]
    np.testing.assert_array_equal(*both)


@pytest.mark.parametrize("refused", [0, 1, 2, 3])
def test_what_few_queries_show_all_must_confirm(taught, data, monkeypatch, refused):
    """The cheapest ways to keep the target are tried one after the other; then there are the tables alone."""
    asked = []
    trial = Judge.trial

    def refuse_some(judge, point):
        found = trial(judge, point)
        if point.judge is None:
            return found
        asked.append(point)
        low = found.quality[5]._replace(low=0.0)
        return found._replace(quality=found.quality | {5: low}) if len(asked) <= refused else found

    def time(trials, *_):
        """Slow where all rows are scored, or scanned; else the more neighbours, the slower."""
        points = [trial.point for trial in trials]
        us = [1e6 if point.exact else point.n_neighbors + 1000 * (point.trust == 1) for point in points]
        return [trial._replace(us=float(us)) for trial, us in zip(trials, us, strict=True)]

    monkeypatch.setattr(Judge, "trial", refuse_some)
    monkeypatch.setattr(tuning, "_time", time)
    report = tune(taught, data[2][2000:], target=0.9, progress=False)
    assert report.feasible
    assert len(asked) == min(refused + 1, 3)
    assert len(set(asked)) == len(asked)
    if refused < 3:
        assert report.best == asked[-1]
    else:
        assert report.best.judge is None
    assert {trial.point for trial in report.trials} >= set(asked)


@pytest.mark.parametrize("reach", [None, 0.25])
def test_points_have_the_reach_of_the_index(taught, data, reach):
    index = Index.from_bytes(taught.to_bytes())
    index.apply(index.operating_point._replace(reach=reach))
    report = tune(index, data[2][2000:], target=0.9, progress=False)
    assert {trial.point.reach for trial in report.trials} == {reach}
    assert report.best.reach == reach


def test_where_reach_is_too_short_there_is_none(taught, data, monkeypatch):
    def refuse_near(trial):
        low = {k: share._replace(low=0.0, estimate=0.0) for k, share in trial.quality.items()}
        near = trial.point.reach is not None and not trial.point.exact
        return trial._replace(quality=low) if near else trial

    for name in ("glance", "trial"):
        real = getattr(Judge, name)
        monkeypatch.setattr(Judge, name, lambda judge, point, real=real: refuse_near(real(judge, point)))
    report = tune(taught, data[2][2000:], target=0.9, progress=False)
    assert taught.operating_point.reach is not None
    assert report.feasible
    assert report.best.reach is None


def test_the_full_layer_is_the_measure(report):
    assert report.full.point.exact
    assert report.full.candidates == 300
    assert all(share == (1, 1, 1) for share in report.full.quality.values())


def test_quality_is_what_a_search_has(report, index, data):
    Q = data[2][2000:]
    full = index.search(Q, 5, exact=True).labels
    whole = [trial for trial in report.trials if all(share.high >= 0.9 for share in trial.quality.values())]
    for trial in whole[:4]:
        found = index.apply(trial.point).search(Q, 5, stats=True)
        assert trial.candidates == found.stats["candidates"].mean()
        for k, share in trial.quality.items():
            ours, theirs = (metrics.precision_per_query(ids, full[:, :k], k) for ids in (found.labels, full))
            assert share == metrics.paired_bootstrap(ours, theirs, n_boot=2000)


def test_true_labels_decide_where_they_are_given(index, data):
    """Labels that no row of the layer is best for: nothing is worse than the full layer, so anything goes."""
    Q = data[2][2000:]
    worst = (Q @ data[0].T + data[1]).argmin(axis=1)
    report = tune(index, Q, worst, ks=(1,), progress=False)
    assert report.feasible
    assert {share.estimate for trial in report.trials for share in trial.quality.values()} == {1.0}


def test_the_frontier_rises(report):
    worst = [min(share.estimate for share in trial.quality.values()) for trial in report.frontier]
    assert (np.diff(worst) > 0).all()
    assert report.frontier[0] == report.trials[0]
    assert max(worst) == max(min(s.estimate for s in trial.quality.values()) for trial in report.trials)


def test_reports_can_be_read(report):
    text = str(report)
    assert text.startswith(f"{report.best} keeps 0.9 of the full layer on 400 queries\n")
    assert len(text.splitlines()) == 3 + len(report.frontier)
    told = json.loads(json.dumps(report.to_json()))
    judge = report.best.judge
    assert told["best"] == report.best._asdict() | {"judge": judge and list(judge)}
    assert len(told["trials"]) == len(report.trials) + 1
    assert told["trials"][0]["P@5 / full"] == report.trials[0].quality[5].estimate


def test_frames(report):
    pytest.importorskip("pandas")
    frame = report.to_frame()
    assert len(frame) == len(report.trials) + 1
    assert frame["us"].iloc[0] == report.trials[0].us
    assert frame["exact"].tolist() == [False] * len(report.trials) + [True]


def test_plots(report):
    pytest.importorskip("matplotlib").use("agg")
    axes = report.plot()
    assert {line.get_label() for line in axes.lines} >= {"P@1 / full", "P@5 / full", "target 0.9"}
    assert report.plot(axes) is axes


# Tuning


def test_tuning_changes_nothing(taught, data):
    before = taught.to_bytes()
    tune(taught, data[2][2000:2100], progress=False)
    assert taught.to_bytes() == before


def test_exact_search_where_nothing_else_is_good_enough(data):
    W, b, Q = data
    wrong = np.zeros(len(Q), int)
    config = LSSConfig(teacher_top=0, sketch_bytes=0)  # without sketches there is no scan to go on to
    index = Index.from_weights(W, b, config).fit(Q, wrong, target=None, progress=False)
    report = tune(index, Q[:300], progress=False)
    assert not report.feasible
    assert report.best.exact
    assert str(report).startswith("nothing keeps 0.99 of the full layer on 300 queries\n")
    index.apply(report.best)
    expected = index.search(Q, 5, exact=True)
    for again in (index, Index.from_bytes(index.to_bytes())):
        found = again.search(Q, 5, stats=True)
        np.testing.assert_array_equal(found.labels, expected.labels)
        np.testing.assert_array_equal(found.scores, expected.scores)
        assert (found.stats["rescored"] == 300).all()
        np.testing.assert_array_equal(again.search(Q[0], 5).labels, expected.labels[0])
        assert np.diff(again.candidates(Q[:3])[0]).tolist() == [300] * 3


def test_a_scan_where_tables_are_not_good_enough(data):
    W, b, Q = data
    wrong = np.zeros(len(Q), int)
    index = Index.from_weights(W, b, LSSConfig(teacher_top=0)).fit(Q, wrong, target=None, progress=False)
    report = tune(index, Q[:300], progress=False)
    further = [trial for trial in report.trials if trial.point.judge is not None]
    assert report.feasible
    assert all(share.low >= 0.99 for trial in further for share in trial.quality.values())
    assert (index.apply(further[0].point).search(Q[:300], 5, stats=True).stats["step"] == 2).mean() > 0.9


def test_trust_is_learned_from_some_of_many_queries(taught, data, monkeypatch):
    monkeypatch.setattr("lss_rs.tuning._JUDGED", 150)
    report = tune(taught, data[2][2000:], target=0.9, progress=False)
    assert any(trial.point.judge for trial in report.trials)


@pytest.mark.parametrize("objective", ["latency", "throughput"])
def test_buckets_of_rows_can_be_tuned(data, objective):
    W, b, Q = data
    index = Index.from_weights(W, b, ROWS).fit(Q[:500], progress=False)
    report = tune(index, Q[:500], ks=[1], target=0.5, objective=objective, progress=False)
    assert {trial.point.n_neighbors for trial in report.trials} == {1}
    assert index.apply(report.best).params["n_neighbors"] == 1


@pytest.mark.parametrize("objective", ["latency", "throughput"])
def test_points_take_turns_at_the_clock(taught, data, tuning_counts, monkeypatch, objective):
    judge = tuning.judge_on(taught, data[2][2000:2300], None, (1,), 0.9)
    point = taught.operating_point
    trials = [judge.glance(each) for each in (point, point._replace(exact=True))]
    asked = []
    search = Index.search

    def counted(index, x, *args, **how):
        asked.append((index.operating_point.exact, np.shape(x), how.get("num_threads")))
        return search(index, x, *args, **how)

    monkeypatch.setattr(Index, "search", counted)
    timed = tuning_counts(trials, judge, objective, 2)
    assert all(np.isfinite(trial.us) and trial.us > 0 for trial in timed)
    assert [trial._replace(us=0.0) for trial in timed] == [trial._replace(us=0.0) for trial in trials]
    alone, together = (False, (16,), None), (False, (300, 16), 2)
    one = alone if objective == "latency" else together
    turns = [exact for i, (exact, *_) in enumerate(asked) if i == 0 or asked[i - 1][0] != exact]
    assert turns == [False, True] * 5
    assert {(False, *how) for _, *how in asked} == {one}
    assert len(asked) <= (200 if objective == "latency" else 1) * 10


def test_progress_is_reported(taught, data):
    heard = []
    tune(taught, data[2][:300], effort="fixed", progress=False, callback=lambda *what: heard.append(what))
    assert heard == [("tuning", done, 7) for done in range(1, 8)]
    del heard[:]
    tune(taught, data[2][:300], target=0.5, progress=False, callback=lambda *what: heard.append(what))
    assert heard[:3] == [("glancing", done, 3) for done in range(1, 4)]
    n = heard[-1][2]
    assert heard[3:] == [("trust", done, n) for done in range(n + 1)]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"effort": "high"}, "'effort' must be 'adaptive' or 'fixed'. Got 'high' instead."),
        ({"insurance": -0.1}, "'insurance' must be of at least 0. Got -0.1 instead."),
        ({"insurance": float("nan")}, "'insurance' must be of at least 0. Got nan instead."),
        ({"insurance": float("inf")}, "'insurance' must be of at least 0. Got inf instead."),
        ({"objective": "size"}, "'objective' must be 'latency' or 'throughput'. Got 'size' instead."),
        ({"target": 0}, "'target' must be above 0 and at most 1. Got 0 instead."),
        ({"target": 1.01}, "'target' must be above 0 and at most 1. Got 1.01 instead."),
        ({"ks": ()}, "'ks' must be at least one k. Got none instead."),
        ({"ks": (0,)}, "'ks' must be an int >= 1. Got 0 instead."),
        ({"ks": (1, 9999)}, "'ks' must be at most 300, for there are no more labels. Got 9999 instead."),
        ({"confidence": 1}, "'confidence' must be between 0 and 1. Got 1 instead."),
        ({"groups": [1, 2]}, "'groups' must be of shape (60,). Got shape (2,) instead."),
        ({"Y": [1, 2]}, "'Y' must be as long as the queries (60). Got 2 instead."),
        ({"Q": np.zeros((1, 16), np.float32)}, "'Q' must be at least two queries. Got 1 instead."),
    ],
)
def test_refuses(taught, data, options, text):
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        tune(taught, **{"Q": data[2][:60], "progress": False, **options})


def test_refuses_what_is_no_index(data):
    with pytest.raises(TypeError, match=r"^'index' must be an Index\. Got a str instead\.$"):
        tune("index.safetensors", data[2])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"target": "a"}, "'target' must be a number above 0 and at most 1. Got 'a' instead."),
        ({"target": None}, "'target' must be a number above 0 and at most 1. Got None instead."),
        ({"confidence": True}, "'confidence' must be a number between 0 and 1. Got True instead."),
        ({"insurance": "a"}, "'insurance' must be a number of at least 0. Got 'a' instead."),
        ({"ks": 5}, "'ks' must be a sequence of ints >= 1. Got 5 instead."),
    ],
)
def test_refuses_what_is_no_number(taught, data, options, text):
    with pytest.raises(TypeError, match=f"^{re.escape(text)}$"):
        tune(taught, **{"Q": data[2][:60], "progress": False, **options})


@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_layers_of_few_labels_are_tuned(m):
    rng = np.random.default_rng(m)
    W, Q = (rng.standard_normal((n, 6), dtype=np.float32) for n in (m, 1200))
    index = Index.from_weights(W).fit(Q, progress=False)
    assert (index.search(Q, 1).labels[:, 0] == (Q @ W.T).argmax(axis=1)).mean() > 0.9
    assert index.refresh(Q[:100], target=0.5, progress=False).fitted


def test_an_exact_point_shows(index):
    assert "exact" not in repr(index)
    index.apply(index.operating_point._replace(exact=True))
    assert "exact=True" in repr(index)
    assert "n_probes" not in repr(index)


@pytest.mark.parametrize("options", [{"target": None}, {}])
@pytest.mark.parametrize("capacity", [None, 40])
def test_groups_are_one_a_query(data, options, capacity):
    index = Index.from_weights(data[0], config=LSSConfig(capacity=capacity))
    with pytest.raises(ValueError, match=r"'groups' must be of shape \(60,\)"):
        index.fit(data[2][:60], groups=np.zeros(59, int), progress=False, **options)


def test_an_unfitted_index_cannot_be_tuned(data):
    with pytest.raises(lss_rs.NotFittedError):
        tune(Index.from_weights(data[0]), data[2][:60], progress=False)


@given(st.lists(st.booleans(), max_size=40))
def test_bisection_finds_the_border(values):
    values = sorted(values)
    asked = []
    found = _least(len(values), lambda i: asked.append(i) or values[i])
    assert found == sum(not value for value in values)
    assert len(asked) <= len(values).bit_length()


# Operating points


def test_apply(index, data):
    point = OperatingPoint(n_probes=3, max_entries=70, n_neighbors=6, n_rescore=9)
    assert index.apply(point) is index
    assert index.operating_point == point
    again = Index.from_bytes(index.to_bytes())
    assert again.operating_point == point
    assert {**again.params} == {**index.params}
    found = index.search(data[2][:50], 5, stats=True)
    assert found.stats["neighbors"].max() <= 6
    assert found.stats["rescored"].max() <= 9
    np.testing.assert_array_equal(again.search(data[2][:50], 5).labels, found.labels)


@pytest.mark.parametrize(
    ("point", "error", "text"),
    [
        ((1, 2, 3, 4, False), TypeError, "'point' must be an OperatingPoint. Got a tuple instead."),
        (OperatingPoint(0, 1, 1, 1), ValueError, "The 'n_probes' parameter of LSSConfig must be an int in"),
        (OperatingPoint(1, 1, 1, 2.5), ValueError, "The 'n_rescore' parameter of LSSConfig must be an int"),
    ],
)
def test_apply_refuses(index, point, error, text):
    before = index.to_bytes()
    with pytest.raises(error, match=f"^{re.escape(text)}"):
        index.apply(point)
    assert index.to_bytes() == before


def test_an_unfitted_index_has_no_point(data):
    index = Index.from_weights(data[0])
    with pytest.raises(lss_rs.NotFittedError):
        index.apply(OperatingPoint(1, 1, 1, 1))
    with pytest.raises(lss_rs.NotFittedError):
        _ = index.operating_point


# Fit


def test_fit_keeps_the_target_on_queries_it_held_out(data):
    W, b, Q = data
    index = Index.from_weights(W, b).fit(Q, k=5, target=0.9, progress=False)
    held = Q[2160:]
    full = index.search(held, 5, exact=True).labels
    found = index.search(held, 5).labels
    assert metrics.precision_at_k(found, full, 5) >= 0.9
    # and learned from the rest alone
    other = Index.from_weights(W, b).fit(Q[:2160], k=5, target=None, progress=False)
    assert other.apply(index.operating_point).to_bytes() == index.to_bytes()


def test_fit_warns_where_it_must_search_exactly(data):
    W, b, Q = data
    wrong = np.r_[np.zeros(2160, int), (Q[2160:] @ W.T + b).argmax(1)]
    index = Index.from_weights(W, b, LSSConfig(teacher_top=0, sketch_bytes=0))
    with pytest.warns(UserWarning, match=r"^No operating point keeps 0\.99 of .* on 240 queries held out"):
        index.fit(Q, wrong, progress=False)
    assert index.operating_point.exact


@pytest.mark.parametrize(
    ("config", "n", "options"),
    [
        (LSSConfig(n_rescore=64), 2400, {}),
        (LSSConfig(), 2400, {"target": None}),
        (LSSConfig(), 999, {}),
    ],
)
def test_fit_tunes_only_where_it_is_to(data, config, n, options):
    W, b, Q = data
    index = Index.from_weights(W, b, config).fit(Q[:n], progress=False, **options)
    resolved = config.resolve(m=300, d=16, n=n, k=10)
    assert index.operating_point == OperatingPoint(*(getattr(resolved, name) for name in POINT_NUMBERS))


def test_an_interrupted_fit_changes_nothing(index, data):
    before = index.to_bytes()

    def interrupt(stage, _done, _total):
        if stage == "trust":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index.fit(data[2], target=0.9, progress=False, callback=interrupt)
    assert index.to_bytes() == before


@given(st.lists(st.integers(1, 400), min_size=1, max_size=30))
def test_whole_groups_are_held_out(sizes):
    groups = np.repeat(np.arange(len(sizes)), sizes)
    n = len(groups)
    cut = held_out_from(n, groups)
    if n < 1000 or len(sizes) == 1:
        assert cut == n
        return
    assert 0 < cut < n
    assert groups[cut - 1] != groups[cut]
    # no less than a tenth, and no group more than that takes
    assert n - cut >= n // 10 or cut == sizes[0]
    later = cut + sizes[groups[cut]]
    assert n - later < n // 10


@pytest.mark.parametrize("n", [0, 1, 999, 1000, 5000, 122_879, 122_890, 10**6])
def test_a_tenth_is_held_out(n):
    held = n - held_out_from(n, None)
    assert held == (0 if n < 1000 else min(n // 10, 12_288))


@pytest.mark.parametrize(
    ("groups", "text"),
    [
        ([0, 1, 0], "'groups' must be such that queries of a group follow each other. Got pieces instead."),
        ([0, 1], "'groups' must be of shape (3,). Got shape (2,) instead."),
    ],
)
def test_groups_refused(data, groups, text):
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        Index.from_weights(data[0]).fit(data[2][:3], groups=groups, progress=False)

"""The report quotes the record, all of it that matters, and nothing else. Records here are made up."""

import re
from itertools import pairwise
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from benchmarks import record
from benchmarks.record import FOLDER, Row, ScaleRow, ShiftRow
from benchmarks.report import (
    PAGES,
    ROOT,
    bundle,
    choice,
    figures,
    markdown,
    render,
    replace_block,
    stale,
    stamp,
)
from benchmarks.report.newest import newest
from hypothesis import given
from hypothesis import strategies as st

README = "# Title\n<!-- benchmarks: begin -->\nold\n<!-- benchmarks: end -->\nbelow\n"
DEVICES = "<!-- benchmarks, devices: begin -->\nold\n<!-- benchmarks, devices: end -->\n"
HEAD = {
    "bundle": "lm-smollm2",
    "title": "a head",
    "m": 49_152,
    "d": 576,
    "train_queries": 92_160,
    "test_queries": 12_288,
    "groups": 26,
    "labels_a_query": 1.0,
    "k": 5,
    "date": "2026-01-02",
    "commit": "abc1234",
    "command": "python -m benchmarks lm-smollm2",
    "cpu": "Some CPU (family 1, model 2)",
    "cores": 2,
    "memory_gib": 24,
    "simd": ["avx2"],
    "kernel": "avx2",
    "versions": {"torch": "2.15.0"},
    "rounds": 7,
    "seconds": 900,
    "energy": "estimated: a model",
}
STAGES_HEAD = HEAD | {
    "gb_s": {"layer": 10.0},
    "instructions": {"layer": 40000.0},
    "ghz": 2.0,
    "call_us": 0.9,
    "import_ms": {"numpy": 80.0, "lss_rs": 120.0},
}
DOMAINS = ["prose", "code"]


def blank(columns, kind, name):
    """All columns of an engine of this kind, unknown but for who it is."""
    engine = {"full": "torch f32", "peer": "ScaNN tree", "ours": "lss-rs"}[kind]
    return dict.fromkeys(columns._fields) | {"engine": engine, "name": name, "kind": kind}


def row(kind="peer", us=100.0, p1=1.0, p5=1.0, **changes):
    """A row whose every mode takes `us`, and whose optional columns are unknown."""
    hints = blank(Row, kind, {"full": "torch_f32"}.get(kind, kind)) | dict.fromkeys(choice.MODES, us)
    hints |= {
        "sees": "rows",
        "build": "",
        "search": "",
        "documented": "",
        "energy_kind": "",
        "size": 10_000,
        "build_s": 2.0,
    }
    hints |= {"p1": 0.4 * p1, "p1_ratio": p1, "p5": 0.12 * p5, "p5_ratio": p5}
    return Row(**(hints | changes))


def rows():
    """A bundle with every kind of engine, all columns known."""
    known = {
        **{"p1_low": 0.98, "p1_high": 1.0, "p5_low": 0.97, "p5_high": 1.0, "label_recall": 0.9},
        **{"sample": 1234.0, "bytes_read": 5e6, "peak_bytes": 7_000_000, "energy_uj": 512.0},
        **{"energy_kind": "estimated", "one_p95_us": 200.0, "one_p99_us": 300.0},
        **{"one_least_us": 90.0, "one_most_us": 110.0},
    }
    return [
        row("full", 9700.0, **known),
        row("full", 2600.0, engine="dense int8", name="dense_int8", **known),
        row("peer", 410.0, 0.993, 0.991, search="leaves=200", documented="its guide", **known),
        row("peer", 200.0, 0.96, 0.955, search="leaves=50", **known),
        row("peer", 90.0, 0.2, 0.15, engine="SimHash", name="simhash", **known),
        row("ours", 104.0, 0.9913, 0.9901, build="n_bits=18", **known),
        row("ours", 60.0, 0.97, 0.96, build="n_bits=14", **known),
    ]


def shift_row(kind, fitted, served, p1, us, observed=0, learned="", refreshed=0):
    hints = blank(ShiftRow, kind, kind) | {"sees": "rows", "setting": "s=1", "fitted": fitted}
    hints |= {
        "bundle": "lm-smollm2",
        "observed": observed,
        "learned": learned or (served if observed else ""),
        "refreshed": refreshed,
        "served": served,
        "p1": p1 / 2,
        "p1_ratio": p1,
        "p5": p1 / 8,
        "p5_ratio": p1,
        "one_us": us,
    }
    return ShiftRow(**hints)


def scale_row(kind, m, us):
    hints = blank(ScaleRow, kind, kind) | {"m": m, "d": 128, "queries": 1000, "setting": "s=1"}
    hints |= {"label_recall": 0.95, "one_us": us, "one_p99_us": 2 * us, "build_s": m / 1e5, "size": 500 * m}
    return ScaleRow(**hints)


P_RATIOS = dict.fromkeys(("p1_ratio", "p1_low", "p1_high", "p5_ratio", "p5_low", "p5_high"), 0.98)


def method_row(method, fill="queries", gain=None):
    hints = {"bundle": "lm-smollm2", "method": method, "build": "b=1", "fill": fill}
    hints |= {
        "budget": "max_entries=128",
        **P_RATIOS,
        "label_recall": 0.75,
        "sample": 1500.0,
        "entries": 130.0,
    }
    beside = {"beside": "closed form", "beside_sample": 1504.0, "beside_entries": 131.0, "gain": gain}
    beside |= {"gain_low": 0.01, "gain_high": 0.07}
    without = dict.fromkeys(beside) | {"beside": ""}
    return record.MethodRow(**hints, learn_s=12.0, **(beside if gain else without))


@pytest.fixture
def records(tmp_path):
    """Records of one bundle, of shift and of scale, and a repository to write into."""
    folder = tmp_path / "records"
    record.write(folder / "cpu" / "2026-01-02-lm-smollm2.csv", HEAD, rows())
    shift = [shift_row("full", "", served, 1.0, 9000.0) for served in DOMAINS]
    shift += [shift_row("peer", f, s, 0.97, 400.0) for f in DOMAINS for s in DOMAINS]
    shift += [shift_row("ours", f, s, 0.99 if f == s else 0.84, 100.0) for f in DOMAINS for s in DOMAINS]
    shift += [shift_row("ours", f, s, 0.98, 90.0, 1000) for f in DOMAINS for s in DOMAINS if f != s]
    shift += [shift_row("ours", f, s, 0.985, 70.0, 1000, s, 200) for f in DOMAINS for s in DOMAINS if f != s]
    shift += [shift_row("ours", f, f, 0.975, 80.0, 1000, s) for f in DOMAINS for s in DOMAINS if f != s]
    record.write(folder / "cpu" / "2026-01-02-shift.csv", HEAD, shift)
    scale = [
        scale_row(kind, m, us * (m / 50_000) ** power)
        for kind, us, power in (("full", 3000.0, 1.0), ("peer", 60.0, 0.5), ("ours", 20.0, 0.25))
        for m in (50_000, 500_000, 4_000_000)
    ]
    record.write(folder / "cpu" / "2026-01-02-scale.csv", HEAD | {"target_recall": 0.95}, scale)
    default = record.DefaultRow("16 bits", 0.98, 0.97, 8000.0, 3000.0, 0.061, 2**25)
    record.write(folder / "cpu" / "2026-01-02-defaults.csv", HEAD, [default])
    methods = [method_row("IUL", "rows"), method_row("refined", gain=0.04)]
    record.write(folder / "cpu" / "2026-01-02-methods.csv", HEAD, methods)
    taught = {"teacher_us": 200.0, "torch_us": 300.0, "numpy_us": 250.0}
    fit = record.FitRow("lm-smollm2", 92_160, "n_probes=64", fit_s=150.0, **taught, **P_RATIOS)
    record.write(folder / "cpu" / "2026-01-02-fit.csv", HEAD, [fit])
    queries = record.QueriesRow(
        "lm-smollm2",
        10_000,
        None,
        10_000,
        "max_entries=128",
        **P_RATIOS,
        entries=130,
        sample=500,
        size=2**25,
        seconds=9.0,
    )
    record.write(folder / "cpu" / "2026-01-02-queries.csv", HEAD, [queries])
    record.write(folder / "cpu" / "2026-01-02-both.csv", HEAD, [default])
    said = {"bundle": "lm-smollm2", "prompts": 240, "prompt_tokens": 32, "new_tokens": 48, "timed_prompts": 8}
    generated = [
        record.GenerateRow(way, 1, 0.98, same, None, 5.5, 0.98, 0.98, 0.01, tokens, 0.25)
        for way, same, tokens in (("full layer", 1.0, 20.0), ("decode", 0.98, 26.0))
    ]
    record.write(
        folder / "cpu" / "2026-01-02-generate.csv", HEAD | {"definition": said, "point": "p=1"}, generated
    )
    sizes = {"body": "2 layers", "m": 128_000, "d": 640, "threads": 1, "body_us": 9e3, "layer_us": 7e3}
    ours = {"half_us": 4e3, "ours_us": 150.0, "same": 0.98, "core_us": 90.0, "core_same": 0.97}
    heads = record.HeadRow(**sizes, **ours, layer_share=0.44, gain=1.75, point="p=2")
    record.write(folder / "cpu" / "2026-01-02-heads.csv", HEAD, [heads])
    on_device = [
        record.DeviceRow(dtype, way, batch, batch * us, us, us, 20, share, 0.98, 0.97)
        for dtype, times in (("float32", (40.0, 60.0)), ("bfloat16", (20.0, 10.0)))
        for batch in (1, 4096)
        for way, us, share in zip(("dense", "scan"), times, (1.0, 0.98), strict=True)
    ]
    about = {"device": "cuda", "device_name": "Some GPU", "threads": {"torch": 16, "lss-rs": 8}}
    record.write(
        folder / "cpu" / "2026-01-02-device.csv",
        HEAD | about | {"definition": {"bundle": "layer"}},
        on_device,
    )
    stages = [
        record.StageRow("layer", "project", 12.5, 0.25, 2048.0, 0.5),
        record.StageRow("layer", "search", 9.7, 0.97, 4096.0, 1.0),
    ]
    record.write(folder / "cpu" / "2026-01-02-stages.csv", STAGES_HEAD, stages)
    write_places(tmp_path)
    return folder


def write_places(root):
    """Write the files that have a place for a block."""
    for path in (root / page for page in PAGES):
        path.parent.mkdir(exist_ok=True)
        path.write_text(README + DEVICES * (path.name == "models.md"), encoding="utf-8")


def write_all(records):
    """Write what the report writes; the plots are their stamps."""
    root = records.parent
    texts = render(records, root) | {svg: stamp(path) for svg, path in figures(records).items()}
    for path, text in texts.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")
    return root


def page_of(tmp_path, *rows, head=HEAD):
    folder = tmp_path / "records"
    record.write(folder / "cpu" / "2026-01-02-lm-smollm2.csv", head, rows)
    write_places(tmp_path)
    return render(folder, tmp_path)[Path("docs/benchmarks.md")]


def part(page, title):
    """A section of the page."""
    return re.search(rf"^## {re.escape(title)}.*?(?=^## |\Z)", page, re.M | re.S)[0]


shares = st.floats(0.0, 1.02)
costs = st.floats(1.0, 1e5)
some_rows = st.lists(
    st.builds(row, st.sampled_from(["full", "peer", "ours"]), costs, shares, shares), max_size=8
)


class TestChoice:
    def test_cheapest_needs_both(self):
        good = row(us=300, p1=0.99, p5=0.99)
        others = [row(us=100, p1=0.999, p5=0.98), row(us=200, p1=0.98, p5=0.999), row(us=400)]
        assert choice.cheapest([*others, good]) is good
        assert choice.cheapest(others[:2]) is None

    def test_cheapest_of_equals_is_the_best(self):
        better = row(us=100, p1=0.999, p5=0.995)
        assert choice.cheapest([row(us=100, p1=0.992, p5=0.999), better]) is better

    def test_a_time_that_is_not_known_is_never_the_cheapest(self):
        assert choice.cheapest([row(one_2t_us=None)], 0.99, "one_2t_us") is None

    def test_chosen_falls_back_on_the_best(self):
        best = row(us=500, p1=0.98, p5=0.97)
        assert choice.chosen([row(us=10, p1=0.5, p5=0.5), best, row(us=600, p1=0.98, p5=0.97)]) is best

    @given(some_rows, st.sampled_from(choice.LEVELS))
    def test_comparison_is_fair(self, rows, level):
        found = choice.compare(rows, level)
        for quoted in filter(None, [found.ours, *found.others]):
            assert choice.reaches(quoted, level)
            rivals = [each for each in rows if each.engine == quoted.engine and choice.reaches(each, level)]
            assert quoted.one_us == min(each.one_us for each in rivals)
        engines = {each.engine for each in rows if each.kind != "ours" and choice.reaches(each, level)}
        assert {each.engine for each in found.others} == engines
        if found.lead is not None:
            assert bool(found.not_slower) == (found.others[0].one_us <= found.ours.one_us * choice.TIE)

    @given(some_rows)
    def test_frontier_is_what_nothing_beats(self, rows):
        kept = choice.frontier(rows, "p1_ratio")
        for each in rows:
            assert any(k.one_us <= each.one_us and k.p1_ratio >= each.p1_ratio for k in kept)
        for a, b in pairwise(kept):
            assert a.one_us < b.one_us
            assert a.p1_ratio < b.p1_ratio

    @given(st.floats(0.1, 1e3), st.floats(-2, 2), st.sets(st.integers(1, 10**7), min_size=2, max_size=6))
    def test_exponent_of_a_power_law(self, c, e, sizes):
        if max(sizes) > 1.5 * min(sizes):
            assert choice.exponent((m, c * m**e) for m in sizes) == pytest.approx(e, abs=1e-6)

    def test_exponent_needs_two_sizes(self):
        assert choice.exponent([(10, 1.0), (10, 2.0), (20, None), (30, 0.0)]) is None


class TestFigures:
    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (104.2, "104 us"),
            (9_700, "9.70 ms"),
            (999.6, "1.00 ms"),
            (0.004, "0.00400 us"),
            (1.5e6, "1.50 s"),
            (2.5e9, "2,500 s"),
            (0, "0 us"),
            (None, ""),
        ],
    )
    def test_us(self, value, text):
        assert markdown.us(value) == text

    @given(st.floats(1e-3, 1e12))
    def test_us_keeps_three_digits(self, value):
        number, unit = markdown.us(value).split()
        back = float(number.replace(",", "")) * {"us": 1, "ms": 1e3, "s": 1e6}[unit]
        assert back == pytest.approx(value, rel=0.0051)

    @pytest.mark.parametrize(
        ("value", "text"),
        [(1000, "1,000 B"), (1024, "1.00 KiB"), (113_246_208, "108 MiB"), (2**30, "1.00 GiB")],
    )
    def test_amount(self, value, text):
        assert markdown.amount(value) == text

    @pytest.mark.parametrize(
        ("ratio", "text"),
        [(93.3, "93"), (3.94, "3.9"), (9.96, "10"), (1.04, "1.04"), (1.999, "2.0"), (0.012, "0.012")],
    )
    def test_times(self, ratio, text):
        assert markdown.times(ratio) == text

    @pytest.mark.parametrize(
        ("other", "text"),
        [(390.0, "3.9 times"), (104.0, "a tie"), (96.0, "a tie"), (50.0, "2.0 times faster than ours")],
    )
    def test_verdict(self, other, text):
        assert markdown.verdict(100.0, other) == text

    def test_cells_are_escaped_and_empty_columns_dropped(self):
        assert (
            markdown.table(["a", "b", "c"], [["x|y", "", "1\n2"]])
            == "| a | c |\n| --- | --- |\n| x\\|y | 1 2 |\n"
        )


class TestLine:
    def test_in_full(self):
        assert bundle.line("lm-smollm2", rows()) == (
            "**lm-smollm2**: ours at >= 0.99 of full P@1 and P@5: 104 us (n_bits=18); "
            "torch f32 9.70 ms (93 times); best peer ScaNN tree 410 us (3.9 times, leaves=200)"
        )

    def test_nothing_of_ours_qualifies(self):
        text = bundle.line("x", [row("full", 9700), row("peer", 50), row("ours", 130, 0.987, 0.981)])
        assert (
            "no setting of ours reaches 0.99 of full P@1 and P@5; the best is 0.9870 and 0.9810, in 130 us"
            in text
        )
        assert text.endswith("torch f32 9.70 ms; best peer ScaNN tree 50.0 us")

    def test_a_peer_that_wins_or_ties(self):
        assert "(2.0 times faster than ours)" in bundle.line("x", [row("peer", 50), row("ours", 100)])
        assert "(a tie)" in bundle.line("x", [row("peer", 104), row("ours", 100)])

    def test_alone(self):
        assert bundle.line("x", [row("ours", 100), row("peer", 10, 0.5)]).endswith("no peer reaches 0.99")
        assert "ours was not measured" in bundle.line("x", [row("peer", 10)])


class TestPage:
    def test_order(self, records):
        page = render(records, records.parent)[Path("docs/benchmarks.md")]
        titles = [title.split(":")[0] for title in re.findall(r"^## (.*)", page, re.M)]
        expected = [
            "Where a peer wins or ties",
            "How to read it",
            "lm-smollm2",
            "Shift",
            "Scale",
            "Energy",
            "Again",
        ]
        assert titles == expected
        for text in (
            "`python -m benchmarks lm-smollm2`",
            "abc1234",
            "torch 2.15.0",
            "Some CPU",
            "26 documents",
        ):
            assert text in part(page, "lm-smollm2"), text

    def test_planted_wins_are_listed(self, tmp_path):
        modes = dict.fromkeys(choice.MODES, 1000.0) | {"b64_us": 80.0, "b1024_2t_us": 97.0}
        page = page_of(tmp_path, row("peer", search="leaves=9", **modes), row("ours", 100.0, 0.995, 0.995))
        table = re.findall(r"^\| lm-smollm2 \| (.*) \|$", part(page, "Where").split("What others")[0], re.M)
        times = {(mode, level): cells[1:] for mode, level, *cells in (line.split(" | ") for line in table)}
        levels = ["0.95", "0.98", "0.99", "0.995"]
        expected = {("batch of 64, 1 thread", level): "1.25 times faster than ours" for level in levels}
        expected |= {("batch of 1,024, 2 threads", level): "a tie" for level in levels}
        expected |= {(title, "0.999"): "ours does not reach the level" for title in choice.MODES.values()}
        assert {case: verdict for case, (_, verdict) in times.items()} == expected
        assert times["batch of 64, 1 thread", "0.95"][0] == "ScaNN tree 80.0 us (leaves=9)"

    def test_costs_of_which_others_have_less(self, tmp_path):
        theirs = {"build_s": 1.0, "size": 20_000, "one_p99_us": 400.0}
        ours = {"build_s": 30.0, "size": 10_000, "one_p99_us": 500.0}
        lost = part(page_of(tmp_path, row("peer", 200, **theirs), row("ours", 100, **ours)), "Where")
        assert "| lm-smollm2 | build time | 30.0 s | ScaNN tree 1.00 s |" in lost
        assert "| lm-smollm2 | one query, p99 | 500 us | ScaNN tree 400 us |" in lost
        assert "index size" not in lost

    def test_nothing_is_lost(self, tmp_path):
        ours = row("ours", 100, build_s=0.1, size=10)
        assert "Of 30 comparisons of time ours wins every one." in page_of(tmp_path, row("peer", 200), ours)

    def test_shift(self, records):
        page = render(records, records.parent)[Path("docs/benchmarks.md")]
        lost = part(page, "Where")
        assert "fitted on `prose` and asked `code`, the worst pair: lss-rs keeps 0.8400 of P@1" in page
        assert re.search(r"\| lm-smollm2 \| prose \| code \| lss-rs 0\.8400.*\| ScaNN tree 0\.9700", lost)
        assert not re.search(r"\| prose \| prose \|", lost)
        shown = part(page, "Shift")
        assert "| engine | setting | fitted on | asked prose | asked code |" in shown
        assert "having served 1,000 such queries 0.9800 of P@1" in page
        assert "tuned anew after 1,000 0.9850 of P@1" in page
        learners = [line.split(" | ") for line in shown.split("What lss-rs keeps")[1].splitlines()]
        kept = {(line[1], line[2], line[4]): line[5] for line in learners if len(line) > 6}
        assert kept["prose", "code", "0"] == "0.8400"
        assert kept["prose", "code", "1,000"] == "0.9800"
        assert kept["prose", "code", "1,000, tuned anew"] == "0.9850"
        assert kept["prose", "prose", "1,000 of code"] == "0.9750"

    def test_scale(self, records):
        section = part(render(records, records.parent)[Path("docs/benchmarks.md")], "Scale")
        assert re.search(r"^\| lss-rs \| 0\.25 \| 0\.25 \| 1\.00 \|", section, re.M)
        assert re.search(r"^\| torch f32 \| 1\.00 \|", section, re.M)

    @pytest.mark.parametrize("kind", ["estimated", "measured"])
    def test_every_energy_says_how_it_is_known(self, tmp_path, kind):
        energies = [3e-1, 2.5, 1.4e3, 7e6]
        given = [
            row("ours", energy_uj=e, energy_kind=kind, search=f"s={e}", engine=f"e{e}") for e in energies
        ]
        page = page_of(tmp_path, *given, row("peer", energy_uj=1e-3, energy_kind=kind))
        figures = re.findall(r"[\d.]+ (?:uJ|mJ|J)\b(.{0,10})", page)
        assert len(figures) >= 5
        assert all(rest.startswith(f" {kind}") for rest in figures)

    @given(st.data())
    def test_unknown_columns_and_heads_render(self, tmp_path_factory, data):
        optional = [name for name, hint in get_type_hints(Row).items() if type(None) in get_args(hint)]
        unknown = data.draw(st.sets(st.sampled_from(optional)))
        gone = data.draw(st.sets(st.sampled_from(list(HEAD))))
        some = data.draw(st.lists(st.sampled_from(rows()), min_size=1, unique=True))
        head = {key: value for key, value in HEAD.items() if key not in gone}
        page = page_of(
            tmp_path_factory.mktemp("r"), *(r._replace(**dict.fromkeys(unknown)) for r in some), head=head
        )
        assert "None" not in page
        assert "nan" not in page

    def test_a_record_of_a_users_own_comes_after(self, records):
        for name in ("mine", "w2v-gcide"):
            record.write(records / "cpu" / f"2026-01-02-{name}.csv", HEAD, rows())
        assert list(newest(records)) == [
            "lm-smollm2",
            "w2v-gcide",
            "mine",
            "shift",
            "scale",
            "defaults",
            "methods",
            "fit",
            "queries",
            "both",
            "generate",
            "heads",
            "stages",
            "device",
        ]

    def test_the_newest_counts(self, records):
        record.write(
            records / "another" / "2026-02-01-lm-smollm2.csv", HEAD | {"date": "2026-02-01"}, [row("ours", 7)]
        )
        page = render(records, records.parent)[Path("docs/benchmarks.md")]
        assert "7.00 us" in page
        assert "another/2026-02-01-lm-smollm2.csv" in page

    def test_nothing_recorded(self, tmp_path):
        write_places(tmp_path)
        texts = render(tmp_path / "none", tmp_path)
        assert all("Nothing is recorded yet" in text for text in texts.values())


class TestReadme:
    def test_block(self, records):
        text = render(records, records.parent)[Path("README.md")]
        cpu = "Some CPU (family 1, model 2)"
        assert text.startswith(f"# Title\n<!-- benchmarks: begin -->\n- **lm-smollm2** ({cpu}): ours at")
        assert text.endswith("<!-- benchmarks: end -->\nbelow\n")
        cells = f"{cpu} | 49,152 | 576 | 0.4000 | 0.9913 | 0.9901 | 104 us | 9.70 ms | 93"
        assert f"| lm-smollm2 | {cells} |" in text
        assert "](docs/plots/lm-smollm2-p1.svg)" in text
        assert "Recorded on Some CPU (family 1, model 2), 2026-01-02; again: `make bench`." in text

    def test_each_processor_has_its_line(self, tmp_path):
        def recorded(processor, date, us):
            path = tmp_path / "records" / processor / f"{date}-lm-smollm2.csv"
            rows = [row("full", 900.0), row("peer", 3 * us), row("ours", us)]
            record.write(path, HEAD | {"cpu": processor, "date": date}, rows)

        recorded("one", "2026-01-01", 5.0)  # an older one of the same processor is not shown
        recorded("one", "2026-01-03", 10.0)
        recorded("two", "2026-01-02", 20.0)
        write_places(tmp_path)
        text = render(tmp_path / "records", tmp_path)[Path("README.md")]
        lines = [line.split(" | ") for line in re.findall(r"^\| lm-smollm2 \| (.*) \|$", text, re.M)]
        assert [[line[0], *line[-5:]] for line in lines] == [
            ["one", "10.0 us", "900 us", "90", "ScaNN tree 30.0 us", "3.0"],
            ["two", "20.0 us", "900 us", "45", "ScaNN tree 60.0 us", "3.0"],
        ]
        assert "Recorded on one, 2026-01-03; two, 2026-01-02; again" in text
        assert "Bundles are built on each machine." in text

    def test_wins_of_peers_are_listed_for_each_processor(self, tmp_path):
        for processor, us in (("one", 10.0), ("two", 1000.0)):
            path = tmp_path / "records" / processor / "2026-01-02-lm-smollm2.csv"
            record.write(path, HEAD | {"cpu": processor}, [row("peer", 100.0), row("ours", us)])
        write_places(tmp_path)
        lost = part(render(tmp_path / "records", tmp_path)[Path("docs/benchmarks.md")], "Where")
        assert "Of 60 comparisons of time ours does not win 30:" in lost
        assert "| lm-smollm2, two |" in lost
        assert "| lm-smollm2, one | one query, 1 thread |" not in lost

    @pytest.mark.parametrize("text", ["", README.replace("begin", "start"), README + README, README[::-1]])
    def test_without_its_markers(self, text):
        with pytest.raises(ValueError, match="benchmarks: begin"):
            replace_block(text, "new", "README.md")

    @given(st.text(alphabet="ab\n"), st.text(alphabet="ab\n"))
    def test_replacing_twice_is_replacing_once(self, before, new):
        once = replace_block(before + README, new, "README.md")
        assert replace_block(once, new, "README.md") == once
        assert once.startswith(before)


class TestStale:
    def test_what_was_written_is_current(self, records):
        assert stale(records, write_all(records)) == []

    def test_each_file_is_watched(self, records):
        root = write_all(records)
        files = [path for path in root.rglob("*") if path.is_file() and records not in path.parents]
        assert len(files) == 12
        for path in files:
            text = path.read_text(encoding="utf-8")
            digit = list(re.finditer(r"\d", text))[-1]
            other = str((int(digit[0]) + 1) % 10)
            if (
                path.name != "benchmarks.md" and path.suffix == ".md"
            ):  # what is outside a block is nobody's business
                digit = next(re.finditer(r"(?<=9.7)0|(?<=0.98)0", text))
            path.write_text(f"{text[: digit.start()]}{other}{text[digit.end() :]}", encoding="utf-8")
            assert stale(records, root) == [path.relative_to(root)]
            path.unlink()
            if path.name == "benchmarks.md" or path.suffix == ".svg":
                assert stale(records, root) == [path.relative_to(root)]
            path.write_text(text, encoding="utf-8")

    @pytest.mark.parametrize(
        "name",
        [
            "lm-smollm2",
            "shift",
            "scale",
            "defaults",
            "methods",
            "fit",
            "queries",
            "both",
            "generate",
            "heads",
            "stages",
            "device",
        ],
    )
    def test_a_record_that_changed(self, records, name):
        root = write_all(records)
        path = records / "cpu" / f"2026-01-02-{name}.csv"
        text = path.read_text(encoding="utf-8")
        last = text.splitlines()[-1]
        path.write_text(
            text.replace(last, re.sub(r"0\.9\d*|0\.84|0\.97", "0.85", last, count=1)), encoding="utf-8"
        )
        assert stale(records, root)

    def test_the_repository_is_current(self):
        if not newest(FOLDER):
            pytest.skip("nothing is recorded yet")
        assert stale(FOLDER, ROOT) == []


def test_plots(records):
    pytest.importorskip("matplotlib")
    from benchmarks.report.plots import draw

    drawn = draw(records)
    assert drawn == draw(records)
    assert drawn.keys() == figures(records).keys()
    for path, text in drawn.items():
        assert stamp(figures(records)[path]) in text
        assert {"methods": "refined", "shift": "asked code"}.get(path.stem, "lss-rs") in text
        assert "<text" in text
    assert "Below 0.8 at best: SimHash (0.20)" in drawn[Path("docs/plots/lm-smollm2-p1.svg")]


def test_methods(records):
    text = render(records, records.parent)[Path("docs/learning.md")]
    assert "**lm-smollm2**" in text
    share = "0.9800 (0.9800-0.9800)"
    known = f"max_entries=128 | {share} | {share} | 0.7500 | 1,500"
    beside = "closed form (1,504 rows, 131 entries): +0.0400 (+0.0100 to +0.0700)"
    assert f"| refined | {known} | 130 | 12.0 s | {beside} |" in text
    assert f"| IUL | {known} |  | 12.0 s |  |" in text
    assert f"| lm-smollm2 | 92,160 | {share} | {share} | n_probes=64 | 150 s |" in text


def test_generation(records):
    page = render(records, records.parent)[Path("docs/models.md")]
    assert "240 prompts of 32 tokens" in page
    assert "| decode | 98.0% | 98.0% | 5.500 |" in page.replace("|  |", "|")
    assert "| decode | 1 | 26.0 | 1.30 | 25.0% |" in page
    assert "SYNTHETIC" in page
    row = "| 2 layers | 128,000 x 640 | 1 | 9.00 ms | 7.00 ms | 4.00 ms | 44.0% | 150 us | 0.9800 | 1.75 |"
    assert f"{row} 90.0 us | 0.9700 | p=2 |" in page


class TestDevice:
    def test_every_way_beside_the_dense_layer(self, records):
        page = render(records, records.parent)[Path("docs/models.md")]
        text = page.partition("devices: begin")[2]
        assert "**layer** on `cuda`" in text
        header = "| dtype | way | P@1/full | P@5/full | same best label | batch of 1 | batch of 4,096 |"
        assert header in text
        assert "| float32 | dense | 1.0000 | 0.9800 | 0.9700 | 40.0 us | 164 ms |" in text
        assert "| bfloat16 | scan | 0.9800 | 0.9800 | 0.9700 | 10.0 us (2.0) | 41.0 ms (2.0) |" in text
        assert "Some GPU" in text
        assert "16 of torch, 8 of lss-rs" in text

    def test_without_a_record_nothing_is_said(self, records):
        (records / "cpu" / "2026-01-02-device.csv").unlink()
        page = render(records, records.parent)[Path("docs/models.md")]
        assert page.endswith(DEVICES.replace("old\n", ""))

    def test_without_its_own_markers(self, records):
        path = records.parent / "docs" / "models.md"
        path.write_text(README, encoding="utf-8")
        with pytest.raises(ValueError, match="benchmarks, devices: begin"):
            render(records, records.parent)


class TestStages:
    def test_every_stage_beside_what_it_reads(self, records):
        page = render(records, records.parent)[Path("docs/performance.md")]
        assert "**layer**" in page
        assert "| project | 12.5 us | 25.0% | 2 KiB | 0.500 us |" in page
        assert "at 10.0 GB/s (layer)" in page
        assert "in each cycle of 2.0 GHz: 40,000, 5.00 us (layer)" in page
        assert "next to nothing to search takes 0.900 us" in page
        assert "`import lss_rs` takes 120 ms, of which 80 ms are numpy's" in page
        assert "Before: commit" not in page

    @pytest.mark.parametrize(
        "missing", [{"instructions": {"layer": None}}, {"instructions": {}}, {"ghz": None}]
    )
    def test_where_nothing_was_counted(self, records, missing):
        path = records / "cpu" / "2026-01-02-stages.csv"
        record.write(
            path, STAGES_HEAD | missing, [record.StageRow("layer", "search", 9.7, 0.97, 4096.0, 1.0)]
        )
        assert "Instructions" not in render(records, records.parent)[Path("docs/performance.md")]

    def test_beside_what_was_before(self, records):
        recorded = {
            "01-stages-before": (20.0, 30.0),
            "01-stages-before-more": (25.0, 35.0),
            "03-stages": (11.0, 19.0),
        }
        for name, times in recorded.items():
            stages = zip(("project", "search"), times, (0.5, 1.0), strict=True)
            rows = [record.StageRow("layer", stage, us, share, 2048.0, 0.5) for stage, us, share in stages]
            record.write(records / "cpu" / f"2026-01-{name}.csv", STAGES_HEAD, rows)
        record.write(records / "another" / "2025-01-01-stages-before.csv", STAGES_HEAD, rows)
        page = render(records, records.parent)[Path("docs/performance.md")]
        assert "| project | 20.0 us | 11.0 us | 50.0% |" in page
        assert "| search | 30.0 us | 19.0 us | 100.0% |" in page
        assert "in `cpu/2026-01-01-stages-before.csv`" in page
        assert "in `cpu/2026-01-01-stages-before-more.csv`" in page

    def test_without_a_record(self, records):
        (records / "cpu" / "2026-01-02-stages.csv").unlink()
        assert "python -m benchmarks stages" in render(records, records.parent)[Path("docs/performance.md")]

import re

import pytest
from benchmarks.definitions import parse
from benchmarks.instructions import KERNEL, RECORD, compare, read_counts, to_toml

RECORDED = {"build": 1000, "search": 200}


@pytest.mark.parametrize("counted", [{}, {"build": 1050}, {"build": 10, "search": 210}])
def test_what_is_no_worse_passes(counted):
    assert compare(RECORDED, RECORDED | counted) == []


def test_a_rise_is_told():
    (wrong,) = compare(RECORDED, {"build": 1051, "search": 200})
    assert wrong == "build: 1,051 instructions, 5.1 % more than 1,000"
    assert len(compare(RECORDED, {"build": 2000, "search": 300})) == 2
    assert compare(RECORDED, {"build": 1051, "search": 200}, limit=0.06) == []


def test_workloads_that_one_side_lacks_are_told():
    assert compare(RECORDED, {"build": 1000}) == ["search: recorded, but not counted"]
    assert compare(RECORDED, RECORDED | {"scan": 1}) == ["scan: counted, but not recorded"]


def write(folder, numbers):
    for number, path in zip(numbers, [*(f"out.{i}" for i in range(1, len(numbers))), "out"], strict=True):
        (folder / path).write_text(f"events: Ir\nsummary: 7\ntotals: {number}\n", encoding="utf-8")


def test_counts_come_in_order(tmp_path):
    names = [f"work{i}" for i in range(11)]
    write(tmp_path, [0, *range(100, 111)])
    assert read_counts(tmp_path, names) == {f"work{i}": 100 + i for i in range(11)}


@pytest.mark.parametrize("numbers", [[500], [0, 1], [0, 1, 2, 3], [0, 0, 2], [5, 1, 2]])
def test_counts_that_belong_to_nothing_are_refused(tmp_path, numbers):
    write(tmp_path, numbers)
    with pytest.raises(RuntimeError, match="valgrind counted"):
        read_counts(tmp_path, ["first", "second"])


def test_a_record_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "record.toml"
    path.write_text(to_toml(RECORDED, {"rustc": "1.2.3"}), encoding="utf-8")
    assert parse(path) == {"kernel": KERNEL, "rustc": "1.2.3", "instructions": RECORDED}


def test_the_record_is_of_the_workloads():
    source = (RECORD.parents[2] / "rust/core/benches/instructions.rs").read_text(encoding="utf-8")
    assert list(parse(RECORD)["instructions"]) == re.findall(r'workload\("(\w+)"', source)

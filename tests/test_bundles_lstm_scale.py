"""The bundles lstm-gcide, whose pure half needs no torch, and scale, built whole and tiny."""

import json
from itertools import pairwise

import numpy as np
import pytest
from benchmarks import bundles
from benchmarks.bundles import lstm_gcide, scale
from benchmarks.bundles.text import Document
from hypothesis import given
from hypothesis import strategies as st

DOCUMENTS = [
    Document("a", ["The bee's wing. --Pope.", "A bee; the bee."]),
    Document("b", ["The the wing"]),
]


def test_words_are_kept_as_spelt():
    assert lstm_gcide.words("The bee's wing-case. --B. Jonson") == [
        *("The", "bee's", "wing", "-", "case", ".", "--", "B", ".", "Jonson")
    ]


def test_vocabulary_counts_what_occurs_often_enough():
    # Once: bee's, --, Pope, A, ;
    assert lstm_gcide.vocabulary(DOCUMENTS, 2) == {
        lstm_gcide.UNKNOWN: 5,
        lstm_gcide.END: 3,
        **{".": 3, "The": 2, "bee": 2, "the": 2, "wing": 2},
    }
    assert list(lstm_gcide.vocabulary(DOCUMENTS, 2))[2:] == [".", "The", "bee", "the", "wing"]


def test_a_document_begins_and_each_paragraph_ends_with_the_same_label():
    ids = {word: i for i, word in enumerate(lstm_gcide.vocabulary(DOCUMENTS, 2))}
    assert lstm_gcide.encode(DOCUMENTS[0], ids).tolist() == [1, 3, 0, 6, 2, 0, 0, 2, 1, 0, 4, 0, 5, 4, 2, 1]


@given(st.lists(st.integers(2, 20), max_size=12), st.integers(1, 4), st.integers(1, 6))
def test_windows_read_every_document_once_and_in_order(sizes, slots, length):
    ends = np.cumsum([0, *sizes])
    documents = [np.arange(lo, hi) for lo, hi in pairwise(ends)]
    read = {i: [] for i in range(len(documents))}
    for window in lstm_gcide.windows(documents, slots, length):
        assert window.inputs.shape == window.labels.shape == (length, slots)
        for slot, (document, start) in enumerate(zip(window.documents, window.starts, strict=True)):
            known = window.labels[:, slot] >= 0
            if document < 0:
                assert not known.any()
                continue
            assert start == len(read[document])
            assert (window.inputs[known, slot] + 1 == window.labels[known, slot]).all()
            read[document] += window.labels[known, slot].tolist()
    assert read == {i: ids[1:].tolist() for i, ids in enumerate(documents)}


def test_leading_documents_have_enough_known_labels():
    documents = [np.array([1, 0, 2]), np.array([1, 3, 3, 0]), np.array([1, 2])]
    assert len(lstm_gcide.leading(documents, 0, 1)) == 1
    assert len(lstm_gcide.leading(documents, 0, 2)) == 2
    with pytest.raises(RuntimeError, match="4 labels, fewer than 5"):
        lstm_gcide.leading(documents, 0, 5)


def test_no_query_knows_another_document():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    documents = [rng.integers(7, size=size) for size in (90, 3, 40, 36, 71)]
    model = lstm_gcide.new_model(np.arange(1, 8))
    Q, y, numbers = lstm_gcide.queries(model, documents)
    assert Q.shape == (235, lstm_gcide.DIMENSION)
    for number, ids in enumerate(documents):
        assert (y[numbers == number] == ids[1:]).all()
        with torch.inference_mode():
            alone, _ = model["lstm"](model["embedding"](torch.from_numpy(ids[:-1])))
        np.testing.assert_allclose(Q[numbers == number], alone.numpy(), atol=1e-6)


def test_perplexity_of_a_layer_that_knows_nothing_is_its_width():
    pytest.importorskip("torch")
    W, b = np.zeros((8, 3), np.float32), np.zeros(8, np.float32)
    assert lstm_gcide.perplexity(W, b, np.ones((5, 3), np.float32), np.arange(5)) == 8


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scale")
    scale.main(["--rows", "500", "--out", str(folder)])
    return folder


@pytest.mark.parametrize("split", bundles.SPLITS)
def test_planted_labels_are_the_best_of_the_cluster(tiny, split):
    W, b, Q, Y = bundles.load(tiny / "500", split)
    assert (W.shape, b.any(), Q.dtype) == ((500, scale.DIMENSION), False, np.float32)
    assert (np.diff(Y.indptr) == scale.LABELS).all()
    assert len(Q) == {"train": 500, **scale.SIZES}[split]
    labels = Y.indices.reshape(len(Q), scale.LABELS)
    logits = Q @ W.T
    cluster = np.arange(500) % 10
    logits[cluster != cluster[labels[:, :1]]] = -np.inf
    best = np.argsort(-logits, axis=1)[:, : scale.LABELS]
    assert np.mean(best == labels) > 0.999  # but where two logits are nearly equal
    if split == "train":  # a query near every row
        assert (cluster[labels[:, 0]] == cluster).all()


def test_planted_labels_are_nearly_the_best_of_all(tiny):
    splits = json.loads((tiny / "500" / "manifest.json").read_text())["splits"]
    for split in bundles.SPLITS:
        assert splits[split]["full_layer"]["P@5"] > 0.97
        assert splits[split]["labels_in_train"] > 0.99


def test_full_precision_counts_what_is_above(monkeypatch):
    monkeypatch.setattr(scale, "PRODUCT", 3)
    W, q = np.float32([[9], [7], [8], [1], [6], [5], [4], [3]]), np.float32([[1]])
    assert scale.full_precision(W, q, np.array([[0, 2, 4, 6, 7]])) == {"P@1": 1, "P@5": 0.6}
    assert scale.full_precision(W, q, np.array([[1, 2, 4, 6, 7]])) == {"P@1": 0, "P@5": 0.6}


def test_what_is_there_is_not_built_again(tiny, capsys):
    written = (tiny / "500" / "W.npy").stat().st_mtime_ns
    scale.main(["--rows", "500", "--out", str(tiny)])
    assert "built already" in capsys.readouterr().out
    assert (tiny / "500" / "W.npy").stat().st_mtime_ns == written
    assert not list(tiny.rglob("*.part"))


def test_rows_come_in_whole_clusters(tmp_path, capsys):
    with pytest.raises(SystemExit):
        scale.main(["--rows", "120", "--out", str(tmp_path)])
    assert "must be a multiple of 50" in capsys.readouterr().err

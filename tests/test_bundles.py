"""The pure half of the bundle builders: from markup to passages that no two splits share."""

import numpy as np
import pytest
from benchmarks import bundles
from benchmarks.bundles import text
from benchmarks.bundles.text import Document
from hypothesis import given
from hypothesis import strategies as st

from lss_rs.demo import docstrings

PAGE = """<!DOCTYPE html>
<html><head><title>Title</title><style>p { color: red }</style></head><body>
<div class="navheader"><div>Prev</div> <div>Next</div></div>
<h1>A heading<a class="headerlink" href="#x">¶</a></h1>
<p>Fish &amp; chips, <b>bold</b> and
   <code>code</code> inline.<p>Unclosed paragraph<br/>broken line
<pre>not = english</pre><ul><li>one</li><li>two</li></ul>
<table><tr><td>cell</td></tr></table><script>alert("x")</script>
<img src="x"><div>after the table</div></body></html>"""


def test_html_keeps_running_text():
    assert text.html_paragraphs(PAGE) == [
        "A heading",
        "Fish & chips, bold and code inline.",
        "Unclosed paragraph",
        "broken line",
        "one",
        "two",
        "after the table",
    ]


def test_html_reads_the_main_element_alone():
    page = """<body><p>menu</p><div role="main"><div><p>inside</p></div> <div>still inside</div></div>
    <div>footer</div><div><div>more</div></div></body>"""
    assert text.html_paragraphs(page) == ["inside", "still inside"]


@given(st.text(alphabet="<>/ap divre\"'=&;\n", max_size=200))
def test_html_takes_anything(page):
    assert all(paragraph.strip() == paragraph != "" for paragraph in text.html_paragraphs(page))


ENTRY = r"""Alliance \Al*li"ance\, n. [OE. aliaunce, OF. aliance [x], F.
   alliance. See {Ally}.]
   1. The state of being allied; the pr[ae]tor of uniting;
      a {union}. [Obs.]
      [1913 Webster]

   2. Any union (gam"sm), affinity .
      [1913 Webster]

            The alliance of the church.
                                                  --C. J. Smith.
      [1913 Webster]"""


def test_gcide_keeps_definitions_and_quotations():
    assert text.gcide_paragraphs(ENTRY) == [
        "Alliance, n.",
        "1. The state of being allied; the praetor of uniting; a union.",
        "2. Any union, affinity.",
        "The alliance of the church. --C. J. Smith.",
    ]


def test_docstrings_are_those_of_a_module_in_order():
    source = '''"""Module.

Second paragraph.
"""
class A:
    """Class.

    >>> doctest
    """
    def f(self):
        """Method,
        two lines."""
        return "no docstring \\d"
async def g():
    r"""Function."""
'''
    assert docstrings(source) == [
        "Module.",
        "Second paragraph.",
        "Class.",
        "Method,\ntwo lines.",
        "Function.",
    ]


LONG = "a paragraph of more than sixty letters and digits, which is long enough to be told apart: "


def test_deduplicated_drops_what_an_earlier_document_had():
    documents = [
        Document("a", [LONG + "1", "short"]),
        Document("b", [(LONG + "1").upper().replace(" ", "  "), "short", LONG + "2"]),
        Document("same as a", [LONG + "1", "short"]),
        Document("only short", ["short"]),
    ]
    assert list(text.deduplicated(documents)) == [
        Document("a", [LONG + "1", "short"]),
        Document("b", ["short", LONG + "2"]),
    ]


@given(st.lists(st.lists(st.integers(0, 30), max_size=8), max_size=30))
def test_no_two_splits_share_a_document_or_a_paragraph(corpus):
    documents = [
        Document(f"document {i}", [LONG + str(n) for n in numbers]) for i, numbers in enumerate(corpus)
    ]
    paragraphs = {split: set() for split in bundles.SPLITS}
    for document in text.deduplicated(documents):
        paragraphs[text.split_of(document.id)].update(map(text.paragraph_key, document.paragraphs))
    train, val, test = paragraphs.values()
    assert not train & val
    assert not train & test
    assert not val & test
    assert len(train | val | test) == len({n for numbers in corpus for n in numbers})


def test_splits_are_stable_and_near_their_parts():
    splits = [text.split_of(f"document {i}") for i in range(5_000)]
    assert splits[:5] == [text.split_of(f"document {i}") for i in range(5)]
    for split, part in (("train", 0.80), ("val", 0.09), ("test", 0.11)):
        assert splits.count(split) / len(splits) == pytest.approx(part, abs=0.02)


def test_hash_is_the_same_on_every_machine():
    assert text.hash_of("split", "document 0") == 2_490_447_057


@given(st.lists(st.text("ab ", min_size=1, max_size=30), min_size=1, max_size=20), st.integers(1, 200))
def test_passage_is_a_stretch_from_a_paragraphs_start(paragraphs, limit):
    document = Document("id", paragraphs)
    whole = "\n\n".join(paragraphs)
    passage = text.passage(document, limit)
    assert passage == text.passage(document, limit)
    assert len(passage) == min(limit, len(whole))
    starts = [sum(len(part) + 2 for part in paragraphs[:i]) for i in range(len(paragraphs))]
    assert any(whole.startswith(passage, start) for start in starts)


def test_interleaved_keeps_to_the_shares_and_loses_nothing():
    texts = {"a": ["x" * 10] * 60, "b": ["x" * 30] * 30, "c": ["x" * 5]}
    shares = {"a": 0.3, "b": 0.6, "c": 0.1}
    pairs = list(text.interleaved(texts, shares))
    assert sorted(pairs) == sorted(
        (name, passage) for name, passages in texts.items() for passage in passages
    )
    read = {name: sum(len(passage) for source, passage in pairs[:40] if source == name) for name in texts}
    assert read["b"] / read["a"] == pytest.approx(2, abs=0.3)


def write_bundle(folder, domain):
    (folder / domain).mkdir()
    arrays = {
        "W": np.ones((5, 3), np.float32),
        "b": np.zeros(5, np.float32),
        f"{domain}/Q_val": np.ones((2, 3), np.float32),
        f"{domain}/Y_val_indptr": np.array([0, 1, 3]),
        f"{domain}/Y_val_indices": np.array([4, 0, 1]),
        f"{domain}/groups_val": np.array([0, 0]),
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)


def test_load_finds_the_layer_in_the_parent(tmp_path):
    write_bundle(tmp_path, "prose")
    W, b, Q, (indptr, indices) = bundles.load(tmp_path / "prose", "val")
    assert (W.shape, b.shape, Q.shape) == ((5, 3), (5,), (2, 3))
    assert indices[indptr[1] : indptr[2]].tolist() == [0, 1]
    assert not Q.flags.writeable
    assert bundles.groups(tmp_path / "prose", "val").tolist() == [0, 0]


def test_load_says_what_is_missing(tmp_path):
    write_bundle(tmp_path, "prose")
    with pytest.raises(FileNotFoundError, match=r"prose/\w+_test\w*\.npy is not built.*README"):
        bundles.load(tmp_path / "prose", "test")
    with pytest.raises(ValueError, match=r"must be one of train, val, test\. Got 'dev'"):
        bundles.load(tmp_path / "prose", "dev")

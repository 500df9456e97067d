"""The bundles xmc-contents and w2v-gcide: the pure halves, which need no torch, and their training."""

import json
from itertools import pairwise

import numpy as np
import pytest
from benchmarks import bundles
from benchmarks.bundles import training, w2v_gcide, xmc_contents
from benchmarks.bundles.text import Document, split_of
from benchmarks.bundles.xmc_contents import File
from hypothesis import given
from hypothesis import strategies as st


def listed(lists):
    return [lists.indices[lo:hi].tolist() for lo, hi in pairwise(lists.indptr)]


# --- lists -----------------------------------------------------------------------------------------------


@given(st.lists(st.lists(st.integers(0, 9), max_size=4), min_size=1, max_size=9), st.data())
def test_take_picks_lists_in_the_order_given(rows, data):
    picked = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1))
    taken = training.take(xmc_contents.lists(rows), np.array(picked))
    assert listed(taken) == [rows[i] for i in picked]


def test_vocabulary_numbers_the_commonest_first():
    counts = {"rare": 1, "b": 2, "a": 2, "often": 3}
    assert training.vocabulary(counts, 2) == {"often": 0, "a": 1, "b": 2}


def test_a_manifest_of_another_recipe_is_not_used(tmp_path):
    recipe = {"recipe": 1, "sizes": (1, 2)}
    assert training.read_manifest(tmp_path, recipe) == {"recipe": 1, "sizes": [1, 2], "splits": {}}
    training.write_manifest(tmp_path, {**recipe, "splits": {"val": {}}, "m": 5})
    assert training.read_manifest(tmp_path, recipe)["m"] == 5
    assert training.read_manifest(tmp_path, {**recipe, "recipe": 2})["splits"] == {}


# --- xmc-contents ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "file"),
    [
        ("bin/ash                 shells/ash\n", File("bin/ash", ("shells/ash",))),
        (
            "usr/share/a file's name.txt  doc/a,libs/libb1\n",
            File("usr/share/a file's name.txt", ("doc/a", "libs/libb1")),
        ),
    ],
)
def test_parse(line, file):
    assert xmc_contents.parse(line) == file


@pytest.mark.parametrize(
    ("path", "owners", "words"),
    [
        (
            "usr/include/GNUstep/DOMCharacterData2.h",
            "libdevel/x",
            "usr include gn ustep dom character data 2 h",
        ),
        # A part of the path that is the package's name, also before a suffix.
        ("usr/share/doc/libfoo1/README.Debian", "libs/libfoo1", "usr share doc readme debian"),
        ("usr/bin/abpoa.avx2", "science/abpoa", "usr bin avx 2"),
        # A word that is.
        ("usr/lib/foo-abpoa/x", "science/abpoa", "usr lib foo x"),
        # Part of a name says something: what else would?
        ("usr/lib/libfoo.so.1", "libs/libfoo1", "usr lib libfoo so 1"),
        ("usr/bin/one.two", "a/one,b/two", "usr bin"),
    ],
)
def test_path_words_leave_the_packages_name_out(path, owners, words):
    file = File(path, tuple(owners.split(",")))
    assert xmc_contents.path_words(file) == set(words.split())


def test_places_keep_a_sample_that_no_order_changes():
    files = [File(f"usr/share/big/{i}", ("a/big",)) for i in range(50)]
    files += [File("usr/share/big/other", ("a/other", "a/big")), File("usr/bin/x", ("a/x",))]
    files += [File("usr/share/doc/x/changelog.gz", ("a/x",)), File("usr/share/lintian/overrides/x", ("a/x",))]
    places = xmc_contents.read_places(files)
    assert places.keys() == {"usr/share/big", "usr/bin"}
    assert places["usr/share/big"].keys() == {"a/big", "a/other"}
    again = xmc_contents.read_places(files[::-1])
    for directory, place in places.items():
        found = list(xmc_contents.handfuls(directory, place))
        assert found == list(xmc_contents.handfuls(directory, again[directory]))
    sizes = [len(one.files) for one in xmc_contents.handfuls("usr/share/big", places["usr/share/big"])]
    assert sizes == [6, 6]


def test_a_private_directory_is_in_one_split_and_one_group():
    place = {"a/big": [(-i, File(f"usr/share/big/{i}", ("a/big",))) for i in range(9)]}
    found = list(xmc_contents.handfuls("usr/share/big", place))
    assert [len(one.files) for one in found] == [6, 3]
    assert {(one.source, one.split) for one in found} == {("usr/share/big", split_of("usr/share/big"))}


def test_a_shared_directory_has_each_package_once():
    place = {
        f"a/package{i}": [(-j, File(f"usr/bin/{i}-{j}", (f"a/package{i}",))) for j in range(i % 4 + 1)]
        for i in range(200)
    }
    found = list(xmc_contents.handfuls("usr/bin", place))
    assert len({one.source for one in found}) == len(found)
    assert {one.split for one in found} == set(bundles.SPLITS)
    owners = [owner for one in found for owner in {file.owners[0] for file in one.files}]
    assert sorted(owners) == sorted(place)
    assert max(len(one.files) for one in found) == 6
    by_split = {split: {one.source for one in found if one.split == split} for split in bundles.SPLITS}
    assert not by_split["train"] & by_split["test"]


def handful(source, paths, owner, split="train"):
    return xmc_contents.Handful(source, split, [File(path, (owner,)) for path in paths])


def test_no_two_examples_have_the_same_words_but_digits():
    found = xmc_contents.examples(
        [
            handful("icons/16", ["icons/16/open"], "a/theme"),
            handful("icons/32", ["icons/32/open"], "a/theme", "test"),
            handful("icons/64", ["icons/64/close"], "a/theme"),
        ]
    )
    assert sorted(sorted(one.words - {"16", "32", "64"}) for one in found) == [
        ["close", "icons"],
        ["icons", "open"],
    ]


def test_no_package_has_more_examples_of_a_split_than_its_part():
    letters = "abcdefghij"
    some = [handful(f"{a}/{b}", [f"{a}/{b}/x{a}{b}"], "a/many") for a in letters for b in letters if a != b]
    assert len(xmc_contents.examples(some)) == xmc_contents.PER_LABEL
    assert (
        len(xmc_contents.examples([*some, handful("k/l", ["k/l/m"], "a/few")])) == 1 + xmc_contents.PER_LABEL
    )


def test_domains_part_by_section(tmp_path):
    rng, sections = np.random.default_rng(0), [f"section {i}" for i in range(10)]
    training.write_layer(tmp_path, np.zeros((5, 3)), np.zeros(5))
    (tmp_path / "manifest.json").write_text(json.dumps({"sections": sections}))
    for split in bundles.SPLITS:
        Q, Y = rng.random((90, 3), dtype=np.float32), training.single_labels(rng.integers(5, size=90))
        training.write_split(tmp_path, split, Q, Y, np.arange(90))
        np.save(tmp_path / f"section_{split}.npy", np.arange(90) % 10)
    rest = xmc_contents.cut_by_section(tmp_path, 0.25)
    assert len(rest) == 3
    for split in bundles.SPLITS:
        whole = bundles.load(tmp_path, split)
        in_rest = np.array([sections[i % 10] in rest for i in range(90)])
        for name, chosen in (("most", ~in_rest), ("rest", in_rest)):
            part = bundles.load(tmp_path / name, split)
            assert np.array_equal(part.Q, whole.Q[chosen])
            assert (part.Y.indices == whole.Y.indices[chosen]).all()
            assert (bundles.groups(tmp_path / name, split) == np.flatnonzero(chosen)).all()


def test_examples_become_numbers():
    def example(source, words, owners):
        return xmc_contents.Example(source, "train", frozenset(words.split()), tuple(owners.split()))

    some = [
        example("x", "usr foo new", "libs/two doc/one"),
        example("y", "new", "libs/two"),  # no known word
        example("z", "foo", "libs/three"),  # no known label
        example("x", "foo", "libs/three libs/two"),
    ]
    found = xmc_contents.encode(some, {"foo": 0, "usr": 1}, {"one": 0, "two": 1}, ["doc", "libs"])
    assert listed(found.bags) == [[0, 1], [0]]
    assert listed(found.Y) == [[0, 1], [1]]
    assert found.groups.tolist() == [0, 0]
    assert found.columns["section"].tolist() == [0, 1]


# --- w2v-gcide -------------------------------------------------------------------------------------------


def test_gcide_paragraphs_lose_pronunciation_and_sources():
    entry = r"""Acerb \A*cerb"\, a. [L. acerbus; cf. F. ac['e]rbe,
   pr[ae]tor [i^].]
   Sour, bitter. [1913 Webster]

   A second. [WordNet 1.5 +PJC]"""
    assert w2v_gcide.paragraphs(entry) == [
        "Acerb , a. [L. acerbus; cf. F. acerbe, praetor i.] Sour, bitter.",
        "A second.",
    ]


def test_words_outside_the_vocabulary_are_no_context():
    some = [Document("1", ["The bee, 2 bees!", "the"]), Document("2", ["bee the"])]
    tokens, paragraph, document = w2v_gcide.encode(some, {"the": 0, "bee": 1})
    assert tokens.tolist() == [0, 1, 0, 1, 0]
    assert paragraph.tolist() == [0, 0, 1, 2, 2]
    assert document.tolist() == [0, 0, 0, 1, 1]


@given(
    st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=9), min_size=1, max_size=6), st.integers(1, 4)
)
def test_contexts_are_the_neighbours_within_a_paragraph(parts, width):
    tokens = np.array([word for part in parts for word in part], np.int32)
    paragraph = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    expected = [
        part[max(0, i - width) : i] + part[i + 1 : i + 1 + width] for part in parts for i in range(len(part))
    ]
    assert listed(w2v_gcide.contexts(tokens, paragraph, width)) == expected


# --- training --------------------------------------------------------------------------------------------


def test_sampled_softmax_is_the_full_one_when_every_class_is_sampled():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    m, n, d = 20, 7, 5
    hidden = torch.randn(n, d)
    W, b = torch.randn(m, d, requires_grad=True), torch.randn(m, 1, requires_grad=True)
    labels = torch.randint(0, m, (n,))
    full = torch.nn.functional.cross_entropy(hidden @ W.T + b[:, 0], labels)
    expected = torch.autograd.grad(full, [W, b])
    for bias in (b, None):
        loss = training.sampled_softmax_loss(hidden, W, bias, labels, torch.arange(m), torch.zeros(m))
        if bias is None:
            full = torch.nn.functional.cross_entropy(hidden @ W.T, labels)
            expected = torch.autograd.grad(full, [W])
        torch.testing.assert_close(loss, full)
        got = torch.autograd.grad(loss, [W] if bias is None else [W, b])
        for theirs, ours in zip(expected, got, strict=True):
            torch.testing.assert_close(ours.to_dense(), theirs)


def test_negatives_correct_for_how_often_they_are_drawn():
    torch = pytest.importorskip("torch")
    counts = np.array([0, 1, 10, 100, 1000])
    negatives = training.Negatives(counts, 200_000, power=0.5)
    drawn = np.bincount(negatives.draw(torch.Generator().manual_seed(0)), minlength=5)
    np.testing.assert_allclose(drawn, negatives.log_count.exp(), rtol=0.05)
    # The estimate of the denominator is near what all classes sum to.
    hidden, W = torch.randn(3, 4), torch.randn(5, 4)
    labels = torch.tensor([0, 2, 4])
    some = negatives.draw(torch.Generator().manual_seed(1))
    loss = training.sampled_softmax_loss(hidden, W, None, labels, some, negatives.log_count)
    torch.testing.assert_close(
        loss, torch.nn.functional.cross_entropy(hidden @ W.T, labels), rtol=0.02, atol=0.02
    )


def test_full_precision_is_that_of_the_sorted_logits():
    pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    W, b, Q = (rng.normal(size=size).astype(np.float32) for size in ((30, 4), 30, (1500, 4)))
    rows = [rng.choice(30, rng.integers(0, 8), replace=False).tolist() for _ in range(len(Q))]
    best = np.argsort(-(Q @ W.T + b), axis=1)
    expected = {
        f"P@{k}": np.mean(
            [len({*top[:k]} & {*row}) / k for top, row in zip(best.tolist(), rows, strict=True)]
        )
        for k in (1, 5)
    }
    assert training.full_precision(W, b, Q, xmc_contents.lists(rows)) == pytest.approx(expected, abs=1e-5)


def tiny_data():
    """Words tell the label: 8 labels of 3 words each."""
    rng = np.random.default_rng(0)

    def examples(n):
        y = rng.integers(0, 8, n)
        bags = xmc_contents.lists((3 * y[:, None] + rng.integers(0, 3, (n, 4))).tolist())
        return training.Examples(bags, training.single_labels(y), np.arange(n) // 2, {"section": y})

    splits = {"train": examples(500), "val": examples(50), "test": examples(60)}
    return training.Data(splits, 24, [f"label {i}" for i in range(8)], {"sections": ["all"]})


class StoppedError(Exception):
    pass


def test_build_goes_on_where_it_was_stopped_and_never_twice(tmp_path, monkeypatch, capsys):
    pytest.importorskip("torch")
    from benchmarks.bundles import bags

    plan = training.Plan(epochs=4, batch=50, negatives=8, power=0.5, rate=0.1, word_dropout=0.2)
    sizes = {"train": 400, "val": 40, "test": 50}

    def build(folder):
        bags.build(folder, {"recipe": 1}, sizes, tiny_data, plan, d=6, relu=True, bias=True, long=450)

    build(tmp_path / "whole")
    manifest = json.loads((tmp_path / "whole" / "manifest.json").read_text())
    assert manifest["m"] == 8
    assert manifest["sections"] == ["all"]
    assert manifest["splits"]["test"]["queries"] == 50
    assert manifest["splits"]["test"]["full_layer"]["P@1"] > 0.9
    W, b, Q, Y = bundles.load(tmp_path / "whole", "train")
    assert (W.shape, b.shape, Q.shape) == ((8, 6), (8,), (400, 6))
    assert np.load(tmp_path / "whole" / "section_train.npy").tolist() == Y.indices.tolist()
    assert bundles.groups(tmp_path / "whole", "val").shape == (40,)

    _, _, longer, of_longer = bundles.load(tmp_path / "whole" / "long", "train")
    assert longer.shape == (450, 6)
    assert np.array_equal(longer[:400], Q)
    assert np.array_equal(of_longer.indices[:400], Y.indices)

    original = training.Negatives.draw
    drawn = 0

    def draw(self, generator):
        nonlocal drawn
        drawn += 1
        if drawn == 25:  # in the third epoch
            raise StoppedError
        return original(self, generator)

    monkeypatch.setattr(training.Negatives, "draw", draw)
    with pytest.raises(StoppedError):
        build(tmp_path / "stopped")
    build(tmp_path / "stopped")
    assert drawn == 25 + 20  # two epochs were done, two were left
    for name in ("W", "b", "Q_test"):
        whole, stopped = (np.load(tmp_path / folder / f"{name}.npy") for folder in ("whole", "stopped"))
        np.testing.assert_allclose(stopped, whole, rtol=1e-4, atol=1e-5)

    capsys.readouterr()
    build(tmp_path / "stopped")
    assert capsys.readouterr().out == "stopped: built already\n"
    assert not (tmp_path / "stopped" / "training.pt").exists()

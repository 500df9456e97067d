"""collect against the obvious loop: one document at a time, one window at a time."""

import copy
import sys
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

from conftest import tiny_llama  # noqa: E402
from lss_rs import Index  # noqa: E402
from lss_rs.hf import Shards, collect, states  # noqa: E402

VOCABULARY = 97
WIDTH = 16


CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda", marks=CUDA)])
def model(request):
    return tiny_llama(VOCABULARY, WIDTH).to(request.param)


@pytest.fixture(scope="module")
def tokenizer():
    words = tokenizers.models.WordLevel({f"w{i}": i for i in range(VOCABULARY)}, unk_token="w0")
    backend = tokenizers.Tokenizer(words)
    backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend)


def documents(lengths, seed=0):
    rng = np.random.default_rng(seed)
    return [" ".join(f"w{i}" for i in rng.integers(0, VOCABULARY, n)) for n in lengths]


def naive(model, tokenizer, texts, max_length):
    hidden, next_ids = [np.empty((0, WIDTH))], [np.empty(0, np.int64)]
    model.eval()
    for text in texts:
        ids = np.array(tokenizer(text)["input_ids"], np.int64)
        for start in range(0, len(ids) - 1, max_length):
            window = torch.from_numpy(ids[start : min(start + max_length, len(ids) - 1)])[None]
            window = window.to(model.device)
            with torch.no_grad():
                states = model.model(input_ids=window, use_cache=False).last_hidden_state
            hidden.append(states[0].cpu().numpy())
        next_ids.append(ids[1:])
    return np.concatenate(hidden), np.concatenate(next_ids)


LENGTHS = [5, 1, 40, 0, 2, 17, 8, 9, 33, 16]


@pytest.mark.parametrize("batch_tokens", [1, 20, 4096])
@pytest.mark.parametrize("max_length", [3, 8, 64])
def test_equals_one_document_at_a_time(model, tokenizer, max_length, batch_tokens):
    texts = documents(LENGTHS)
    hidden, next_ids = collect(
        model, tokenizer, iter(texts), max_length=max_length, batch_tokens=batch_tokens, progress=False
    )
    expected, expected_ids = naive(model, tokenizer, texts, max_length)
    assert hidden.dtype == np.float32
    assert next_ids.dtype == np.int64
    assert len(hidden) == sum(max(n - 1, 0) for n in LENGTHS)
    np.testing.assert_array_equal(next_ids, expected_ids)
    np.testing.assert_allclose(hidden, expected, rtol=1e-5, atol=1e-5)


def test_hidden_states_are_what_the_output_layer_sees(model, tokenizer):
    (text,) = documents([20])
    hidden, _ = collect(model, tokenizer, [text], progress=False)
    with torch.no_grad():
        ids = torch.tensor([tokenizer(text)["input_ids"]], device=model.device)
        logits = model(ids).logits[0, :-1].cpu().numpy()
    rows = model.lm_head.weight.detach().cpu().numpy()
    np.testing.assert_allclose(hidden @ rows.T, logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("max_tokens", [1, 4, 5, 30, 10_000])
def test_max_tokens_is_a_prefix(model, tokenizer, max_tokens):
    texts = documents(LENGTHS)
    whole = collect(model, tokenizer, texts, max_length=8, progress=False)
    part = collect(model, tokenizer, texts, max_length=8, max_tokens=max_tokens, progress=False)
    n = min(max_tokens, len(whole[0]))
    np.testing.assert_allclose(part[0], whole[0][:n], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(part[1], whole[1][:n])


def test_reads_no_further_than_it_must(model, tokenizer):
    def endless():
        while True:
            yield from documents([10])

    hidden, _ = collect(model, tokenizer, endless(), max_tokens=25, progress=False)
    assert len(hidden) == 25


def test_a_document_does_not_depend_on_its_neighbours(model, tokenizer):
    first, second = documents([12, 30])
    alone, _ = collect(model, tokenizer, [second], progress=False)
    after, _ = collect(model, tokenizer, [first, second], progress=False)
    np.testing.assert_allclose(after[11:], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_runs_in_evaluation_mode_and_puts_the_flag_back(model, tokenizer, training):
    model.train(training)
    collect(model, tokenizer, documents([5]), progress=False)
    assert model.training is training
    with pytest.raises(TypeError):
        collect(model, tokenizer, [b"w1 w2"], progress=False)
    assert model.training is training


def test_half_precision_models_give_float32(model, tokenizer):
    texts = documents([20])
    exact, _ = collect(model, tokenizer, texts, progress=False)
    try:
        hidden, _ = collect(model.to(torch.bfloat16), tokenizer, texts, progress=False)
    finally:
        model.to(torch.float32)
    assert hidden.dtype == np.float32
    np.testing.assert_allclose(hidden, exact, atol=0.2)


@pytest.mark.parametrize("texts", [[], [""], ["w1", ""]])
def test_no_text_is_an_error(model, tokenizer, texts):
    with pytest.raises(ValueError, match="document of at least two tokens"):
        collect(model, tokenizer, texts, progress=False)


def test_one_string_is_no_list_of_documents(model, tokenizer):
    with pytest.raises(TypeError, match="Got one str"):
        collect(model, tokenizer, "w1 w2", progress=False)


@pytest.mark.parametrize("name", ["max_length", "batch_tokens", "max_tokens"])
def test_numbers_below_one_are_named(model, tokenizer, name):
    with pytest.raises(ValueError, match=rf"'{name}' parameter of collect must be at least 1\. Got 0"):
        collect(model, tokenizer, documents([5]), progress=False, **{name: 0})


def test_windows_fit_the_model(model, tokenizer):
    with pytest.raises(ValueError, match=r"at most the model's 512 positions\. Got 513"):
        collect(model, tokenizer, documents([5]), max_length=513, progress=False)


def test_an_encoder_decoder_is_refused(tokenizer):
    config = transformers.T5Config(
        vocab_size=VOCABULARY,
        d_model=WIDTH,
        d_kv=4,
        d_ff=8,
        num_layers=1,
        num_heads=2,
        decoder_start_token_id=0,
    )
    with pytest.raises(ValueError, match="must be decoder-only"):
        collect(transformers.T5ForConditionalGeneration(config), tokenizer, documents([5]), progress=False)


def test_a_head_over_something_else_is_refused(tokenizer):
    model = tiny_llama(VOCABULARY, WIDTH)
    model.lm_head = torch.nn.Linear(WIDTH // 2, VOCABULARY)
    with pytest.raises(ValueError, match=r"base model's output of width 16\. Got one of width 8"):
        collect(model, tokenizer, documents([5]), progress=False)


class Scaled(transformers.LlamaForCausalLM):
    """A model that does something between its base model and its output layer."""

    factor = 0.5

    def forward(self, input_ids, **options):
        states = self.model(input_ids=input_ids, **options).last_hidden_state
        return self.lm_head(self.factor * states)


def modernbert():
    config = transformers.ModernBertDecoderConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=512,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        cls_token_id=1,
        sep_token_id=2,
    )
    return transformers.ModernBertDecoderForCausalLM(config)


@pytest.mark.parametrize("kind", ["scaled", "modernbert"])
def test_a_module_before_the_head_is_noticed(tokenizer, tmp_path, kind):
    if kind == "scaled":
        model = Scaled(tiny_llama(VOCABULARY, WIDTH).config)
    elif hasattr(transformers, "ModernBertDecoderForCausalLM"):
        model = modernbert()
    else:
        pytest.skip("this transformers has none")
    for options in ({}, {"folder": tmp_path}):
        with pytest.raises(ValueError, match=r"reads its base model's output\. Got one that reads something"):
            collect(model, tokenizer, documents([5, 40]), progress=False, **options)
    assert not model.get_output_embeddings()._forward_pre_hooks
    if kind == "scaled":
        model.factor = 1.0
        assert len(collect(model, tokenizer, documents([5, 40]), progress=False)[0]) == 43


def test_progress_goes_to_stderr_or_nowhere(model, tokenizer, capsys):
    collect(model, tokenizer, documents([5]), progress=False)
    assert capsys.readouterr() == ("", "")
    collect(model, tokenizer, documents([5]))
    out, err = capsys.readouterr()
    assert out == ""
    assert "4tok" in err


def test_missing_torch_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "lss_rs.hf")
    with pytest.raises(ImportError, match=r"pip install 'lss_rs\[hf\]'"):
        import lss_rs.hf  # noqa: F401


# Shards


def everything(shards):
    hidden, next_ids = zip(*shards, strict=True)
    return np.concatenate(hidden), np.concatenate(next_ids)


@pytest.mark.parametrize("max_tokens", [None, 1, 30, 47])
@pytest.mark.parametrize("shard_tokens", [1, 20, 10_000])
def test_shards_are_the_same_in_pieces(model, tokenizer, tmp_path, shard_tokens, max_tokens):
    texts = documents(LENGTHS)
    options = {"max_length": 8, "max_tokens": max_tokens, "progress": False}
    shards = collect(
        model, tokenizer, iter(texts), folder=tmp_path / "new", shard_tokens=shard_tokens, **options
    )
    hidden, next_ids = everything(shards)
    expected = collect(model, tokenizer, texts, **options)
    np.testing.assert_allclose(hidden, expected[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(next_ids, expected[1])
    assert shards.n == len(next_ids)
    assert all(len(ids) >= shard_tokens for _, ids in shards[:-1])
    assert isinstance(shards[-1][0], np.memmap)
    again = Shards(tmp_path / "new")
    assert len(again) == len(shards)
    np.testing.assert_array_equal(again[0][1], shards[0][1])
    with pytest.raises(IndexError):
        again[len(again)]


class InterruptionError(Exception):
    pass


def test_what_was_interrupted_goes_on(model, tokenizer, tmp_path, monkeypatch):
    texts = documents(LENGTHS * 3)

    def until(count):
        yield from texts[:count]
        raise InterruptionError

    read = []
    tokenize = type(tokenizer).__call__
    monkeypatch.setattr(
        type(tokenizer), "__call__", lambda self, *a, **o: read.append(a) or tokenize(self, *a, **o)
    )
    options = {"folder": tmp_path, "shard_tokens": 30, "progress": False}
    for count in (5, 17, 17, 26):
        with pytest.raises(InterruptionError):
            collect(model, tokenizer, until(count), **options)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.npy")}
    kept = len(Shards(tmp_path))
    assert kept > 2
    read.clear()
    shards = collect(model, tokenizer, texts, **options)
    assert len(shards) > kept
    assert len(read) < len(texts) / 2  # finished documents are not even tokenized
    names = [f"{name}-{i:05}.npy" for name in ("hidden", "next_ids") for i in range(kept)]
    assert all((tmp_path / name).stat().st_mtime_ns == before[tmp_path / name] for name in names)
    expected = collect(model, tokenizer, texts, progress=False)
    np.testing.assert_array_equal(everything(shards)[1], expected[1])
    np.testing.assert_allclose(everything(shards)[0], expected[0], rtol=1e-5, atol=1e-5)
    read.clear()
    assert collect(model, tokenizer, texts, **options).n == shards.n
    assert read == []


def test_a_long_document_is_cut_into_shards(model, tokenizer, tmp_path, monkeypatch):
    texts = documents([3, 400, 20, 300, 7])
    options = {"max_length": 8, "progress": False}
    read, left = states._Reader.states, []

    def until(self, windows):
        if not left:
            raise InterruptionError
        left.pop()
        return read(self, windows)

    expected = collect(model, tokenizer, texts, **options)
    monkeypatch.setattr(states._Reader, "states", until)
    for more in (1, 4, 0, 3, 2):
        left.extend(range(more))
        with pytest.raises(InterruptionError):
            collect(model, tokenizer, texts, folder=tmp_path, shard_tokens=30, **options)
    assert len(Shards(tmp_path)) == 10
    with pytest.raises(ValueError, match="begin with the documents"):
        collect(model, tokenizer, [texts[0], texts[3]], folder=tmp_path, shard_tokens=30, **options)
    left.extend(range(100))
    shards = collect(model, tokenizer, texts, folder=tmp_path, shard_tokens=30, **options)
    assert all(30 <= len(ids) < 30 + 8 for _, ids in shards[:-1])
    np.testing.assert_array_equal(everything(shards)[1], expected[1])
    np.testing.assert_allclose(everything(shards)[0], expected[0], rtol=1e-5, atol=1e-5)


def test_tokenizers_without_a_backend_are_told_apart(tmp_path):
    files = {"vocab_file": "vocab.txt", "merges_file": "merges.txt"}

    def checksum(folder, merges="a b", **settings):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "merges.txt").write_text(merges)
        settings |= {"merges_file": str(tmp_path / folder / "merges.txt"), "name_or_path": folder}
        tokenizer = SimpleNamespace(init_kwargs=settings, vocab_files_names=files)
        tokenizer.get_vocab = lambda: {"a": 0, "b": 1}
        return states._tokenizer_checksum(tokenizer)

    found = [checksum("x"), checksum("x", add_bos_token=True), checksum("x", merges="b a")]
    assert len(set(found)) == 3
    assert checksum("moved", local_files_only=True, is_local=True) == found[0]


@pytest.mark.parametrize("limits", [(10, 45), (45, 45), (45, None), (30, 200), (45, 10)])
def test_more_tokens_go_on_from_fewer(model, tokenizer, tmp_path, limits):
    texts = documents(LENGTHS)
    for limit in limits:
        shards = collect(
            model, tokenizer, texts, folder=tmp_path, shard_tokens=20, max_tokens=limit, progress=False
        )
    most = None if None in limits else max(limits)
    expected = collect(model, tokenizer, texts, max_tokens=most, progress=False)
    np.testing.assert_array_equal(everything(shards)[1], expected[1])
    np.testing.assert_allclose(everything(shards)[0], expected[0], rtol=1e-5, atol=1e-5)


def test_short_documents_at_the_end_make_no_shard(model, tokenizer, tmp_path):
    texts = documents([20, 20])
    options = {"folder": tmp_path, "shard_tokens": 10, "progress": False}
    for more in (["", "w1"], ["", "w1", ""], ["", "w1", "", *documents([9])]):
        shards = collect(model, tokenizer, [*texts, *more], **options)
        sizes = [len(ids) for _, ids in shards]
        assert sizes == [19, 19, 8][: len(sizes)]
        assert len(sizes) == (3 if len(more) == 4 else 2)
    assert collect(model, tokenizer, [*texts, *more], **options).n == 46


def test_a_folder_of_something_else_is_refused(model, tokenizer, tmp_path):
    texts = documents(LENGTHS)
    options = {"folder": tmp_path, "shard_tokens": 30, "progress": False}
    collect(model, tokenizer, texts, **options)
    with pytest.raises(ValueError, match="begin with the documents that shards were made from"):
        collect(model, tokenizer, texts[1:], **options)
    with pytest.raises(ValueError, match="begin with the documents"):
        collect(model, tokenizer, texts[:3], **options)
    with pytest.raises(ValueError, match="what this model and tokenizer gave with"):
        collect(model, tokenizer, texts, **options | {"max_length": 4})
    other = tiny_llama(VOCABULARY, WIDTH)
    with torch.no_grad():
        other.model.embed_tokens.weight.mul_(2)
    with pytest.raises(ValueError, match="what this model and"):
        collect(other, tokenizer, texts, **options)
    renamed = copy.deepcopy(tokenizer)
    renamed.add_tokens(["w3 w4"])
    with pytest.raises(ValueError, match="what this model and tokenizer"):
        collect(model, renamed, texts, **options)
    tokenizer.pad_token = "w0"
    tokenizer(["w1", "w2 w3"], padding=True, truncation=True, max_length=7)  # which leaves its traces
    assert collect(model, tokenizer, texts, **options).n == sum(max(n - 1, 0) for n in LENGTHS)
    with pytest.raises(ValueError, match="document of at least two tokens"):
        collect(model, tokenizer, ["", "w1"], **options | {"folder": tmp_path / "none"})


def test_an_index_is_fitted_from_shards(model, tokenizer, tmp_path):
    texts = documents([60] * 30)
    shards = collect(model, tokenizer, texts, folder=tmp_path, shard_tokens=300, progress=False)
    index = Index.from_linear(model.lm_head).fit(iter(shards), target=None, progress=False)
    assert index.params["n_entries"] == shards.n

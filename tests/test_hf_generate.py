"""Generation with a patched model, against a loop that masks the full layer's logits."""

import copy
import logging
import pickle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from conftest import tiny_llama  # noqa: E402
from lss_rs import Index, LSSConfig  # noqa: E402
from lss_rs.hf import INDEX_FILE, decode, decoding, patch  # noqa: E402
from lss_rs.torch import LSSLinear, StaleIndexWarning  # noqa: E402

M, D = 211, 16
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
DEVICE = torch.device("cpu")
SMALL = {
    "vocab_size": M,
    "hidden_size": D,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda", marks=CUDA)], autouse=True)
def device(request):
    """Where the models of this module are, test by test."""
    global DEVICE
    DEVICE = torch.device(request.param)
    yield DEVICE
    DEVICE = torch.device("cpu")


def gemma2():
    config = transformers.Gemma2Config(
        **SMALL, head_dim=4, final_logit_softcapping=0.3, query_pre_attn_scalar=4
    )
    return transformers.Gemma2ForCausalLM(config).to(DEVICE)


def granite():
    config = transformers.GraniteConfig(**SMALL, logits_scaling=6.0)
    return transformers.GraniteForCausalLM(config).to(DEVICE)


def cohere():
    config = transformers.CohereConfig(**SMALL, logit_scale=0.25)
    return transformers.CohereForCausalLM(config).to(DEVICE)


def llama():
    return tiny_llama(M, D, bos_token_id=1, eos_token_id=2, pad_token_id=0).to(DEVICE)


def tied():
    options = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "tie_word_embeddings": True}
    return tiny_llama(M, D, **options).to(DEVICE)


MODELS = {"llama": llama, "tied": tied, "gemma2": gemma2, "granite": granite, "cohere": cohere}


def prompts(n, length=5, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(3, M, (n, length))).to(DEVICE)


def states(model, n=900):
    """Queries such as generation asks."""
    with torch.no_grad():
        return model.base_model(prompts(n // 9, 9, seed=7)).last_hidden_state.reshape(-1, D)


def index_of(model, config=None, Y=None):
    config = config or LSSConfig(n_neighbors=3, teacher_top=12)
    index = Index.from_linear(model.get_output_embeddings(), config)
    return index.fit(states(model).cpu(), Y, k=5, target=None, progress=False)


@pytest.fixture(scope="module", params=MODELS)
def made(request, device):
    torch.manual_seed(0)
    model = MODELS[request.param]().eval()
    return model, index_of(model)


@pytest.fixture
def model(made):
    return made[0]


@pytest.fixture
def index(made):
    return made[1]


def allowed(index, special, hidden):
    """Whether each label is a candidate, (n, m)."""
    indptr, ids = index.candidates(hidden.cpu().numpy())
    known = torch.zeros(len(hidden), M, dtype=torch.bool)
    known[np.repeat(np.arange(len(hidden)), np.diff(indptr)), ids] = True
    known[:, list(special)] = True
    return known.to(DEVICE)


def naive(model, index, input_ids, new, processors=(), special=(0, 1, 2)):
    """Greedy search in an obvious loop: no cache, full logits, masked; the model is not patched."""
    going = torch.ones(len(input_ids), dtype=torch.bool, device=DEVICE)
    for _ in range(new):
        with torch.no_grad():
            hidden = model.base_model(input_ids).last_hidden_state[:, -1]
            logits = model(input_ids).logits[:, -1].float()
        logits = logits.masked_fill(~allowed(index, special, hidden), -torch.inf)
        for processor in processors:
            logits = processor(input_ids, logits)
        token = torch.where(going, logits.argmax(1), 0)
        input_ids = torch.cat([input_ids, token[:, None]], 1)
        going &= token != 2
        if not going.any():
            break
    return input_ids


def generate(model, input_ids, new=8, **options):
    options = {"do_sample": False, "attention_mask": torch.ones_like(input_ids), **options}
    return model.generate(input_ids, max_new_tokens=new, **options)


GREEDY = {
    "plain": {},
    "repetition penalty": {"repetition_penalty": 1.7},
    "no repeated words": {"no_repeat_ngram_size": 1},
    "no stop yet": {"min_new_tokens": 4},
}


@pytest.mark.parametrize("custom", [None, decode], ids=["scattered", "decode"])
@pytest.mark.parametrize("options", GREEDY.values(), ids=GREEDY)
def test_greedy_search_is_a_loop_over_masked_logits(model, index, options, custom):
    input_ids = prompts(4)
    lengths = {"no_repeat_ngram_size": transformers.NoRepeatNGramLogitsProcessor(1)}
    processors = {
        "repetition_penalty": transformers.RepetitionPenaltyLogitsProcessor(1.7),
        "min_new_tokens": transformers.MinNewTokensLengthLogitsProcessor(5, 4, [2], DEVICE),
        **lengths,
    }
    expected = naive(model, index, input_ids, 8, [processors[name] for name in options])
    with patch(model, index, path="tables"):
        found = generate(model, input_ids, custom_generate=custom, **options)
    assert torch.equal(found, expected)


def test_greedy_search_takes_what_is_best_of_all_that_is_listed(model, index):
    with patch(model, index) as patched:
        patched.head.n_candidates = M
        scattered = generate(model, prompts(6))
        assert torch.equal(generate(model, prompts(6), custom_generate=decode), scattered)


def test_by_the_core_greedy_search_is_a_search(model, index):
    with patch(model, index, path="core"):
        found = generate(model, prompts(6), custom_generate=decode)[:, 5].cpu()
        hidden = model.base_model(prompts(6)).last_hidden_state[:, -1].detach().cpu()
    first = np.where(found <= 2, found, index.search(hidden.numpy(), 1).labels[:, 0])
    np.testing.assert_array_equal(found.numpy(), first)


def test_a_cap_on_logits_brings_nothing_back(model, index):
    input_ids = prompts(3)
    with torch.no_grad():
        dense = model(input_ids).logits
        loss = model(input_ids, labels=input_ids).loss
        hidden = model.base_model(input_ids).last_hidden_state
        with patch(model, index, "lss", path="tables") as patched:
            logits = model(input_ids).logits
            trained = model(input_ids, labels=input_ids)
            by_place = model(input_ids, None, None, None, None, input_ids)
            pair = model(input_ids, return_dict=False)[0]
            patched.head.mode = "auto"
            whole = model(input_ids).logits
            last = model(input_ids, logits_to_keep=1).logits
    known = allowed(index, (0, 1, 2), hidden.reshape(-1, D)).reshape(dense.shape)
    assert torch.equal(logits > -torch.inf, known)
    torch.testing.assert_close(logits[known], dense[known])
    assert torch.equal(pair, logits)
    for output in (trained, by_place):
        assert torch.equal(output.loss, loss)
        assert torch.equal(output.logits, dense)
    assert torch.equal(whole, dense)
    assert torch.equal(last[:, 0] > -torch.inf, known[:, -1])
    torch.testing.assert_close(last[:, 0][known[:, -1]], dense[:, -1][known[:, -1]])


def test_a_cap_brings_nothing_back_beside_queries_without_candidates():
    model = gemma2().eval()
    rows = LSSConfig(fill="rows", method="simhash", n_bits=9, n_tables=1, n_probes=1, sketch_bytes=0)
    index = index_of(model, rows)
    x = prompts(60)
    with torch.no_grad():
        dense = model(x, logits_to_keep=1).logits[:, 0]
        hidden = model.base_model(x).last_hidden_state[:, -1]
        none = torch.from_numpy(np.diff(index.candidates(hidden.cpu().numpy())[0]) == 0).to(DEVICE)
        with patch(model, index, path="tables"):
            logits = model(x, logits_to_keep=1).logits[:, 0]
    assert 0 < none.sum() < len(x)
    assert torch.equal(logits > -torch.inf, allowed(index, (0, 1, 2), hidden) | none[:, None])
    known = logits > -torch.inf
    torch.testing.assert_close(logits[known], dense[known])


# Choosing


def processors():
    floats = st.floats(0.05, 0.95)
    return st.lists(
        st.one_of(
            st.floats(0.3, 3.0).map(transformers.TemperatureLogitsWarper),
            st.integers(1, 60).map(transformers.TopKLogitsWarper),
            floats.map(transformers.TopPLogitsWarper),
            floats.map(transformers.MinPLogitsWarper),
            st.builds(
                transformers.RepetitionPenaltyLogitsProcessor,
                st.floats(0.5, 2.5),
                prompt_ignore_length=st.none() | st.integers(0, 40),
            ),
        ),
        max_size=4,
    ).map(transformers.LogitsProcessorList)


@given(processors=processors(), seed=st.integers(0, 999), n=st.integers(1, 4), count=st.integers(1, 40))
def test_processors_see_candidates_as_they_would_all_labels(processors, seed, n, count):
    rng = np.random.default_rng(seed)
    labels = np.stack([rng.permutation(M)[:count] for _ in range(n)])
    holes = rng.random(labels.shape) < 0.3
    holes[:, 0] = False
    labels = torch.from_numpy(np.where(holes, -1, labels)).to(DEVICE)
    logits = rng.permutation(n * count).reshape(n, count).astype(np.float32) / 7 - 3
    logits = torch.from_numpy(logits).to(DEVICE)
    input_ids = torch.from_numpy(rng.integers(0, M, (n, 30))).to(DEVICE)
    full = torch.full((n, M), -torch.inf, device=DEVICE)
    for row, listed, values in zip(full, labels, logits, strict=True):
        row[listed[listed >= 0]] = values[listed >= 0]
    head = LSSLinear(1, M)
    choice = decoding._Choice(head, processors, sample=True)
    scores = choice.scores(input_ids, labels, logits)
    known = labels >= 0
    expected = processors(input_ids, full).softmax(-1)
    found = torch.zeros(n, M, device=DEVICE)
    for row, listed, values in zip(found, labels, scores.softmax(-1), strict=True):
        row[listed[listed >= 0]] = values[listed >= 0]
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)
    assert (scores[~known] == -torch.inf).all()
    head._listed = labels
    for _ in range(2):
        token = choice(input_ids, logits).argmax(1)
        assert (expected.gather(1, token[:, None]) > 0).all()


def test_samples_have_the_probabilities_of_candidates():
    model = llama().eval()
    index = index_of(model)
    input_ids = prompts(1).expand(4000, -1)
    with torch.no_grad():
        hidden = model.base_model(prompts(1)).last_hidden_state[:, -1]
        logits = model(prompts(1)).logits[0, -1]
    known = allowed(index, (0, 1, 2), hidden)[0]
    warper = transformers.LogitsProcessorList(
        [transformers.TemperatureLogitsWarper(0.5), transformers.TopPLogitsWarper(0.9)]
    )
    expected = warper(None, logits.masked_fill(~known, -torch.inf)[None]).softmax(-1)[0]
    with patch(model, index, "lss", path="tables"):
        torch.manual_seed(0)
        options = {"do_sample": True, "temperature": 0.5, "top_p": 0.9, "top_k": 0}
        found = generate(model, input_ids, new=1, custom_generate=decode, **options)
    share = torch.bincount(found[:, -1], minlength=M) / len(found)
    assert (share[expected == 0] == 0).all()
    assert (share - expected).abs().max() < 5 * (0.25 / len(found)) ** 0.5


@pytest.mark.parametrize(
    ("options", "needed"),
    [
        ({}, 1),
        ({"do_sample": True, "top_k": 7}, 7),
        ({"do_sample": True, "top_k": 0}, None),
        ({"do_sample": True, "top_k": 7, "repetition_penalty": 1.2}, None),
        ({"repetition_penalty": 1.2}, None),
    ],
)
def test_no_more_is_asked_than_a_choice_depends_on(options, needed):
    model = llama().eval()
    asked = []
    with patch(model, index_of(model)) as patched:
        generate(model, prompts(2), new=1, custom_generate=decode)  # which looks at the model
        listing = patched.head._listing
        patched.head._listing = lambda k: asked.append(k) or listing(k)
        generate(model, prompts(2), new=2, custom_generate=decode, **options)
    assert asked == [needed]


TOP_P_FIRST = transformers.LogitsProcessorList(
    [transformers.TopPLogitsWarper(0.3), transformers.TopKLogitsWarper(40)]
)


@example(processors=TOP_P_FIRST, seed=0)
@given(processors=processors(), seed=st.integers(0, 999))
def test_what_is_left_out_has_no_part_in_a_choice(processors, seed):
    """With as many labels as a choice is said to depend on, it is as with all of them."""
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.permutation(M).astype(np.float32)[None] / 20).to(DEVICE)
    input_ids = torch.from_numpy(rng.integers(0, M, (1, 30))).to(DEVICE)
    k = decoding._needed(processors, sample=True)
    best = logits.topk(k or M)
    choice = decoding._Choice(LSSLinear(1, M), processors, sample=True)
    scores = choice.scores(input_ids, best.indices, best.values).softmax(-1)
    found = torch.zeros(1, M, device=DEVICE).scatter_(1, best.indices, scores)
    torch.testing.assert_close(found, processors(input_ids, logits).softmax(-1), atol=1e-6, rtol=1e-4)


def test_a_caller_s_top_p_before_top_k_sees_all_candidates():
    warpers = [transformers.TopPLogitsWarper(0.3), transformers.TopKLogitsWarper(5)]
    assert decoding._needed(transformers.LogitsProcessorList(warpers), sample=True) is None
    assert decoding._needed(transformers.LogitsProcessorList(warpers[::-1]), sample=True) == 5
    warm = [transformers.TemperatureLogitsWarper(0.7), *warpers[::-1]]
    assert decoding._needed(transformers.LogitsProcessorList(warm), sample=True) == 5


@pytest.mark.parametrize("why", ["many", "training", "exact"])
@pytest.mark.parametrize("mode", ["auto", "lss"])
def test_decode_keeps_to_the_mode(model, index, mode, why):
    asked = []
    input_ids = prompts(5)
    point = index.operating_point
    with patch(model, index, mode, path="tables") as patched:
        generate(model, input_ids, new=1, custom_generate=decode)  # which looks at the model
        listing = patched.head._listing
        patched.head._listing = lambda k: asked.append(k) or listing(k)
        generate(model, input_ids, custom_generate=decode)
        assert asked == [1]
        patched.head.max_positions = 4 if why == "many" else 64
        patched.head.train(why == "training")
        try:
            index.apply(point._replace(exact=why == "exact"))
            found = generate(model, input_ids, custom_generate=decode)
        finally:
            index.apply(point)
            patched.head.eval()
    dense = mode == "auto" or why == "exact"
    assert len(asked) == (1 if dense else 2)
    if dense:
        assert torch.equal(found, generate(model, input_ids))


BEAMS = {
    "beams": {"num_beams": 3},
    "sampled beams": {"num_beams": 3, "do_sample": True},
    "banned words": {"bad_words_ids": [[5]]},
    "scores": {"return_dict_in_generate": True, "output_scores": True},
}


class Masked(torch.nn.Linear):
    """An output layer in an obvious way: all logits, then -inf outside the candidates."""

    def forward(self, x):
        known = allowed(self.index, (0, 1, 2), x.reshape(-1, D)).reshape(*x.shape[:-1], M)
        return super().forward(x).masked_fill(~known, -torch.inf)


@pytest.mark.parametrize("custom", [None, decode], ids=["scattered", "decode"])
@pytest.mark.parametrize("name", ["beams", "banned words"])
def test_beams_are_those_of_masked_logits(name, custom):
    model, reference = llama().eval(), llama().eval()
    masked = Masked(D, M, bias=False)
    masked.weight, masked.index = reference.lm_head.weight, index_of(model)
    reference.lm_head = masked
    expected = generate(reference, prompts(3), **BEAMS[name])
    with patch(model, masked.index, path="tables"):
        found = generate(model, prompts(3), custom_generate=custom, **BEAMS[name])
    assert torch.equal(found, expected)


def test_drafts_are_verified_by_the_full_layer():
    model = llama().eval()
    start = prompts(1).repeat(1, 4)
    expected = generate(model, start, new=20, prompt_lookup_num_tokens=3)
    with patch(model, index_of(model)) as patched:
        patched.head.n_candidates = M
        assert torch.equal(generate(model, start, new=20, prompt_lookup_num_tokens=3), expected)
        with pytest.raises(ValueError, match="'custom_generate' must be left out for this generation mode"):
            generate(model, start, prompt_lookup_num_tokens=3, custom_generate=decode)


@pytest.mark.parametrize("options", BEAMS.values(), ids=BEAMS)
def test_whatever_else_takes_scattered_logits(model, index, options, caplog):
    decoding._said.clear()
    with patch(model, index, path="tables"), caplog.at_level(logging.INFO, "lss_rs"):
        results = []
        for custom in (None, decode, decode):
            torch.manual_seed(3)
            results.append(generate(model, prompts(3), custom_generate=custom, **options))
    sequences = [getattr(result, "sequences", result) for result in results]
    assert torch.equal(sequences[0], sequences[1])
    assert torch.equal(sequences[0], sequences[2])
    said = [record.message for record in caplog.records if "scattered logits" in record.message]
    assert len(said) == 1
    if "output_scores" in options:
        assert results[1].scores[0].shape == (3, M)
        assert (results[1].scores[0] == -torch.inf).any()


def test_a_penalty_leaves_out_what_pads():
    model = llama().eval()
    x, mask = prompts(3, 7), torch.ones(3, 7, dtype=torch.int64, device=DEVICE)
    x[1, :4], mask[1, :4] = 0, 0
    with patch(model, index_of(model), "lss", path="tables") as patched:
        generate(model, x, new=1, custom_generate=decode)  # which looks at the model
        asked, listing = [], patched.head._listing
        patched.head._listing = lambda k: asked.append(k) or listing(k)
        texts = [
            generate(model, x, attention_mask=mask, repetition_penalty=1.7, custom_generate=custom)
            for custom in (None, decode)
        ]
    assert asked == [None]
    assert torch.equal(*texts)


def test_texts_within_texts_are_on_their_own():
    model, biased = llama().eval(), {(150,): 100.0}
    expected = generate(model, prompts(2), sequence_bias=biased)
    with patch(model, index_of(model), path="tables") as patched:
        alone = generate(model, prompts(2), custom_generate=decode)

        class Nesting(transformers.StoppingCriteria):
            def __call__(self, input_ids, scores, **_):
                assert torch.equal(generate(model, prompts(2), custom_generate=decode), alone)
                assert patched.head._whole_texts
                return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)

        stopping = transformers.StoppingCriteriaList([Nesting()])
        found = generate(model, prompts(2), sequence_bias=biased, stopping_criteria=stopping)
    assert torch.equal(found, expected)


# Models that look at labels


class Muted(transformers.LlamaForCausalLM):
    """As Chameleon does to images, it gives some tokens no chance."""

    def forward(self, *args, **options):
        out = super().forward(*args, **options)
        out.logits[..., 5:90] = torch.finfo(out.logits.dtype).min
        return out


class Normal(transformers.LlamaForCausalLM):
    """Its logits are logarithms of probabilities."""

    def forward(self, *args, **options):
        out = super().forward(*args, **options)
        out.logits = out.logits.log_softmax(-1)
        return out


class Shifted(transformers.LlamaForCausalLM):
    def forward(self, *args, **options):
        out = super().forward(*args, **options)
        out.logits = out.logits + torch.linspace(0, 1, M, device=out.logits.device)
        return out


@pytest.mark.parametrize("kind", [Muted, Normal, Shifted])
@pytest.mark.parametrize("path", [None, "tables"])
def test_a_model_that_looks_at_labels_gets_all_logits(kind, path, caplog):
    decoding._said.clear()
    plain = llama().eval()
    with torch.no_grad():  # as if it had learned something
        plain.lm_head.weight *= 50
    model = kind(plain.config).to(DEVICE).eval()
    model.load_state_dict(plain.state_dict())
    with patch(model, index_of(plain), path=path), caplog.at_level(logging.INFO, "lss_rs"):
        expected = generate(model, prompts(4))
        assert torch.equal(generate(model, prompts(4), custom_generate=decode), expected)
        torch.manual_seed(3)
        sampled = generate(model, prompts(4), do_sample=True)
        torch.manual_seed(3)
        assert torch.equal(generate(model, prompts(4), do_sample=True, custom_generate=decode), sampled)
    assert f"because of what {kind.__name__} does to its logits" in caplog.text
    if kind is Muted:
        assert not ((expected[:, 5:] >= 5) & (expected[:, 5:] < 90)).any()


def test_a_model_that_treats_logits_alike_is_seen_to(model, index, caplog):
    decoding._said.clear()
    with patch(model, index) as patched, caplog.at_level(logging.INFO, "lss_rs"):
        generate(model, prompts(2), custom_generate=decode)
        assert patched.head._alike
    assert not caplog.records


def test_training_is_no_reason_to_look_at_all_logits():
    model = llama().eval()
    model.config.attention_dropout = 0.5
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    with patch(model, index_of(model), "lss", path="tables") as patched:
        model.train()
        generate(model, prompts(4), custom_generate=decode)
        assert patched.head._alike
        assert all(module.training for module in model.modules())


def test_labels_are_seen_in_any_place():
    plain = llama().eval()
    model = Muted(plain.config).to(DEVICE).eval()
    model.load_state_dict(plain.state_dict())
    x = prompts(3)
    with torch.no_grad():
        loss = model(x, labels=x).loss
        with patch(model, index_of(plain), "lss", path="tables") as patched:
            assert torch.equal(model(x, torch.ones_like(x), labels=x).loss, loss)
            if DEVICE.type == "cpu":  # another device would not live on
                with pytest.raises(IndexError):
                    model(x + M, labels=x)
            assert (patched.head(torch.randn(3, D, device=DEVICE)) == -torch.inf).any()


# Processors that look at labels


class Cubed(transformers.LogitsProcessor):
    def __call__(self, input_ids, scores):
        return scores**3


OTHERS = {
    "allowed by bans": {"suppress_tokens": [token for token in range(3, M) if token != 150]},
    "raised": {"repetition_penalty": 0.01},
    "allowed": {"prefix_allowed_tokens_fn": lambda *_: [150, 151, 152]},
    "biased": {"sequence_bias": {(150,): 100.0}},
    "the caller's": {"logits_processor": transformers.LogitsProcessorList([Cubed()])},
}


@pytest.mark.parametrize("custom", [None, decode], ids=["scattered", "decode"])
@pytest.mark.parametrize("options", OTHERS.values(), ids=OTHERS)
def test_processors_that_may_choose_others_get_all_logits(model, index, options, custom, caplog):
    decoding._said.clear()
    expected = generate(model, prompts(4), **options)
    with patch(model, index, path="tables") as patched, caplog.at_level(logging.INFO, "lss_rs"):
        patched.head.n_candidates = M  # nearly all of which are banned
        found = generate(model, prompts(4), custom_generate=custom, **options)
        with torch.no_grad():
            assert (model(prompts(4), logits_to_keep=1).logits == -torch.inf).any()  # as ever
        plain = generate(model, prompts(4))
    assert torch.equal(found, expected)
    assert torch.equal(plain, naive(model, index, prompts(4), 8))
    assert ("decode takes all logits, because of" in caplog.text) == (custom is decode)
    assert patched.head._whole_texts is None


# Stopping


def test_generation_stops_though_the_index_never_finds_the_end():
    model = llama().eval()
    hidden = states(model)
    with torch.no_grad():  # the end is what the model wants, always
        model.lm_head.weight[2] = 50 * hidden.mean(0)
        assert (hidden @ model.lm_head.weight.T).argmax(1).eq(2).float().mean() > 0.5
    labels = 3 + np.arange(len(hidden)) % (M - 3)
    index = index_of(model, LSSConfig(teacher_top=0, n_neighbors=5), labels)
    start = prompts(40)
    with torch.no_grad():
        ends = model(start).logits[:, -1].argmax(1) == 2
    assert ends.sum() > 10
    for path in ("core", "tables"):
        for custom in (None, decode):
            with patch(model, index, path=path) as patched:
                assert set(patched.head.always) == {0, 1, 2}
                found = generate(model, start, custom_generate=custom)
                assert torch.equal(found[:, 5] == 2, ends)
                assert (found[ends][:, 6:] == 0).all()
                # Without what is asked for, at patching and at each call, it would go on.
                patched.head.always = ()
                model.generation_config.eos_token_id = None
                found = generate(model, start, custom_generate=custom)
                assert not (found == 2).any()
                model.generation_config.eos_token_id = 2


@pytest.mark.parametrize("custom", [None, decode], ids=["scattered", "decode"])
@pytest.mark.parametrize("how", ["argument", "several", "config", "changed"])
def test_a_call_s_own_end_stops_it(custom, how):
    model = llama().eval()
    hidden = states(model)
    with torch.no_grad():
        model.lm_head.weight[9] = 50 * hidden.mean(0)
    labels = 10 + np.arange(len(hidden)) % (M - 10)
    index = index_of(model, LSSConfig(teacher_top=0, n_neighbors=5), labels)
    start = prompts(40)
    with torch.no_grad():
        ends = model(start).logits[:, -1].argmax(1) == 9
    assert ends.sum() > 10
    options = {}
    with patch(model, index, path="tables") as patched:
        assert not (generate(model, start, custom_generate=custom)[:, 5:] == 9).any()
        if how == "config":
            config = copy.deepcopy(model.generation_config)
            config.update(eos_token_id=9, max_new_tokens=8, do_sample=False)
            found = model.generate(
                start, config, attention_mask=torch.ones_like(start), custom_generate=custom
            )
        else:
            if how == "changed":
                model.generation_config.eos_token_id = 9
            else:
                options["eos_token_id"] = 9 if how == "argument" else [2, 9]
            found = generate(model, start, custom_generate=custom, **options)
        assert torch.equal(found[:, 5] == 9, ends)
        assert (found[ends][:, 6:] == 0).all()
        model.generation_config.eos_token_id = 2
        assert not (generate(model, start, custom_generate=custom)[:, 5:] == 9).any()
        assert patched.head.always == (0, 1, 2)


def test_special_ids_come_from_everywhere():
    model = llama().eval()
    model.generation_config.eos_token_id = [2, 7]
    model.config.pad_token_id = -1
    with patch(model, index_of(model), special_ids=[9]) as patched:
        assert patched.head.always == (0, 1, 2, 7, 9)
    with pytest.raises(ValueError, match=r"'special_ids' must be tokens in 0\.\.210\. Got 211"):
        patch(model, index_of(model), special_ids=[M])


# Patching

SHADOWS = {
    "generate",
    "save_pretrained",
    "_get_logits_processor",
    "_prepare_special_tokens",
    "_upload_modified_files",
}


def test_what_is_patched_is_put_back(model, index):
    head, forward = model.get_output_embeddings(), len(model._forward_hooks)
    x = prompts(2)
    dense = model(x).logits
    patched = patch(model, index)
    assert isinstance(model.get_output_embeddings(), LSSLinear)
    assert patched.index is index
    assert model.get_output_embeddings().weight is head.weight
    patched.remove()
    patched.remove()
    assert model.get_output_embeddings() is head
    assert len(model._forward_hooks) == forward
    assert not model._forward_pre_hooks
    assert not SHADOWS & vars(model).keys()
    assert torch.equal(model(x).logits, dense)
    with pytest.raises(ZeroDivisionError), patch(model, index):
        _ = 1 / 0
    assert model.get_output_embeddings() is head


def test_a_model_s_own_ways_are_kept():
    model = llama().eval()
    generated, own = [], model.generate

    def mine(*args, **options):
        generated.append(options["max_new_tokens"])
        return own(*args, **options)

    model.generate = mine
    with patch(model, index_of(model)):
        generate(model, prompts(2), new=3, custom_generate=decode)
    assert generated == [3]
    assert model.generate is mine


def test_a_model_that_was_resized_is_let_go():
    model = llama().eval()
    index = index_of(model)
    patched = patch(model, index)
    model.resize_token_embeddings(M + 5)
    head = model.get_output_embeddings()
    if isinstance(head, LSSLinear):
        pytest.skip("this transformers keeps the layer")
    later = patch(model, index_of(model))
    shadows = dict(vars(model))
    patched.remove()  # takes nothing of the later one's
    assert vars(model)["save_pretrained"] is shadows["save_pretrained"]
    assert len(model._forward_hooks) == 1
    later.remove()
    assert model.get_output_embeddings() is head
    assert not model._forward_hooks
    assert not SHADOWS & vars(model).keys()

    model = llama().eval()
    patched = patch(model, index)
    model.resize_token_embeddings(M + 5)
    patched.remove()
    assert not model._forward_hooks
    assert "save_pretrained" not in vars(model)
    assert model.get_output_embeddings().out_features == M + 5


def test_weights_that_moved_meanwhile_stay_where_they_are():
    model = tied().eval()
    with patch(model, index_of(model)):
        model.bfloat16()
        tokens = generate(model, prompts(2), custom_generate=decode)
    assert model.lm_head.weight.dtype is torch.bfloat16
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert tokens.shape[0] == 2


def test_saved_and_loaded(model, index, tmp_path):
    with patch(model, index):
        expected = generate(model, prompts(3), custom_generate=decode)
        model.save_pretrained(tmp_path)
    assert (tmp_path / INDEX_FILE).is_file()
    again = type(model).from_pretrained(tmp_path).eval().to(DEVICE)
    assert not isinstance(again.get_output_embeddings(), LSSLinear)
    patch(again, tmp_path)
    assert torch.equal(generate(again, prompts(3), custom_generate=decode), expected)
    with patch(model, tmp_path / INDEX_FILE):
        assert torch.equal(generate(model, prompts(3), custom_generate=decode), expected)
    if model.config.tie_word_embeddings:
        assert again.get_output_embeddings().weight is again.get_input_embeddings().weight


@pytest.mark.parametrize("main", [True, False])
@pytest.mark.parametrize("how", ["by name", "by place"])
def test_the_main_process_saves(model, index, main, how, tmp_path):
    with patch(model, index):
        if how == "by name":
            model.save_pretrained(save_directory=tmp_path, is_main_process=main)
        else:
            model.save_pretrained(tmp_path, main)
    assert (tmp_path / INDEX_FILE).is_file() == main


@pytest.mark.parametrize("how", ["save_pretrained", "push_to_hub"])
def test_what_is_uploaded_has_the_index(how, tmp_path, monkeypatch):
    model, uploaded = llama().eval(), []

    def upload(self, working_dir, *_, **__):
        uploaded.append({path.name for path in Path(working_dir).iterdir()})

    monkeypatch.setattr(type(model), "_upload_modified_files", upload)
    hub = SimpleNamespace(create_repo=lambda repo_id, **_: SimpleNamespace(repo_id=repo_id))
    card = SimpleNamespace(save=lambda _: None)
    for module in (transformers.modeling_utils, transformers.utils.hub):
        monkeypatch.setattr(module, "hf_api", lambda *_, **__: hub, raising=False)
        monkeypatch.setattr(module, "create_repo", hub.create_repo, raising=False)
        monkeypatch.setattr(module, "create_and_tag_model_card", lambda *_, **__: card, raising=False)
    with patch(model, index_of(model)):
        if how == "save_pretrained":
            model.save_pretrained(str(tmp_path), push_to_hub=True, repo_id="me/model")
        else:
            model.push_to_hub("me/model")
    (names,) = uploaded
    assert {INDEX_FILE, "config.json"} <= names


class Handing(transformers.LlamaForCausalLM):
    def save_pretrained(self, *args, **options):
        return super().save_pretrained(*args, **options)


def test_a_model_that_saves_itself_in_a_way_of_its_own(tmp_path):
    model = Handing(llama().config).to(DEVICE).eval()
    with patch(model, index_of(model)):
        model.save_pretrained(tmp_path / "a", False)
        model.save_pretrained(tmp_path / "b")
    assert not (tmp_path / "a" / INDEX_FILE).exists()
    assert (tmp_path / "b" / INDEX_FILE).is_file()


def test_a_stale_index_is_not_saved(tmp_path):
    model = llama().eval()
    with patch(model, index_of(model)):
        with torch.no_grad():
            model.lm_head.weight[5] += 1
        with pytest.warns(StaleIndexWarning, match="no lss_index.safetensors is written"):
            model.save_pretrained(tmp_path)
    assert not (tmp_path / INDEX_FILE).exists()
    assert (tmp_path / "config.json").is_file()


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_are_patched_on_their_own(model, index, duplicate, tmp_path):
    with patch(model, index, "lss", path="tables"):
        other = duplicate(model)
        expected = model(prompts(2)).logits
    assert torch.equal(other(prompts(2)).logits, expected)
    assert (expected == -torch.inf).any()
    assert other.save_pretrained.args[0] is other
    assert other._prepare_special_tokens.args[0] is other
    other.save_pretrained(tmp_path)
    assert (tmp_path / INDEX_FILE).is_file()


def test_a_model_that_learned_since_is_dense():
    model = llama().eval()
    patched = patch(model, index_of(model))
    with torch.no_grad():
        model.lm_head.weight += 0.1
    with pytest.warns(StaleIndexWarning):
        found = generate(model, prompts(3), custom_generate=decode)
    assert torch.equal(generate(model, prompts(3)), found)
    patched.remove()
    assert torch.equal(generate(model, prompts(3)), found)


def test_training_goes_through_the_dense_layer(model, index):
    model = copy.deepcopy(model).train()
    x = prompts(3)
    gradients = []
    for _ in range(2):
        model.zero_grad()
        model(x, labels=x).loss.backward()
        gradients.append(model.get_output_embeddings().weight.grad.clone())
        if len(gradients) == 1:
            patch(model, index)
    assert torch.equal(*gradients)


@pytest.mark.filterwarnings("ignore")  # on CUDA it compiles, and torch has much to say
def test_a_cache_of_fixed_size():
    model = llama().eval()
    with patch(model, index_of(model)):
        expected = generate(model, prompts(2), custom_generate=decode)
        options = {"cache_implementation": "static"}
        assert torch.equal(generate(model, prompts(2), custom_generate=decode, **options), expected)
        assert torch.equal(generate(model, prompts(2), **options), generate(model, prompts(2)))
    torch.compiler.reset()


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")  # torch's own
def test_it_compiles(model, index):
    with patch(model, index, "lss", path="tables"), torch.no_grad():
        expected = model(prompts(2), use_cache=False).logits
        compiled = torch.compile(model, backend="eager")
        try:
            found = compiled(prompts(2), use_cache=False).logits
        finally:
            torch.compiler.reset()
    assert torch.equal(found > -torch.inf, expected > -torch.inf)
    torch.testing.assert_close(found, expected)


def test_what_does_not_fit_is_named():
    model = llama().eval()
    index = index_of(model)
    with pytest.raises(ValueError, match="'model' must be patched by"):
        generate(model, prompts(1), custom_generate=decode)
    with patch(model, index), pytest.raises(ValueError, match="'model' must be not patched yet"):
        patch(model, index)
    with pytest.raises(ValueError, match="'model' must be one with an output layer"):
        patch(model.model, index)
    bart = transformers.BartConfig(
        vocab_size=M,
        d_model=D,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=8,
        decoder_ffn_dim=8,
    )
    with pytest.raises(ValueError, match=r"'model' must be decoder-only\. Got an encoder-decoder"):
        patch(transformers.BartForConditionalGeneration(bart), index)
    model.lm_head.register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match=r"'linear' must be a torch\.nn\.Linear without hooks"):
        patch(model, index)
    model.lm_head._forward_hooks.clear()
    hooks = pytest.importorskip("accelerate.hooks")
    hooks.add_hook_to_module(model.lm_head, hooks.AlignDevicesHook(DEVICE))
    with pytest.raises(ValueError, match="'model' must be one whose output layer accelerate does not move"):
        patch(model, index)
    hooks.remove_hook_from_module(model.lm_head)
    with pytest.raises(TypeError, match="'index' must be an Index"):
        patch(model, 3)
    with pytest.raises(FileNotFoundError):
        patch(model, "nowhere.safetensors")
    with pytest.raises(ValueError, match="'index' must be of 211 rows of 16"):
        patch(model, Index.from_weights(np.eye(16)).fit(np.eye(16).repeat(9, 0), target=None, progress=False))
    assert not isinstance(model.lm_head, LSSLinear)

"""Generation from an index of a real model's output layer: SmolLM2's own weights, against the full layer."""

from itertools import islice

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import lss_rs.hf  # noqa: E402
from conftest import documents  # noqa: E402
from lss_rs import Index, demo  # noqa: E402
from lss_rs.hf import decode, patch  # noqa: E402
from lss_rs.torch import LSSLinear  # noqa: E402

# One process loads the model and makes the index.
pytestmark = pytest.mark.xdist_group("smollm2")

START, NEW = 16, 8


@pytest.fixture(scope="module")
def model(smollm2):
    return smollm2[0]


@pytest.fixture(scope="module")
def index(smollm2):
    model, tokenizer = smollm2
    texts = documents("train", 30)
    states = lss_rs.hf.collect(model, tokenizer, texts, max_tokens=2000, progress=False)
    return Index.from_linear(model.get_output_embeddings()).fit(*states, target=None, progress=False)


@pytest.fixture(scope="module")
def prompts(smollm2):
    texts = (text for _, text in demo.demo_documents("test"))
    ids = (smollm2[1](text)["input_ids"][:START] for text in texts)
    return torch.tensor(list(islice((part for part in ids if len(part) == START), 4)))


def generate(model, prompts, **options):
    options = {"do_sample": False, "max_new_tokens": NEW, **options}
    return model.generate(prompts, attention_mask=torch.ones_like(prompts), **options)


@pytest.fixture(scope="module")
def dense(model, prompts):
    """What the full layer says, greedily."""
    return generate(model, prompts)


def agreement(found, expected):
    n = min(found.shape[1], expected.shape[1])
    return (found[:, START:n] == expected[:, START:n]).float().mean()


def test_greedy_search_says_what_the_full_layer_says(model, index, prompts, dense):
    with patch(model, index):
        quick = generate(model, prompts, custom_generate=decode)
        scattered = generate(model, prompts)
    assert agreement(quick, dense) > 0.9
    assert torch.equal(quick, scattered)


HOW = {
    "temperature": {"temperature": 0.7},
    "top-k": {"top_k": 5},
    "top-p": {"top_p": 0.8},
    "min-p": {"min_p": 0.1},
    "repetition penalty": {"repetition_penalty": 1.5},
    "all": {"temperature": 1.3, "top_k": 50, "top_p": 0.95, "repetition_penalty": 1.2},
}
PROCESSORS = {
    "repetition_penalty": transformers.RepetitionPenaltyLogitsProcessor,
    "temperature": transformers.TemperatureLogitsWarper,
    "top_k": transformers.TopKLogitsWarper,
    "top_p": transformers.TopPLogitsWarper,
    "min_p": transformers.MinPLogitsWarper,
}


@pytest.mark.parametrize("options", HOW.values(), ids=HOW)
def test_samples_are_what_the_full_layer_might_say(model, index, prompts, options):
    kinds = [kind(options[name]) for name, kind in PROCESSORS.items() if name in options]
    processors = transformers.LogitsProcessorList(kinds)
    torch.manual_seed(0)
    with patch(model, index), torch.no_grad():
        said = generate(model, prompts, do_sample=True, custom_generate=decode, **{"top_k": 0, **options})
        scattered = model(said, attention_mask=torch.ones_like(said), logits_to_keep=1).logits[:, -1]
    with torch.no_grad():
        logits = model(said, attention_mask=torch.ones_like(said)).logits.float()
    likely = torch.stack(
        [
            processors(said[:, :at], logits[:, at - 1].clone()).softmax(-1).gather(1, said[:, at, None])[:, 0]
            for at in range(START, said.shape[1])
        ]
    )
    assert (likely > 0).float().mean() > 0.97
    assert likely.mean() > 0.1
    ours, theirs = (processors(said, part.clone()).softmax(-1) for part in (scattered.float(), logits[:, -1]))
    assert (ours - theirs).abs().sum(1).mean() / 2 < 0.05  # total variation


def test_penalised_greedy_search_is_the_full_layer_s(model, index, prompts):
    options = {"repetition_penalty": 1.3}
    expected = generate(model, prompts, **options)
    with patch(model, index):
        found = generate(model, prompts, custom_generate=decode, **options)
    assert not torch.equal(expected, generate(model, prompts))
    assert agreement(found, expected) > 0.9


@pytest.mark.parametrize("custom", [None, decode], ids=["scattered", "decode"])
def test_a_text_stops_where_it_is_asked_to(model, index, prompts, dense, custom):
    end = int(dense[0, START + 4])
    first = dense[0, START:].tolist().index(end)
    with patch(model, index):
        found = generate(model, prompts[:1], eos_token_id=end, custom_generate=custom)
    assert found[0].tolist() == dense[0, : START + first + 1].tolist()


def test_what_was_saved_says_the_same(model, index, prompts, tmp_path):
    with patch(model, index):
        expected = generate(model, prompts[:2], custom_generate=decode)
        model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    with patch(again, tmp_path) as patched:
        assert again.get_input_embeddings().weight is patched.head.weight
        assert torch.equal(generate(again, prompts[:2], custom_generate=decode), expected)
    assert not isinstance(again.get_output_embeddings(), LSSLinear)

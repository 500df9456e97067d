"""The page on language models, and the README's lines on them, run as they stand, with a real model."""

import re
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import lss_rs.hf  # noqa: E402
from conftest import documents  # noqa: E402
from lss_rs import Index, demo  # noqa: E402
from lss_rs.torch import LSSLinear  # noqa: E402

pytestmark = pytest.mark.xdist_group("smollm2")

ROOT = Path(__file__).parents[1]


def blocks(path):
    return re.findall(r"^```python\n(.*?)^```", path.read_text(encoding="utf-8"), re.M | re.S)


def test_the_page_runs(smollm2, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "load_smollm2", lambda: smollm2)
    prompts = [text[:60] for text in documents("test", 3)]
    scope = {"texts": documents("train", 24), "prompts": prompts}
    page = ROOT / "docs" / "models.md"
    found = blocks(page)
    assert len(found) == 7
    try:
        for block in found:
            exec(compile(block, str(page), "exec"), scope)
    finally:
        if "patched" in scope:
            scope["patched"].remove()
    assert (tmp_path / "patched" / lss_rs.hf.INDEX_FILE).is_file()
    assert scope["shards"].n >= 1200
    assert not scope["index"].operating_point.exact  # else the page is about the full layer
    assert not scope["candidates"].all()
    assert isinstance(scope["again"].get_output_embeddings(), LSSLinear)
    assert scope["tokens"].shape[0] == len(prompts)
    assert (scope["logits"] == -torch.inf).any()
    told = dict(re.findall(r"^(.*): ([\d.]+)$", capsys.readouterr().out, re.M))
    assert float(told["identical tokens"]) > 0.5
    assert float(told["probability of the candidates"]) > 0.8
    dense = torch.nn.functional.linear(scope["queries"], smollm2[0].get_output_embeddings().weight).topk(1)
    assert (scope["labels"][:, :1] == dense.indices).float().mean() > 0.9


def test_the_lines_of_the_readme_run(smollm2):
    (block,) = (block for block in blocks(ROOT / "README.md") if "lss_rs.hf" in block)
    model, tokenizer = smollm2
    inputs = tokenizer("A dictionary in Python is", return_tensors="pt")
    scope = {"Index": Index, "model": model, "tokenizer": tokenizer, "inputs": inputs}
    scope["texts"] = documents("train", 24)
    exec(compile(block, "README.md", "exec"), scope)
    assert not scope["index"].operating_point.exact
    expected = model.generate(**inputs, max_new_tokens=2)
    assert scope["tokens"][0, : expected.shape[1] - 1].tolist() == expected[0, :-1].tolist()
    assert not isinstance(model.get_output_embeddings(), LSSLinear)

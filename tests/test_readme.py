"""The README's Python runs as it stands, block after block, in a folder of its own."""

import re
from pathlib import Path

import numpy as np
import pytest

import lss_rs

README = Path(__file__).parents[1] / "README.md"


def test_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.M | re.S)
    assert len(blocks) == 3
    scope = {}
    for block in blocks[:2]:  # that on language models has test_models_page.py
        exec(compile(block, str(README), "exec"), scope)
    assert (tmp_path / "head.safetensors").is_file()
    assert scope["labels"].shape == (5,)
    assert len(scope["indptr"]) == 4


def test_learning_page_runs(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    text = (README.parent / "docs" / "learning.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    rng = np.random.default_rng(0)
    W, Q = (rng.standard_normal((n, 16), dtype=np.float32) for n in (900, 4000))
    index = lss_rs.Index.from_weights(W).fit(Q[:3000], target=None, progress=False)
    scope = {"lss_rs": lss_rs, "index": index, "Q_held_out": Q[3000:], "Y_held_out": None}
    exec(compile(block, "learning.md", "exec"), scope)
    assert index.operating_point == scope["report"].best


def test_traffic_page_runs():
    text = (README.parent / "docs" / "traffic.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    rng = np.random.default_rng(0)
    W, Q, other = (rng.standard_normal((n, 16), dtype=np.float32) for n in (900, 3000, 200))
    scope = {"Index": lss_rs.Index, "W": W, "b": np.zeros(900, np.float32), "Q_prose": Q}
    scope |= {"q_code": other[0], "Q_code": other, "Y_code": np.arange(200), "Q_today": -other}
    exec(compile(block, "traffic.md", "exec"), scope)
    assert scope["found"].stats["trust"].shape == (200,)


def test_readme_names_commands_that_exist():
    from lss_rs import cli

    text = README.read_text(encoding="utf-8")
    commands = {command.name or command.callback.__name__ for command in cli.app.registered_commands}
    assert set(re.findall(r"^lss-rs (\w+)", text, re.M)) <= commands
    makefile = (README.parent / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"`?make (\w+)", text):
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_documents_are_finished():
    for path in (README, README.parent / "CHANGELOG.md", *README.parent.glob("docs/*.md")):
        assert not re.search(r"^@[A-Z]+@$", path.read_text(encoding="utf-8"), re.M), path

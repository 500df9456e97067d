"""The demo: a language model's head and an index side by side, and a text written with either.

Needs the extra ``demo``; torch and transformers are imported when they are called.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from lss_rs import FormatError, __version__, _core, get_num_threads
from lss_rs._arrays import QueryRows, as_labels
from lss_rs._evaluate import Clock, TorchLayer, evaluate, full_answers, step
from lss_rs.config import LSSConfig
from lss_rs.demo import build_demo_data, load_smollm2, write_json, write_npy
from lss_rs.index import Index

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from numpy.typing import NDArray

    from lss_rs.demo import DemoData

_STRETCH = 512
"""Tokens of the demo resampled as a whole: a document's resemble each other, and a window has so many."""

_DEMO_KS = [1, 5]
_PROMPT = "A dictionary in Python is"


def demo_report(cache: Path | None = None) -> dict[str, Any]:
    """Build or load the demo's data and index, compare, and write a text with either layer.

    Parameters
    ----------
    cache : path, optional
        As of :func:`lss_rs.demo.build_demo_data`.

    Returns
    -------
    dict
        What :func:`evaluate` returns, the model's own words, and where the time went.
    """
    clock = Clock()
    data = build_demo_data(cache)
    folder = Path(cast("np.memmap[Any, Any]", data.W).filename or "").parent
    seconds = {"data": clock()}
    top = max(_DEMO_KS)
    index = fitted_index(data, folder, k=top)
    seconds["index"] = clock()
    rows = QueryRows(data.Q_test, index.d)
    kept = derived_file(folder, "full.npy", top)
    if not kept.is_file():
        write_npy(kept, full_answers(index, rows, top))
    with step("loading the model"):
        model, tokenizer = kept_model(folder)
    seconds["model"] = clock()
    layer = TorchLayer(model.get_output_embeddings(), get_num_threads())
    truth = as_labels(data.y_test, rows.n, index.m)
    stretches = np.arange(rows.n) // _STRETCH
    report = evaluate(index, rows, truth, _DEMO_KS, groups=stretches, full=np.load(kept), layer=layer)
    seconds["comparison"] = clock()
    prompt = tokenizer(_PROMPT)["input_ids"]
    texts = []
    for pick in (
        lambda state: layer.one(state, 1).indices,
        lambda state: index.search(state, 1, on_short="exact").labels[0],
    ):
        with step("writing"):
            texts.append(generate(model, prompt, pick, stop=[tokenizer.eos_token_id]))
    seconds["generation"] = clock()
    full, ours = texts
    return {
        "model": "SmolLM2-135M",
        "m": index.m,
        "d": index.d,
        "train_queries": len(data.Q_train),
        "folder": str(folder),
        "stretch": _STRETCH,
        **report,
        "generation": {
            "prompt": _PROMPT,
            "full": tokenizer.decode(full),
            "index": tokenizer.decode(ours),
            "tokens": len(full),
            "identical": shared_prefix(full, ours),
        },
        "seconds": seconds,
    }


def derived_file(folder: Path, name: str, *parts: Any) -> Path:
    """Name a file for what is computed from a folder's data: another name for other data, parts or version.

    If the file is not there yet, those that it replaces are removed.

    Parameters
    ----------
    folder : path
        Of :func:`build_demo_data`.
    name : str
        Such as ``index.safetensors``.
    *parts
        What it depends on besides, for ``json.dumps``.
    """
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    key = json.dumps([__version__, _core.FORMAT_VERSION, manifest, *parts], sort_keys=True)
    stem, _, suffix = name.partition(".")
    path = folder / f"{stem}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.{suffix}"
    if not path.is_file():
        for other in folder.glob(f"{stem}-*.{suffix}"):
            other.unlink()
    return path


def kept_model(folder: Path) -> tuple[Any, Any]:
    """Load SmolLM2-135M and its tokenizer from a copy that takes a second, where the GGUF takes many.

    Parameters
    ----------
    folder : path
        Where the copy, of 540 MB, is kept.
    """
    import torch
    import transformers
    from safetensors.torch import save_model

    done, home = derived_file(folder, "model.json", transformers.__version__), folder / "model"
    if not done.is_file():  # the last to be written
        model, tokenizer = load_smollm2()
        for part in (model.config, model.generation_config, tokenizer):
            part.save_pretrained(home)
        config = json.loads((home / "config.json").read_text(encoding="utf-8"))
        config.pop("quantization_config", None)  # its weights are no longer
        write_json(home / "config.json", config)
        save_model(model, str(home / "model.safetensors"), metadata={"format": "pt"})
        write_json(done, {"model": str(home)})
        return model, tokenizer
    load = {"local_files_only": True}
    model = transformers.AutoModelForCausalLM.from_pretrained(home, dtype=torch.float32, **load)
    return model.eval(), transformers.AutoTokenizer.from_pretrained(home, **load)


def fitted_index(data: DemoData, folder: Path, config: LSSConfig | None = None, *, k: int = 5) -> Index:
    """Fit an index to the training queries and labels, or load the one that was.

    Parameters
    ----------
    data : DemoData
    folder : path
        Where the data is kept, and so the index.
    config : LSSConfig, optional
    k : int, default 5
        Answers that searches will ask for.
    """
    config = LSSConfig() if config is None else config
    (m, d), n = data.W.shape, len(data.Q_train)
    resolved = config.resolve(m, d, n, k)  # so that other defaults are another index
    path = derived_file(folder, "index.safetensors", config.to_json(), resolved.to_json(), k)
    try:
        return Index.load(path)
    except (FileNotFoundError, FormatError):
        index = Index.from_weights(data.W, data.b, config)
        index.fit(data.Q_train, data.y_train, k=k).save(path)
        return index


def generate(
    model: Any,
    prompt: Sequence[int],
    pick: Callable[[NDArray[np.float32]], int],
    *,
    n_tokens: int = 40,
    stop: Collection[int] = (),
) -> list[int]:
    """Continue a prompt, with any output layer on top of a model's own layers.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        A causal language model on the CPU; its output layer is not run.
    prompt : sequence of int
        Token ids, at least one.
    pick : callable
        Chooses the next token from the final hidden state (d,).
    n_tokens : int
        Tokens to generate at most.
    stop : collection of int
        Tokens after which nothing comes.

    Returns
    -------
    list of int
        The new tokens.
    """
    import torch
    from transformers import DynamicCache

    tokens: list[int] = []
    new = list(prompt)
    # transformers renames the argument; either way the cache grows in place
    known = inspect.signature(model.base_model.forward).parameters
    cache = {"cache" if "cache" in known else "past_key_values": DynamicCache()}
    with torch.inference_mode():
        while len(tokens) < n_tokens and not (tokens and tokens[-1] in stop):
            output = model.base_model(input_ids=torch.tensor([new]), use_cache=True, **cache)
            new = [int(pick(output.last_hidden_state[0, -1].numpy()))]
            tokens += new
    return tokens


def shared_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """Count the tokens until two texts part.

    Parameters
    ----------
    a, b : sequence of int
    """
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))

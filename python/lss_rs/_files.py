"""Reading the command line's inputs: matrices and labels out of files, without running anything in them.

A matrix is named by its path; ``path:key`` names one of the several that an .npz or safetensors file holds.
Needs numpy alone, but safetensors for its files and scipy for sparse ones.
"""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lss_rs._arrays import Labels, _widen

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

_LARGEST = np.iinfo(np.int64).max


def read_matrix(spec: str) -> tuple[NDArray[Any], str]:
    """Read an array of any type from an .npy, .npz or safetensors file.

    Parameters
    ----------
    spec : str
        ``path``, or ``path:key`` where the file holds several.

    Returns
    -------
    array : ndarray
        Mapped, not read, from .npy. A sparse matrix is made dense. bfloat16, which numpy has not, is
        widened to float32, which loses nothing.
    dtype : str
        What the file stores.

    Raises
    ------
    OSError
        If the file is not there or cannot be read.
    ImportError
        If it takes a package that is not installed.
    ValueError
        If it is damaged, of another format, or does not say which array is meant.
    """
    path, key = _split(spec)
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        return _read_safetensors(path, key)
    if suffix == ".npz":
        array = _read_npz(path, key)
        if not isinstance(array, np.ndarray):  # sparse
            array = array.toarray()
    elif suffix == ".npy":
        array = _read_npy(path, key)
    else:
        raise ValueError(f"{path}: expected .npy, .npz or .safetensors, got {suffix or 'no suffix'}.")
    return array, array.dtype.name


def read_labels(spec: str) -> Any:
    """Read true labels, in a form that :func:`lss_rs._arrays.as_labels` takes.

    Parameters
    ----------
    spec : str
        One of: an .npy, .npz or safetensors file of label ids, (n,) or (n, t); an .npz that holds a sparse
        (n, m) matrix, or arrays ``indptr`` and ``indices``; ``prefix``, where ``prefix_indptr.npy`` and
        ``prefix_indices.npy`` are; XMC text of any other name, see :func:`parse_xmc`.

    Raises
    ------
    OSError, ImportError, ValueError
        As :func:`read_matrix`; ValueError names the line where text is wrong.
    """
    pair = [Path(f"{spec}_{part}.npy") for part in ("indptr", "indices")]
    if not Path(spec).is_file() and pair[0].is_file():
        return _csr(spec, *map(_read_npy, pair))
    path, key = _split(spec)
    suffix = path.suffix.lower()
    if suffix == ".npz":
        return _read_npz(path, key, labels=True)
    if suffix in (".npy", ".safetensors"):
        return read_matrix(spec)[0]
    try:
        with path.open(encoding="utf-8") as file:
            return parse_xmc(file, str(path))
    except UnicodeDecodeError:
        raise ValueError(f"{path}: expected .npy, .npz, .safetensors or XMC text, got bytes.") from None


def parse_xmc(lines: Iterable[str], where: str) -> Labels:
    """Parse labels from the text formats of the extreme classification repository.

    Parameters
    ----------
    lines : iterable of str
        One a query: ``3,17`` or ``3:1.0,17:0.5``, and perhaps the query's features after a blank, as in
        ``3,17 0:0.1 8:0.7``, which are not read. No labels is an empty line, or one that starts with a blank.
        A label with the value 0 is none. A header may come first: ``n m`` (queries, labels), after which
        labels may be parted by blanks too, for features cannot follow; or ``n d m`` (queries, features,
        labels).
    where : str
        Name of the file, for messages.

    Returns
    -------
    Labels
        As they stand: neither sorted, nor each once.

    Raises
    ------
    ValueError
        If a line is none of this; the message names file and line.

    Examples
    --------
    >>> from lss_rs._files import parse_xmc
    >>> indptr, indices = parse_xmc(["3,17 0:0.1 8:0.7", "", "4:1.0"], "Y.txt")
    >>> indptr.tolist(), indices.tolist()
    ([0, 2, 2, 3], [3, 17, 4])
    """
    ends, ids = [0], []
    header: list[int] = []
    limit = _LARGEST
    for number, line in enumerate(lines, 1):
        place = f"{where}, line {number}"
        text = line.rstrip()
        if number == 1 and len(fields := text.split()) in (2, 3) and all(map(_is_id, fields)):
            header = [int(field) for field in fields]
            limit = min(header[-1], _LARGEST)
            continue
        if len(header) == 2:
            items = text.replace(",", " ").split()
        else:
            head, *features = ["", text] if text[:1].isspace() else text.split(maxsplit=1) or [""]
            items = head.split(",") if head else []
            # Where labels are parted by blanks, the second must not pass for a feature and be lost.
            if features and (":" in head or not all(":" in part for part in features[0].split())):
                raise ValueError(
                    f"{place}: expected labels parted by commas, then perhaps features as id:value, "
                    f"got {_short(text)}. Labels parted by blanks need a first line 'n m'."
                )
        for item in items:
            label, colon, value = item.strip().partition(":")
            if not _is_id(label) or (colon and not _is_number(value)):
                raise ValueError(f"{place}: expected a label id, or id:value, got {_short(item)}.")
            if int(label) >= limit:
                raise ValueError(f"{place}: expected label ids below {limit}, got {label}.")
            if not colon or float(value):
                ids.append(int(label))
        ends.append(len(ids))
    n = len(ends) - 1
    if header and header[0] != n:
        raise ValueError(f"{where}: expected {header[0]} lines, as its first one says, got {n}.")
    return Labels(np.array(ends, np.int64), np.array(ids, np.int64))


def check_output(path: Path) -> None:
    """Refuse a path that no file can be written to: better before the work than after it."""
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent} is not a folder to write {path.name} into")
    if path.exists() and not path.is_file():
        raise OSError(f"{path} is there and is no regular file")


def write_answers(path: Path, labels: NDArray[np.int64], scores: NDArray[np.float32]) -> None:
    """Write answers to an .npz file, whole or not at all, as ``labels`` and ``scores``.

    Parameters
    ----------
    path : path
        Kept as it is, whatever its suffix.
    labels, scores : ndarray
    """
    check_output(path)
    if path.exists():
        path = path.resolve()  # a link stays
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            np.savez(file, labels=labels, scores=scores)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _split(spec: str) -> tuple[Path, str | None]:
    """Part ``path:key``; a path that exists has none, colons or not."""
    head, colon, key = spec.rpartition(":")
    if not Path(spec).exists() and colon and Path(head).is_file():
        return Path(head), key
    return Path(spec), None


@contextmanager
def _reading(path: Path, kind: str) -> Iterator[None]:
    """Say of every way in which a file can be damaged that it is."""
    try:
        yield
    except (EOFError, KeyError, NotImplementedError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path}: not a readable {kind} file ({_line(error)}).") from None


def _read_npy(path: Path, key: str | None = None) -> NDArray[Any]:
    if key is not None:
        raise ValueError(f"{path}: expected no key, for it holds one array, got {key!r}.")
    with _reading(path, ".npy"):
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


def _read_npz(path: Path, key: str | None, *, labels: bool = False) -> Any:
    """Return an array, a scipy matrix or, of labels, a CSR pair."""
    with _reading(path, ".npz"):
        file = np.load(path, allow_pickle=False)
    if isinstance(file, np.ndarray):  # whatever its name says
        return _read_npy(path, key)
    with file:
        if key is None and {"format", "shape"} <= set(file.files):
            sparse = _sparse()
            with _reading(path, ".npz"):
                return sparse.load_npz(path)
        if key is None and labels and {"indptr", "indices"} <= set(file.files):
            with _reading(path, ".npz"):
                pair = file["indptr"], file["indices"]
            return _csr(str(path), *pair)
        name = _choose(path, key, file.files)
        with _reading(path, ".npz"):
            return file[name]


def _read_safetensors(path: Path, key: str | None) -> tuple[NDArray[Any], str]:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError:
        raise ImportError(
            f"{path}: safetensors is not installed, install it with: pip install 'lss-rs[cli]'"
        ) from None
    try:
        with safe_open(path, framework="numpy") as file:
            name = _choose(path, key, list(file.keys()))
            dtype = file.get_slice(name).get_dtype()
            if dtype == "BF16":
                return _widen(_bits(path, name), "bfloat16"), "bfloat16"
            array: NDArray[Any] = file.get_tensor(name)
    except SafetensorError as error:
        raise ValueError(f"{path}: not a readable safetensors file ({_line(error)}).") from None
    except (AttributeError, TypeError):  # a type that numpy has no name for
        raise ValueError(f"{path}: expected {name!r} to be of floats or ints, got {dtype}.") from None
    return array, array.dtype.name


def _bits(path: Path, name: str) -> NDArray[np.uint16]:
    """Read a tensor of 16-bit values, as they are, from a safetensors file found sound."""
    with path.open("rb") as file:
        entry = json.loads(file.read(int.from_bytes(file.read(8), "little")))[name]
        first, end = entry["data_offsets"]
        file.seek(first, os.SEEK_CUR)
        return np.fromfile(file, "<u2", (end - first) // 2).reshape(entry["shape"])


def _choose(path: Path, key: str | None, names: Sequence[str]) -> str:
    if key is not None and key in names:
        return key
    if key is None and len(names) == 1:
        return names[0]
    shown = ", ".join(sorted(names)[:10]) + (", ..." if len(names) > 10 else "")
    wanted = f"one of its arrays as {path}:KEY" if key is None else f"a key of the file, got {key!r}"
    raise ValueError(f"{path}: expected {wanted}; it holds {shown or 'nothing'}.")


def _sparse() -> Any:
    try:
        from scipy import sparse
    except ImportError:
        raise ImportError("a sparse .npz needs scipy, install it with: pip install scipy") from None
    return sparse


def _csr(where: str, indptr: NDArray[Any], indices: NDArray[Any]) -> Labels:
    good = all(part.ndim == 1 and part.dtype.kind in "iu" for part in (indptr, indices)) and len(indptr) > 0
    if not good or indptr[0] != 0 or indptr[-1] != len(indices) or (indptr[1:] < indptr[:-1]).any():
        got = ", ".join(f"{part.dtype} {part.shape}" for part in (indptr, indices))
        raise ValueError(f"{where}: expected ints, indptr rising from 0 to the number of indices, got {got}.")
    return Labels(indptr.astype(np.int64), indices.astype(np.int64))


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 20


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:40]}...")


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".")

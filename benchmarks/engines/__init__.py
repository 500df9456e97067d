"""What is compared: an engine a file, found by its name, and its grid of settings in a TOML file beside it.

A file here joins by itself: its class named ``Engine`` is built and searched with every setting of its grid,
``NAME.toml``, and it has a row a setting in the tables. README.md says how to add one.
"""

from __future__ import annotations

import importlib
import math
import pkgutil
import re
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from benchmarks.bundles import Labels
from benchmarks.definitions import parse

__all__ = [
    "BaseEngine",
    "Data",
    "Grid",
    "Setting",
    "Work",
    "grids",
    "load_engine",
    "names",
]

FOLDER = Path(__file__).parent


class Data(NamedTuple):
    """What an engine may be built from: rows W (m, d), bias b (m,), training queries Q (n, d), labels Y."""

    W: np.ndarray
    b: np.ndarray
    Q: np.ndarray
    Y: Labels


class Work(NamedTuple):
    """What a query costs at the present setting, on average; None where the engine does not tell."""

    sample: float | None
    """Rows of which something is computed (a logit, or an estimate of one): the paper's sample size."""
    bytes_read: float | None
    """Bytes of the index that are read, counted as if nothing of them was in a cache."""
    escalated: float | None = None
    """Share of the queries for which the index goes on beyond its first answer."""


class BaseEngine(ABC):
    """A way to answer queries. It is built in a process of its own, on the threads given.

    Parameters
    ----------
    data : Data
        Memory-mapped, read-only.
    num_threads : int
        For building.
    **build
        Settings of the grid, as :meth:`Grid.resolve` returns them.
    """

    title: ClassVar[str]
    """As tables name it: "faiss IVF flat"."""
    library: ClassVar[str | None] = None
    """The distribution it is made of ("faiss-cpu"), whose version is recorded; None for this package."""
    sees: ClassVar[str] = "rows"
    """"rows", or "rows, queries" where training queries are used too."""
    kind: ClassVar[str] = "peer"
    """"full" (every logit, exact or rounded), "peer", or "ours"."""
    observes: ClassVar[bool] = False
    """Whether it learns from queries that it is asked."""

    @abstractmethod
    def __init__(self, data: Data, num_threads: int, **build: Any) -> None: ...

    def configure(self, **search: Any) -> None:
        """Choose a setting of search."""
        if search:
            raise TypeError(f"{self.title} has no setting of search. Got {search}.")

    def set_num_threads(self, n: int) -> None:  # noqa: B027 - nothing to do where a library has no threads
        """Answer on so many threads from now on."""

    def prepare(self, Q: np.ndarray) -> Any:
        """Bring queries (n, d), float32 and contiguous, into the form that is searched. Not timed.

        Whatever it returns can be indexed for :meth:`one` and sliced for :meth:`batch`.
        """
        return Q

    def observe(self, Q: np.ndarray) -> None:
        """Learn from queries (n, d) that are served."""
        raise TypeError(f"{self.title} does not learn from queries that it is asked.")

    def refresh(self, Q: np.ndarray, **how: Any) -> None:
        """Find anew what keeps a target, on queries (n, d) served, and learn from them."""
        raise TypeError(f"{self.title} does not learn from queries that it is asked.")

    def forget(self) -> None:
        """Go back to what it was when built."""
        raise TypeError(f"{self.title} does not learn from queries that it is asked.")

    @abstractmethod
    def one(self, q: Any, k: int) -> Any:
        """Answer one prepared query: the k best. Timed."""

    @abstractmethod
    def batch(self, Q: Any, k: int) -> Any:
        """Answer prepared queries. Timed."""

    @abstractmethod
    def labels(self, answer: Any) -> np.ndarray:
        """Labels (n, k) in what ``one`` (n = 1) or ``batch`` returned, best first, -1 for none. Not timed."""

    @abstractmethod
    def size(self) -> int:
        """Bytes that the index holds and reads from, rows included where answers need them."""

    def work(self, Q: Any) -> Work:
        """Tell what these prepared queries (n, ...) cost on average at the present setting."""
        return Work(None, None)

    def stages(self) -> dict[str, float]:
        """Return the seconds of building by stage, where the engine tells."""
        return {}

    def candidates(self, Q: Any) -> Labels | None:
        """Labels in the sample of each of these prepared queries, where the engine can list them."""
        return None


class Setting(NamedTuple):
    """How an engine is searched."""

    search: dict[str, Any]
    documented: str
    """Whose recommendation this is, in a few words; empty for a setting beside the recommended ones."""


class Grid(NamedTuple):
    """One build of an engine, and the settings it is searched with."""

    build: dict[str, Any]
    settings: list[Setting]

    @classmethod
    def read(cls, table: dict[str, Any]) -> Grid:
        """Read a table of a TOML file: "build", and "search" with "documented" beside its settings."""
        settings = [
            Setting({k: v for k, v in search.items() if k != "documented"}, search.get("documented", ""))
            for search in table.get("search", [{}])
        ]
        return cls(table.get("build", {}), settings)

    def resolve(self, m: int, d: int) -> Grid:
        """Sizes put in: a text such as "4 sqrt(m)" or "0.5 d" becomes a whole number, at least 1."""

        def number(value: Any) -> Any:
            if not isinstance(value, str):
                return value
            match = re.fullmatch(r"([0-9.]+) (m|d|sqrt\(m\))", value)
            if not match:
                return value
            return max(1, round(float(match[1]) * {"m": m, "d": d, "sqrt(m)": math.sqrt(m)}[match[2]]))

        def numbers(values: dict[str, Any]) -> dict[str, Any]:
            return {name: number(value) for name, value in values.items()}

        settings = [setting._replace(search=numbers(setting.search)) for setting in self.settings]
        return Grid(numbers(self.build), settings)


def names() -> list[str]:
    """Name every engine there is."""
    found = (module.name for module in pkgutil.iter_modules([str(FOLDER)]))
    return sorted(name for name in found if not name.startswith("_"))


def load_engine(name: str) -> type[BaseEngine]:
    """Import an engine, and with it the library it is made of.

    Raises
    ------
    ImportError
        If that library is not installed.
    """
    engine = importlib.import_module(f"benchmarks.engines.{name}").Engine
    assert issubclass(engine, BaseEngine)
    return engine


def grids(name: str, size: str = "grid") -> list[Grid]:
    """Read an engine's grid; an engine without a file has one setting: no options.

    Parameters
    ----------
    name : str
    size : {"grid", "smoke"}
        "smoke": a few settings for tiny data.
    """
    path = FOLDER / f"{name}.toml"
    tables = parse(path)[size] if path.is_file() else [{}]
    return [Grid.read(table) for table in tables]

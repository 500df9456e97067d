"""One build of one engine in a process of its own, commanded from outside.

Libraries bring thread pools and allocators that disturb each other in one process, and the memory a build
needs is only known of a process. A worker sleeps between commands, so the machine belongs to one at a time.
"""

from __future__ import annotations

import gc
import multiprocessing
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.bundles import load
from benchmarks.engines import Data, load_engine
from benchmarks.machine import anonymous_memory, cpus, pin
from lss_rs.metrics import label_recall

__all__ = ["Answers", "Built", "EngineError", "Worker"]

BLOCK = 1024
_WARM = 5
"""Queries asked before the clock runs: the engine before left the caches full of its own index."""
_FEW, _WARM_BATCHES = 64, 20_000_000
"""Batches of so many, asked for so many nanoseconds before the clock runs: threads have slept meanwhile."""
_TIMED = 4096


class EngineError(RuntimeError):
    """An engine cannot be built or searched; the message says which and why."""


class Built(NamedTuple):
    """What building took."""

    title: str
    kind: str
    sees: str
    library: str | None
    seconds: float
    size: int
    stages: dict[str, float]
    """Seconds of parts of that, where the engine tells."""
    observes: bool
    """Whether it learns from queries that it is asked."""
    peak_bytes: int
    """Beyond what the process held before; sampled from outside."""


class Answers(NamedTuple):
    """What one setting answers to all queries."""

    labels: np.ndarray
    label_recall: float | None
    sample: float | None
    bytes_read: float | None
    escalated: float | None


class Worker:
    """An engine's process.

    Parameters
    ----------
    name : str
        File in engines/.
    build : dict
        Settings of the build.
    path : Path
        Bundle. Its test queries are asked until :meth:`ask` turns to others.
    """

    def __init__(self, name: str, build: dict[str, Any], path: Path) -> None:
        self.name, self.build_settings = name, build
        context = multiprocessing.get_context("spawn")
        self._pipe, far = context.Pipe()
        self._process = context.Process(target=_serve, args=(far, name, build, path), daemon=True)
        self._process.start()
        far.close()

    def start(self) -> Built:
        """Build; waits until it is done.

        Raises
        ------
        EngineError
            If it cannot be built here.
        """
        self._receive()  # imported, nothing built yet
        before = peak = anonymous_memory(self._pid)
        self._pipe.send(("build", {}))
        while not self._pipe.poll(0.02):
            peak = max(peak, anonymous_memory(self._pid))
        return Built(*self._receive(), peak - before)

    def answer(self, search: dict[str, Any], k: int) -> Answers:
        """Answer every query on all processors; checks that single answers are those of the batch."""
        return self._call("answer", search=search, k=k)

    def one(self, search: dict[str, Any], k: int, threads: int, seconds: float, turn: int) -> np.ndarray:
        """Microseconds of queries asked one by one for about so long, from another place each turn."""
        return self._call("one", search=search, k=k, threads=threads, seconds=seconds, turn=turn)

    def batch(self, search: dict[str, Any], k: int, threads: int, size: int, seconds: float) -> np.ndarray:
        """Microseconds a query of batches asked for about so long, at least one."""
        return self._call("batch", search=search, k=k, threads=threads, size=size, seconds=seconds)

    def ask(self, path: Path, split: str) -> None:
        """Turn to the queries of another bundle over the same layer."""
        self._call("ask", path=path, split=split)

    def observe(self, path: Path, first: int, last: int) -> None:
        """Learn from so many training queries of another bundle over the same layer."""
        self._call("observe", path=path, first=first, last=last)

    def refresh(self, path: Path, first: int, last: int, **how: Any) -> None:
        """Find anew what keeps a target on so many of them, and learn from these, too."""
        self._call("refresh", path=path, first=first, last=last, **how)

    def forget(self) -> None:
        """Go back to what was built."""
        self._call("forget")

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()
        self._pipe.close()

    @property
    def _pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def _call(self, command: str, **arguments: Any) -> Any:
        self._pipe.send((command, arguments))
        return self._receive()

    def _receive(self) -> Any:
        try:
            failed, answer = self._pipe.recv()
        except EOFError:
            self._process.join()
            raise EngineError(f"{self.name}: the process ended with {self._process.exitcode}") from None
        if failed:
            raise EngineError(f"{self.name} {self.build_settings}: {answer}")
        return answer


def _serve(pipe: Connection, name: str, build: dict[str, Any], path: Path) -> None:
    """Do what is asked until the other side is gone."""
    try:
        served = _Served(name, build, path)
        pipe.send((False, None))
        while True:
            command, arguments = pipe.recv()
            pipe.send((False, getattr(served, command)(**arguments)))
    except EOFError:
        pass
    except Exception as error:
        pipe.send((True, f"{type(error).__name__}: {error}"))


class _Served:
    """The worker's side: a method a command."""

    def __init__(self, name: str, build: dict[str, Any], path: Path) -> None:
        self._cpus = cpus()
        self._engine_type = load_engine(name)
        self._build_settings, self._path = build, path

    def build(self) -> tuple[Any, ...]:
        data = Data(*load(self._path, "train"))
        start = time.perf_counter()
        self._engine = self._engine_type(data, len(self._cpus), **self._build_settings)
        seconds = time.perf_counter() - start
        self.ask(self._path, "test")
        engine = self._engine
        return (
            engine.title,
            engine.kind,
            engine.sees,
            engine.library,
            seconds,
            engine.size(),
            engine.stages(),
            engine.observes,
        )

    def ask(self, path: Path, split: str) -> None:
        W, _, Q, self._truth = load(path, split)
        Q = np.ascontiguousarray(Q, np.float32)
        self._n, self._m = len(Q), len(W)
        self._queries = self._engine.prepare(Q)
        # Neighbours in a document are alike: a random order is kinder to nobody's caches.
        order = np.random.default_rng(0).permutation(self._n)
        self._timed = self._engine.prepare(np.ascontiguousarray(Q[np.resize(order, _TIMED)]))

    def observe(self, path: Path, first: int, last: int) -> None:
        Q = load(path, "train").Q
        for lo in range(first, last, BLOCK):
            self._engine.observe(np.ascontiguousarray(Q[lo : min(lo + BLOCK, last)], np.float32))

    def refresh(self, path: Path, first: int, last: int, **how: Any) -> None:
        Q = load(path, "train").Q
        self._engine.refresh(np.ascontiguousarray(Q[first:last], np.float32), **how)

    def forget(self) -> None:
        self._engine.forget()

    def _set(self, search: dict[str, Any], threads: int) -> None:
        self._engine.configure(**search)
        self._engine.set_num_threads(threads)
        pin(self._cpus[:threads])

    def answer(self, search: dict[str, Any], k: int) -> Answers:
        self._set(search, len(self._cpus))
        engine, queries = self._engine, self._queries
        blocks = [slice(lo, min(lo + BLOCK, self._n)) for lo in range(0, self._n, BLOCK)]
        labels = np.concatenate([engine.labels(engine.batch(queries[block], k)) for block in blocks])
        self._check(labels, k)
        some = queries[:: -(-self._n // BLOCK)]
        work = engine.work(some)
        recalls, sizes = [], []
        for block in blocks:
            candidates = engine.candidates(queries[block])
            if candidates is None:
                break
            indptr = self._truth.indptr[block.start : block.stop + 1]
            if indptr[-1] > indptr[0]:
                truth = (indptr - indptr[0], self._truth.indices[indptr[0] : indptr[-1]])
                recalls.append(label_recall(candidates, truth))
                sizes.append(np.count_nonzero(np.diff(indptr)))
        recall = float(np.average(recalls, weights=sizes)) if recalls else None
        recall = 1.0 if engine.kind == "full" else recall
        return Answers(labels, recall, work.sample, work.bytes_read, work.escalated)

    def _check(self, labels: np.ndarray, k: int) -> None:
        """Answers are labels, each once, and the same one by one as in a batch."""
        if labels.shape != (self._n, k) or labels.dtype != np.int64:
            raise ValueError(f"labels are {labels.dtype} {labels.shape}, not int64 {(self._n, k)}")
        if labels.min() < -1 or labels.max() >= self._m:
            raise ValueError("there are answers that are no labels")
        ordered = np.sort(labels, axis=1)
        if ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any():
            raise ValueError("an answer comes twice")
        some = range(0, self._n, max(1, self._n // 50))
        alone = [self._engine.labels(self._engine.one(self._queries[i], k))[0] for i in some]
        same = np.mean([len({*a} & {*b}) / len({*b}) for a, b in zip(alone, labels[some], strict=True)])
        if same < 0.95:  # equal logits may come in another order, and rounding may part them
            raise ValueError(f"only {same:.0%} of the answers to single queries are those of the batch")

    def one(self, search: dict[str, Any], k: int, threads: int, seconds: float, turn: int) -> np.ndarray:
        self._set(search, threads)
        ask, queries, now = self._engine.one, self._timed, time.perf_counter_ns
        at = turn * 1_000_003 % _TIMED
        gc.disable()
        for i in range(_WARM):
            ask(queries[(at + i) % _TIMED], k)
        taken, at, end = [], at + _WARM, now() + int(seconds * 1e9)
        while len(taken) < _WARM or now() < end:
            query = queries[at % _TIMED]
            start = now()
            ask(query, k)
            taken.append(now() - start)
            at += 1
        gc.enable()
        return np.array(taken) / 1e3

    def batch(self, search: dict[str, Any], k: int, threads: int, size: int, seconds: float) -> np.ndarray:
        self._set(search, threads)
        ask, now = self._engine.batch, time.perf_counter_ns
        end = now() + _WARM_BATCHES
        while now() < end:
            ask(self._timed[:_FEW], k)
        taken: list[int] = []
        while not taken or sum(taken) < seconds * 1e9:
            lo = len(taken) * size % (_TIMED - size + 1)
            start = now()
            ask(self._timed[lo : lo + size], k)
            taken.append(now() - start)
        return np.array(taken) / 1e3 / size

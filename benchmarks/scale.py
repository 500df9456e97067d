"""From tens of thousands of rows to millions: how time and memory grow, on synthetic rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm.auto import tqdm

from benchmarks import record
from benchmarks.bundles import load
from benchmarks.definitions import read_toml
from benchmarks.engines import Grid, Setting, grids
from benchmarks.run import K, Team, folder, head, mean, text
from benchmarks.worker import EngineError, Worker
from lss_rs.metrics import precision_at_k

__all__ = ["DEFINITION", "bundle_path", "measure"]

DEFINITION = read_toml("scale")


class _Found(NamedTuple):
    """An engine at the setting it is quoted at."""

    team: Team
    setting: Setting
    label_recall: float
    sample: float | None
    bytes_read: float | None


def bundle_path(m: int) -> Path:
    """Folder of the bundle with so many rows."""
    return folder(f"scale/{m}")


def measure(
    sizes: list[int] = DEFINITION["rows"],
    path_of: Callable[[int], Path] = bundle_path,
    grid: str = "grid",
    rounds: int = DEFINITION["rounds"],
    seconds: float = DEFINITION["seconds"],
) -> tuple[dict[str, Any], list[record.ScaleRow]]:
    """Measure the engines of scale.toml at every size.

    Parameters
    ----------
    sizes : list of int
        Numbers of rows.
    path_of : callable
        Folder of the bundle with so many rows.
    grid : {"grid", "smoke"}
        "smoke": every engine's own smoke grid in the place of scale.toml's.
    rounds : int
    seconds : float
        For one engine in one round.

    Returns
    -------
    (head, rows)
        For :func:`benchmarks.record.write`.
    """
    rows: list[record.ScaleRow] = []
    libraries: set[str | None] = set()
    for m in sizes:
        path = path_of(m)
        _, _, Q, truth = load(path, "test")
        found: list[_Found] = []
        teams: list[Team] = []
        try:
            for engine in tqdm(DEFINITION["engine"], f"{m:,} rows", unit="engine"):
                if m <= engine.get("most_rows", m):
                    found += _fit(engine, path, grid, teams, (truth.indptr, truth.indices))
            times = _time(found, rounds, seconds)
        finally:
            for team in teams:
                team.worker.stop()
        libraries |= {each.team.built.library for each in found}
        d, queries = Q.shape[1], len(load(path, "train").Q)
        rows += [
            record.ScaleRow(
                engine=each.team.built.title,
                name=each.team.worker.name,
                kind=each.team.built.kind,
                m=m,
                d=d,
                queries=queries,
                setting=text(each.team.worker.build_settings | each.setting.search),
                label_recall=each.label_recall,
                sample=each.sample,
                bytes_read=each.bytes_read,
                one_us=mean(taken),
                one_p99_us=float(np.percentile(np.concatenate(taken), 99)),
                build_s=each.team.built.seconds,
                tables_s=each.team.built.stages.get("build"),
                peak_bytes=each.team.built.peak_bytes,
                size=each.team.built.size,
            )
            for each, taken in zip(found, times, strict=True)
        ]
    about = {"target_recall": DEFINITION["target_recall"], "k": K, "rounds": rounds}
    return head(libraries) | about, rows


def _fit(
    engine: dict[str, Any], path: Path, grid: str, teams: list[Team], truth: tuple[np.ndarray, np.ndarray]
) -> list[_Found]:
    """Build an engine and find its setting; the cheap ones come first in its grid."""
    m, d = load(path, "test").W.shape
    each = (Grid.read(engine) if grid == "grid" else grids(engine["name"], grid)[0]).resolve(m, d)
    worker = Worker(engine["name"], each.build, path)
    try:
        team = Team(worker, worker.start(), each.settings)
    except EngineError as error:
        worker.stop()
        tqdm.write(f"left out: {error}")
        return []
    teams.append(team)
    best = None
    for setting in each.settings:
        answers = worker.answer(setting.search, K)
        recall = precision_at_k(answers.labels, truth, K)
        if best is None or recall > best.label_recall:
            best = _Found(team, setting, recall, answers.sample, answers.bytes_read)
        if recall >= DEFINITION["target_recall"]:
            break
    return [best] if best else []


def _time(found: list[_Found], rounds: int, seconds: float) -> list[list[np.ndarray]]:
    """Microseconds of each by round, in turns."""
    times: list[list[np.ndarray]] = [[] for _ in found]
    for turn in range(rounds):
        for each, taken in zip(found, times, strict=True):
            taken.append(each.team.worker.one(each.setting.search, K, 1, seconds, turn))
    return times

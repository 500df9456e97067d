"""One bundle, every engine: build, check the answers, then time in turns.

Builds come one after another on all processors. Answers are checked before anything is timed. Times are taken
in rounds: each asks every setting of every engine in a random order, so that a slow minute hits all alike.
"""

from __future__ import annotations

import datetime
import random
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm.auto import tqdm

from benchmarks import energy, machine, record
from benchmarks.bundles import Labels, groups, load
from benchmarks.definitions import read_toml
from benchmarks.engines import Setting, grids, names
from benchmarks.record import REFERENCE
from benchmarks.worker import Answers, Built, EngineError, Worker
from lss_rs import Index
from lss_rs.config import POINT_NUMBERS
from lss_rs.demo import cache_dir
from lss_rs.metrics import Interval, paired_bootstrap, precision_per_query

__all__ = [
    "Quality",
    "Rounds",
    "Team",
    "bundle_path",
    "folder",
    "groups_of",
    "head",
    "judge",
    "measure",
    "middle",
    "point",
    "ratio",
    "start_teams",
    "text",
]

DEFINITION = read_toml("bundles")
K: int = DEFINITION["k"]
BATCHES = (64, 1024)


class Rounds(NamedTuple):
    """How often every setting has its turn, and for how many seconds."""

    one: int
    one_seconds: float
    rest: int
    rest_seconds: float


class Quality(NamedTuple):
    """P@k and its share of the full layer's, with the ends of a 95 % interval."""

    p: float
    ratio: Interval | None


class Team(NamedTuple):
    """A built engine and the settings it will be asked with."""

    worker: Worker
    built: Built
    settings: list[Setting]


ROUNDS = Rounds(**DEFINITION["rounds"])


def folder(path: str) -> Path:
    """Folder of a bundle, or of a domain of one, in the cache."""
    return cache_dir() / "bundles" / path


def bundle_path(name: str) -> Path:
    """Folder of a bundle that bundles.toml names."""
    return folder(DEFINITION["bundle"][name]["path"])


def measure(
    path: Path,
    *,
    engines: Iterable[str] = (),
    grid: str = "grid",
    rounds: Rounds = ROUNDS,
) -> tuple[dict[str, Any], list[record.Row]]:
    """Measure engines on a bundle.

    Parameters
    ----------
    path : Path
        The bundle's folder.
    engines : iterable of str
        Files in engines/, by default all. The reference is always among them.
    grid : {"grid", "smoke"}
    rounds : Rounds

    Returns
    -------
    (head, rows)
        For :func:`benchmarks.record.write`.

    Raises
    ------
    EngineError
        If the reference cannot be built.
    """
    bundle = load(path, "test")
    teams, skipped = start_teams(path, [REFERENCE, *_others(engines)], grid)
    try:
        answers: dict[Key, Answers] = {}
        for team in tqdm(list(teams), "answers", unit="build"):
            try:
                answers |= _ask(team)
            except EngineError as error:
                teams.remove(team)
                _leave_out(team.worker, error, skipped)
        full = next(found.labels for (name, _, _), found in answers.items() if name == REFERENCE)
        unit = groups_of(path, "test")
        timings = _time(teams, rounds)
        rows = [
            _row(team, setting, answers[_key(team, i)], full, bundle.Y, unit, timings[_key(team, i)])
            for team in teams
            for i, setting in enumerate(team.settings)
        ]
    finally:
        for team in teams:
            team.worker.stop()
    about = head({team.built.library for team in teams}) | {
        "m": len(bundle.W),
        "d": bundle.W.shape[1],
        "train_queries": len(load(path, "train").Q),
        "test_queries": len(bundle.Q),
        "groups": None if unit is None else len(np.unique(unit)),
        "labels_a_query": round(len(bundle.Y.indices) / len(bundle.Q), 3),
        "k": K,
        "rounds": rounds.one,
        "skipped": skipped,
    }
    return about, rows


def head(libraries: set[str | None]) -> dict[str, Any]:
    """Say what every record says of its run."""
    return {
        "date": datetime.date.today().isoformat(),
        "command": " ".join(["python", "-m", "benchmarks", *sys.argv[1:]]),
        **machine.describe({name for name in libraries if name} | {"torch"}),
        "energy": energy.MEASURED if energy.Meter().available else energy.ESTIMATED,
    }


def start_teams(path: Path, engines: list[str], grid: str) -> tuple[list[Team], dict[str, str]]:
    """Build engines, and say why some could not be."""
    m, d = load(path, "test").W.shape
    plan = [(name, each.resolve(m, d)) for name in engines for each in grids(name, grid)]
    teams: list[Team] = []
    skipped = {}
    for name, each in tqdm(plan, "builds", unit="build"):
        worker = Worker(name, each.build, path)
        try:
            teams.append(Team(worker, worker.start(), each.settings))
        except EngineError as error:
            _leave_out(worker, error, skipped)
    return teams, skipped


def _leave_out(worker: Worker, error: EngineError, skipped: dict[str, str]) -> None:
    """Go on without an engine, and say so; without the reference nothing can be said."""
    worker.stop()
    if worker.name == REFERENCE:
        raise error
    tqdm.write(f"left out: {error}")
    skipped[worker.name] = str(error)


def judge(found: np.ndarray, full: np.ndarray, truth: Labels, k: int, unit: np.ndarray | None) -> Quality:
    """Precision at k, beside the full layer's."""
    pair = (truth.indptr, truth.indices)
    ours, theirs = (precision_per_query(labels, pair, k) for labels in (found, full))
    ratio = paired_bootstrap(ours, theirs, groups=unit) if len(ours) > 1 else None
    return Quality(float(ours.mean()), ratio)


def text(settings: dict[str, Any]) -> str:
    """Write settings for people: "nlist=887, spherical=True"."""
    return ", ".join(f"{name}={value}" for name, value in settings.items())


def point(index: Index) -> str:
    """Write how much a search of an index does, but for how it trusts."""
    at = index.operating_point
    numbers = {name: getattr(at, name) for name in (*POINT_NUMBERS, "exact", "reach", "n_scan")}
    if at.list is not None:
        numbers |= {"n_listed": at.list.n_listed, "n_rescore of lists": at.list.n_rescore}
        if at.list.first is not None:
            numbers |= {"n_listed at first": at.list.first.n_listed}
    return text(numbers)


Key = tuple[str, str, int]


def _key(team: Team, setting: int) -> Key:
    return team.worker.name, text(team.worker.build_settings), setting


def _others(engines: Iterable[str]) -> list[str]:
    return [name for name in engines or names() if name != REFERENCE]


def groups_of(path: Path, split: str) -> np.ndarray | None:
    """Numbers of the documents that intervals resample; None where there are no documents."""
    try:
        unit = groups(path, split)
    except FileNotFoundError:  # a user's own bundle need not have documents
        return None
    return unit if len(np.unique(unit)) > 1 else None


def _ask(team: Team) -> dict[Key, Answers]:
    """Answers at each setting."""
    return {_key(team, i): team.worker.answer(setting.search, K) for i, setting in enumerate(team.settings)}


class _Times(NamedTuple):
    """Microseconds by round: of single queries, then of single queries on two threads, then of batches."""

    one: list[np.ndarray]
    one_2t: list[np.ndarray]
    batch: dict[tuple[int, int], list[np.ndarray]]
    """By (size, threads)."""
    microjoules: list[float]


def _time(teams: list[Team], rounds: Rounds) -> dict[Key, _Times]:
    plan = [(team, i) for team in teams for i in range(len(team.settings))]
    times = {
        _key(*turn): _Times([], [], {(size, n): [] for size in BATCHES for n in (1, 2)}, []) for turn in plan
    }
    meter = energy.Meter()
    shuffled = random.Random(0)
    with tqdm(total=len(plan) * (rounds.one + rounds.rest), desc="times", unit="turn") as bar:
        for number in range(rounds.one):
            shuffled.shuffle(plan)
            for team, i in plan:
                taken, search = times[_key(team, i)], team.settings[i].search
                before = meter.microjoules() if meter.available else 0.0
                taken.one.append(team.worker.one(search, K, 1, rounds.one_seconds, number))
                if meter.available:
                    taken.microjoules.append((meter.microjoules() - before) / len(taken.one[-1]))
                bar.update()
        for number in range(rounds.rest):
            shuffled.shuffle(plan)
            for team, i in plan:
                taken, search = times[_key(team, i)], team.settings[i].search
                taken.one_2t.append(team.worker.one(search, K, 2, rounds.rest_seconds, number))
                for (size, n), values in taken.batch.items():
                    values.append(team.worker.batch(search, K, n, size, rounds.rest_seconds))
                bar.update()
    return times


def _row(
    team: Team,
    setting: Setting,
    found: Answers,
    full: np.ndarray,
    truth: Labels,
    unit: np.ndarray | None,
    times: _Times,
) -> record.Row:
    one, five = (judge(found.labels, full, truth, k, unit) for k in (1, K))
    means = [float(np.mean(values)) for values in times.one]
    every, us = np.concatenate(times.one), mean(times.one)
    if times.microjoules:
        spent = {"energy_uj": float(np.median(times.microjoules)), "energy_kind": "measured"}
    elif found.bytes_read is not None:
        spent = {"energy_uj": energy.estimate_uj(us, found.bytes_read), "energy_kind": "estimated"}
    else:
        spent = {"energy_uj": None, "energy_kind": ""}
    return record.Row(
        engine=team.built.title,
        name=team.worker.name,
        kind=team.built.kind,
        sees=team.built.sees,
        build=text(team.worker.build_settings),
        search=text(setting.search),
        documented=setting.documented,
        p1=one.p,
        p5=five.p,
        **ratio("p1", one.ratio),
        **ratio("p5", five.ratio),
        label_recall=found.label_recall,
        sample=found.sample,
        bytes_read=found.bytes_read,
        size=team.built.size,
        build_s=team.built.seconds,
        peak_bytes=team.built.peak_bytes,
        one_us=us,
        one_p95_us=float(np.percentile(every, 95)),
        one_p99_us=float(np.percentile(every, 99)),
        one_least_us=min(means),
        one_most_us=max(means),
        one_2t_us=mean(times.one_2t),
        b64_us=middle(times.batch[64, 1]),
        b64_2t_us=middle(times.batch[64, 2]),
        b1024_us=middle(times.batch[1024, 1]),
        b1024_2t_us=middle(times.batch[1024, 2]),
        **spent,
    )


def mean(rounds: list[np.ndarray]) -> float:
    """Median over rounds of a round's mean: what queries take, where some take far longer, too."""
    return float(np.median([np.mean(values) for values in rounds]))


def middle(rounds: list[np.ndarray]) -> float:
    """Median over rounds of a round's median."""
    return float(np.median([np.median(values) for values in rounds]))


def ratio(name: str, interval: Interval | None) -> dict[str, float | None]:
    """Fields of a record."""
    value, low, high = interval or (float("nan"), None, None)
    return {f"{name}_ratio": value, f"{name}_low": low, f"{name}_high": high}

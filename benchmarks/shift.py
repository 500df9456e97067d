"""Fitted on one domain of text, asked another: what an index is worth when its traffic changes."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm.auto import tqdm

from benchmarks import record
from benchmarks.bundles import load
from benchmarks.definitions import read_toml
from benchmarks.engines import Setting
from benchmarks.run import (
    REFERENCE,
    K,
    Quality,
    Team,
    bundle_path,
    groups_of,
    head,
    judge,
    ratio,
    start_teams,
    text,
)
from benchmarks.worker import Answers, Worker

__all__ = ["DEFINITION", "measure"]

DEFINITION = read_toml("shift")


class _Choice(NamedTuple):
    """An engine fitted on a domain: the build and the setting that were best on its held-out queries."""

    fitted: str
    team: Team
    setting: Setting


def measure(
    layer: Path | None = None,
    domains: list[str] = DEFINITION["domains"],
    engines: list[str] = DEFINITION["engines"],
    grid: str = "grid",
    rounds: int = DEFINITION["rounds"],
    seconds: float = DEFINITION["seconds"],
) -> tuple[dict[str, Any], list[record.ShiftRow]]:
    """Measure every engine on every pair of domains.

    Parameters
    ----------
    layer : Path, optional
        Folder of the bundle, a domain a subfolder; by default that of shift.toml.
    domains, engines : list of str
    grid : {"grid", "smoke"}
    rounds : int
    seconds : float
        For one engine on one pair in one round.

    Returns
    -------
    (head, rows)
        For :func:`benchmarks.record.write`.
    """
    layer = layer or bundle_path(DEFINITION["bundle"]).parent
    full = _full_answers(layer, domains)
    choices: list[_Choice] = []
    teams: list[Team] = []
    try:
        for name in engines:
            choices += _choices(name, layer, domains, grid, full, teams)
        answers = _ask(choices, layer, domains)
        times = _time(choices, layer, domains, rounds, seconds)
    finally:
        for team in teams:
            team.worker.stop()
    rows = []
    for served, (i, choice) in product(domains, enumerate(choices)):
        truth, unit = load(layer / served, "test").Y, groups_of(layer / served, "test")
        found = answers[i, served]
        one, five = (judge(found.labels, full[served, "test"], truth, k, unit) for k in (1, K))
        team, taken = choice.team, times[i, served]
        rows.append(
            record.ShiftRow(
                engine=team.built.title,
                name=team.worker.name,
                kind=team.built.kind,
                sees=team.built.sees,
                setting=text(team.worker.build_settings | choice.setting.search),
                fitted=choice.fitted,
                served=served,
                p1=one.p,
                p5=five.p,
                **ratio("p1", one.ratio),
                **ratio("p5", five.ratio),
                sample=found.sample,
                one_us=float(np.median([np.median(values) for values in taken])),
                one_p99_us=float(np.percentile(np.concatenate(taken), 99)),
            )
        )
    m, d = load(layer / domains[0], "test").W.shape
    about = head({team.built.library for team in teams}) | {
        "bundle": layer.name,
        "m": m,
        "d": d,
        "k": K,
        "domains": domains,
        "target": DEFINITION["target"],
        "rounds": rounds,
    }
    return about, rows


def _full_answers(layer: Path, domains: list[str]) -> dict[tuple[str, str], np.ndarray]:
    """Answers of the full layer by domain and split."""
    worker = Worker(REFERENCE, {}, layer / domains[0])
    try:
        worker.start()
        full = {}
        for domain, split in product(domains, ("val", "test")):
            worker.ask(layer / domain, split)
            full[domain, split] = worker.answer({}, K).labels
        return full
    finally:
        worker.stop()


def _choices(
    name: str,
    layer: Path,
    domains: list[str],
    grid: str,
    full: dict[tuple[str, str], np.ndarray],
    teams: list[Team],
) -> list[_Choice]:
    """Fit an engine on every domain; `teams` gets the builds that stay.

    One that sees rows alone is built once. It has a setting for each domain all the same: settings are chosen
    on queries.
    """
    choices, kept = [], []
    built: list[Team] = []
    for domain in tqdm(domains, f"{name}: fits", unit="domain", leave=False):
        if not built or built[0].built.sees != "rows":
            built = start_teams(layer / domain, [name], grid)[0]
            teams += built
        best = _cheapest(built, layer / domain, full[domain, "val"])
        choices.append(_Choice(domain, *best))
        kept.append(best[0])
    for team in [team for team in teams if team.worker.name == name and team not in kept]:
        team.worker.stop()
        teams.remove(team)
    return choices


def _cheapest(teams: list[Team], path: Path, full: np.ndarray) -> tuple[Team, Setting]:
    """Find the quickest setting that keeps the target on held-out queries, or the best if none does."""
    truth = load(path, "val").Y
    plan = []
    for team in teams:
        team.worker.ask(path, "val")
        for setting in team.settings:
            found = team.worker.answer(setting.search, K).labels
            quality = min(_share(judge(found, full, truth, k, None)) for k in (1, K))
            us = np.median(
                [np.median(team.worker.one(setting.search, K, 1, 0.03, turn)) for turn in range(3)]
            )
            plan.append((quality < DEFINITION["target"], us, quality, team, setting))
    good = [place for place in plan if not place[0]]
    best = min(good, key=lambda place: place[1]) if good else max(plan, key=lambda place: place[2])
    return best[3], best[4]


def _share(quality: Quality) -> float:
    return quality.ratio.estimate if quality.ratio else 0.0


def _ask(choices: list[_Choice], layer: Path, domains: list[str]) -> dict[tuple[int, str], Answers]:
    answers = {}
    for served in domains:
        for i, choice in enumerate(choices):
            choice.team.worker.ask(layer / served, "test")
            answers[i, served] = choice.team.worker.answer(choice.setting.search, K)
    return answers


def _time(
    choices: list[_Choice], layer: Path, domains: list[str], rounds: int, seconds: float
) -> dict[tuple[int, str], list[np.ndarray]]:
    """Microseconds by round: for each domain asked, all engines in turns."""
    times: dict[tuple[int, str], list[np.ndarray]] = {}
    for served in domains:
        for choice in choices:
            choice.team.worker.ask(layer / served, "test")
        for turn in range(rounds):
            for i, choice in enumerate(choices):
                taken = choice.team.worker.one(choice.setting.search, K, 1, seconds, turn)
                times.setdefault((i, served), []).append(taken)
    return times

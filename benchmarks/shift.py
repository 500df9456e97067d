"""Fitted on one domain of text, asked another: what an index is worth when its traffic changes."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise, product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm.auto import tqdm

from benchmarks import record
from benchmarks.bundles import load
from benchmarks.definitions import read_toml
from benchmarks.engines import Setting
from benchmarks.record import REFERENCE
from benchmarks.run import (
    K,
    Quality,
    Team,
    folder,
    groups_of,
    head,
    judge,
    mean,
    middle,
    ratio,
    start_teams,
    text,
)
from benchmarks.worker import Worker

__all__ = ["DEFINITION", "measure"]

DEFINITION = read_toml("shift")


class _Choice(NamedTuple):
    """An engine fitted on a domain: the build and the setting that were best on its held-out queries."""

    fitted: str
    team: Team
    setting: Setting


def measure(
    layers: list[dict[str, Any]] = DEFINITION["layer"],
    folder_of: Callable[[str], Path] = folder,
    engines: list[str] = DEFINITION["engines"],
    grid: str = "grid",
    observed: list[int] = DEFINITION["observed"],
    refresh: dict[str, Any] = DEFINITION["refresh"],
    rounds: int = DEFINITION["rounds"],
    seconds: float = DEFINITION["seconds"],
) -> tuple[dict[str, Any], list[record.ShiftRow]]:
    """Measure every engine on every pair of domains.

    Parameters
    ----------
    layers : list of dict
        Tables as in definitions/shift.toml.
    folder_of : callable
        Folder of a bundle, a domain a subfolder.
    engines : list of str
    grid : {"grid", "smoke"}
    observed : list of int
        Queries of the domain served after which an engine that learns from them is measured again: on others
        of them, and in the end on those of the domain fitted on.
    refresh : dict
        "observed": queries served after which it is measured once more, tuned anew on the last "queries" of
        them; the others say how, as to :meth:`lss_rs.Index.refresh`.
    rounds : int
    seconds : float
        For one engine on one pair in one round.

    Returns
    -------
    (head, rows)
        For :func:`benchmarks.record.write`.
    """
    rows: list[record.ShiftRow] = []
    libraries: set[str | None] = set()
    for each in layers:
        bundle, layer, domains = each["bundle"], folder_of(each["bundle"]), each["domains"]
        full = _full_answers(layer, domains)
        choices: list[_Choice] = []
        teams: list[Team] = []
        try:
            for name in engines:
                choices += _choices(name, layer, each["fitted"], grid, full, teams)
            for served in domains:
                ask = _Questions(bundle, layer, full, rounds, seconds)
                rows += _serve(ask, choices, served, observed, refresh)
        finally:
            for team in teams:
                team.worker.stop()
        libraries |= {team.built.library for team in teams}
    about = head(libraries) | {"k": K, "layers": layers, "target": DEFINITION["target"], "rounds": rounds}
    about["refresh"] = refresh
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
    on queries. One that finds its operating point by itself keeps all its settings.
    """
    choices = []
    built: list[Team] = []
    for domain in tqdm(domains, f"{name}: fits", unit="domain", leave=False):
        if not built or built[0].built.sees != "rows":
            built = start_teams(layer / domain, [name], grid)[0]
            teams += built
        choices += _chosen(built, domain, layer / domain, full[domain, "val"])
    kept = [choice.team for choice in choices]
    for team in [team for team in teams if team.worker.name == name and team not in kept]:
        team.worker.stop()
        teams.remove(team)
    return choices


def _chosen(built: list[Team], domain: str, path: Path, full: np.ndarray) -> list[_Choice]:
    """Choose what an engine will be asked with."""
    if built[0].built.observes:
        return [_Choice(domain, team, setting) for team in built for setting in team.settings]
    return [_Choice(domain, *_cheapest(built, path, full))]


class _Trial(NamedTuple):
    """A setting on held-out queries: the lesser of its shares of full P@1 and P@5, and its time."""

    quality: float
    us: float
    team: Team
    setting: Setting


def _cheapest(teams: list[Team], path: Path, full: np.ndarray) -> tuple[Team, Setting]:
    """Find the quickest setting that keeps the target on held-out queries, or the best if none does."""
    truth = load(path, "val").Y
    trials = []
    for team in teams:
        team.worker.ask(path, "val")
        for setting in team.settings:
            found = team.worker.answer(setting.search, K).labels
            quality = min(_share(judge(found, full, truth, k, None)) for k in (1, K))
            us = mean([team.worker.one(setting.search, K, 1, 0.03, turn) for turn in range(3)])
            trials.append(_Trial(quality, us, team, setting))
    good = [trial for trial in trials if trial.quality >= DEFINITION["target"]]
    best = min(good, key=lambda trial: trial.us) if good else max(trials, key=lambda trial: trial.quality)
    return best.team, best.setting


def _share(quality: Quality) -> float:
    return quality.ratio.estimate if quality.ratio else 0.0


class _Questions(NamedTuple):
    """What engines are asked, and for how long."""

    bundle: str
    layer: Path
    full: dict[tuple[str, str], np.ndarray]
    rounds: int
    seconds: float


def _serve(
    ask: _Questions, choices: list[_Choice], served: str, observed: list[int], refresh: dict[str, Any]
) -> list[record.ShiftRow]:
    """Ask every engine the queries of a domain, and those that learn from them again and again."""
    rows = _ask(ask, choices, served)
    learners = [choice for choice in choices if choice.team.built.observes and choice.fitted != served]
    workers = list({id(choice.team): choice.team.worker for choice in learners}.values())
    path = ask.layer / served
    for first, last in pairwise([0, *observed]):
        for worker in workers:
            worker.observe(path, first, last)
        rows += _ask(ask, learners, served, served, last)
    for fitted in dict.fromkeys(choice.fitted for choice in learners):
        rows += _ask(ask, [each for each in learners if each.fitted == fitted], fitted, served, observed[-1])
    last, tuned = refresh["observed"], refresh["queries"]
    how = {name: value for name, value in refresh.items() if name not in ("observed", "queries")}
    for worker in workers:
        worker.forget()
        worker.observe(path, 0, last - tuned)
        worker.refresh(path, last - tuned, last, **how)
    rows += _ask(ask, learners, served, served, last, tuned)
    for worker in workers:
        worker.forget()
    return rows


def _ask(
    ask: _Questions,
    choices: list[_Choice],
    served: str,
    learned: str = "",
    observed: int = 0,
    refreshed: int = 0,
) -> list[record.ShiftRow]:
    """Ask the test queries of a domain, then time all in turns."""
    bundle, layer, all_full, rounds, seconds = ask
    path, full = layer / served, all_full[served, "test"]
    truth, unit = load(path, "test").Y, groups_of(path, "test")
    answers = []
    for choice in choices:
        choice.team.worker.ask(path, "test")
        answers.append(choice.team.worker.answer(choice.setting.search, K))
    times: list[list[np.ndarray]] = [[] for _ in choices]
    for turn in range(rounds):
        for choice, taken in zip(choices, times, strict=True):
            taken.append(choice.team.worker.one(choice.setting.search, K, 1, seconds, turn))
    rows = []
    for (fitted, team, setting), found, taken in zip(choices, answers, times, strict=True):
        one, five = (judge(found.labels, full, truth, k, unit) for k in (1, K))
        rows.append(
            record.ShiftRow(
                bundle=bundle,
                engine=team.built.title,
                name=team.worker.name,
                kind=team.built.kind,
                sees=team.built.sees,
                setting=text(team.worker.build_settings | setting.search),
                fitted=fitted,
                served=served,
                learned=learned,
                observed=observed,
                refreshed=refreshed,
                p1=one.p,
                p5=five.p,
                **ratio("p1", one.ratio),
                **ratio("p5", five.ratio),
                sample=found.sample,
                escalated=found.escalated,
                one_us=middle(taken),
                one_mean_us=float(np.concatenate(taken).mean()),
                one_p99_us=float(np.percentile(np.concatenate(taken), 99)),
            )
        )
    return rows

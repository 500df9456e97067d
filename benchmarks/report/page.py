"""The page docs/benchmarks.md and the README's block, put together from their sections."""

from __future__ import annotations

from benchmarks.report import bundle, scale, shift
from benchmarks.report.choice import TARGET, TIE
from benchmarks.report.markdown import table
from benchmarks.report.newest import Records

__all__ = ["block", "page"]

TITLE = """# Benchmarks
<!-- Written by python -m benchmarks.report from the records: change those, not this. -->
Every figure is of the newest records in `benchmarks/record`; those of where peers win of each processor.
"""
HOW_TO_READ = f"""## How to read it
- **Quality.** P@1 and P@5 are measured against true labels; P@k divides by k. P@1/full is the share of the
  full layer's P@1 on the same queries, in brackets a 95 % interval by a paired bootstrap (over documents,
  where queries come from documents). It can exceed 1.
- **Time.** One call from Python, with one query or a batch. Medians over rounds, for one query of a round's
  mean; in a round every setting of every engine has its turn, in random order. Each engine has a process of
  its own, all pinned to the same processors.
- **Setting.** An engine is quoted at its cheapest setting that keeps {TARGET} of both P@1 and P@5, by the
  point estimate; "below" marks one without, quoted at its best. Settings are picked on these test queries,
  for all engines alike. The plots and the folded tables have all settings.
- **Sees.** Most engines are built from rows alone, some from training queries besides.
- **Label recall** is the share of true labels in the sample, the **sample** the rows of which something is
  computed, be it an estimate. **Bytes read** are bytes of the index a query reads, counted as if nothing was
  cached.
- **A tie** is a time less than {round(100 * (TIE - 1))} % apart.
"""
BUILT_THERE = """Bundles are built on each machine. What is trained for them differs by its last digits,
and so do layers and queries, a little.
"""
AGAIN = """## Again
```sh
make bundles                   # build the data, once
make bench                     # measure, then write this page
python -m benchmarks PATH      # your own layer and queries: benchmarks/README.md
python -m benchmarks.report    # this page, its plots and the README's block, from the records
```
"""


def page(found: Records) -> str:
    """Write docs/benchmarks.md."""
    if not found.heads:
        return "\n".join([TITLE, "Nothing is recorded yet.\n", AGAIN])
    parts = [TITLE, _lines(found), _losses(found), HOW_TO_READ]
    parts += [bundle.section(name, head, rows) for name, (head, rows) in found.bundles.items()]
    parts += [shift.section(*found.shift)] if found.shift else []
    parts += [scale.section(*found.scale)] if found.scale else []
    return "\n".join([*parts, *_energy(found), AGAIN])


def block(found: Records) -> str:
    """Write the README's block."""
    if not found.heads:
        return "Nothing is recorded yet: `make bench`.\n"
    parts = [_lines(found)]
    if found.bundles:
        first = next(iter(found.bundles))
        parts.append(bundle.summary(found.by_processor))
        if any(len(records) > 1 for records in found.by_processor.values()):
            parts.append(BUILT_THERE)
        parts.append(f"![{first}: share of the full layer's P@1 against time](docs/plots/{first}-p1.svg)\n")
    days: dict[str, set[str]] = {}
    bundles = [head for records in found.by_processor.values() for head, _ in records]
    others = [head for name, head in found.heads.items() if name not in found.bundles]
    for head in bundles + others:
        days.setdefault(head.get("cpu", ""), set()).add(head.get("date", ""))
    where = [", ".join(filter(None, (cpu, *sorted(dates)))) for cpu, dates in sorted(days.items())]
    again = "All engines, and where a peer wins or ties: [docs/benchmarks.md](docs/benchmarks.md)."
    return "\n".join([*parts, f"Recorded on {'; '.join(where)}; again: `make bench`. {again}\n"])


def _lines(found: Records) -> str:
    lines = [bundle.line(name, rows, head.get("cpu", "")) for name, (head, rows) in found.bundles.items()]
    lines += [shift.line(found.shift[1])] if found.shift else []
    lines += [scale.line(found.scale[1])] if found.scale else []
    return "".join(f"- {text}\n" for text in lines)


def _losses(found: Records) -> str:
    compared, slower, costlier = 0, [], []
    for name, records in found.by_processor.items():
        for head, rows in records:
            where = f"{name}, {head.get('cpu', '')}" if len(records) > 1 else name
            number, lost = bundle.slower(where, rows)
            compared += number
            slower += lost
            costlier += bundle.costlier(where, rows)
    parts = ["## Where a peer wins or ties"]
    if found.bundles:
        won = f"ours does not win {len(slower)}:" if slower else "ours wins every one."
        parts.append(
            "Ours against every other engine, each at its cheapest setting that keeps a level of quality."
        )
        parts.append(f"Of {compared} comparisons of time {won}\n")
    if slower:
        parts.append(table(bundle.SLOWER_HEADER, slower))
    if costlier:
        parts.append(f"What others need less of, or as much, at the settings quoted at {TARGET}:\n")
        parts.append(table(bundle.COSTS_HEADER, costlier))
    parts += [shift.losses(found.shift[1])] if found.shift else []
    parts += [scale.losses(found.scale[1])] if found.scale else []
    return "\n".join(parts)


def _energy(found: Records) -> list[str]:
    models: dict[str, list[str]] = {}
    for name, (head, _) in found.bundles.items():
        if head.get("energy"):
            models.setdefault(head["energy"], []).append(name)
    lines = [f"- {', '.join(names)}: {text}\n" for text, names in models.items()]
    return ["## Energy\n" + "".join(lines)] if lines else []

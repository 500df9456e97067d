"""Instructions of fixed work, beside those recorded: a guard against regressions that needs no quiet machine.

valgrind counts what ``rust/core/benches/instructions.rs`` does. Counts follow the compiler: record them again
where only that has changed.

    python -m benchmarks.instructions [--record]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.definitions import parse
from lss_rs import Index

__all__ = ["KERNEL", "LIMIT", "RECORD", "a_search", "compare", "main", "read_counts", "to_toml"]

LIMIT = 0.05
"""Share by which a count may rise."""
RECORD = Path(__file__).parent / "record" / "instructions.toml"
KERNEL = "avx2"
"""valgrind knows no AVX-512."""
COUNTED = "instructions::counted"
"""The function inside which valgrind collects."""


def compare(recorded: dict[str, int], counted: dict[str, int], limit: float = LIMIT) -> list[str]:
    """Say what is wrong: counts that rose by more than `limit`, and workloads that only one side knows."""
    wrong = [f"{name}: recorded, but not counted" for name in recorded if name not in counted]
    for name, count in counted.items():
        if name not in recorded:
            wrong.append(f"{name}: counted, but not recorded")
        elif count > (1 + limit) * recorded[name]:
            rise = 100 * (count / recorded[name] - 1)
            wrong.append(f"{name}: {count:,} instructions, {rise:.1f} % more than {recorded[name]:,}")
    return wrong


def read_counts(folder: Path, names: list[str]) -> dict[str, int]:
    """Read what valgrind wrote: a file before each workload, of the one before it, and one at the end."""
    files = sorted(folder.glob("out.*"), key=lambda path: int(path.suffix[1:]))
    totals = [
        int(match[1])
        for path in [*files, folder / "out"]
        if (match := re.search(r"^totals: (\d+)", path.read_text(encoding="utf-8"), re.MULTILINE))
    ]
    if len(totals) != len(names) + 1 or totals[0] != 0 or 0 in totals[1:]:
        raise RuntimeError(f"valgrind counted {totals} for {names}: does it know {COUNTED} by that name?")
    return dict(zip(names, totals[1:], strict=True))


def to_toml(counts: dict[str, int], versions: dict[str, str]) -> str:
    """Write the record."""
    lines = [
        "# Instructions of the work in rust/core/benches/instructions.rs, by `make instructions-record`.",
        f'kernel = "{KERNEL}"',
        *(f'{name} = "{version}"' for name, version in versions.items()),
        "",
        "[instructions]",
        *(f"{name} = {count}" for name, count in counts.items()),
    ]
    return "\n".join(lines) + "\n"


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def _versions() -> dict[str, str]:
    """Of what the counts depend on."""
    programs = {"rustc": ("rustc", "--version"), "valgrind": ("valgrind", "--version")}
    found = {name: re.search(r"\d+(\.\d+)+", _output(*command)) for name, command in programs.items()}
    return {name: match[0] if match else "unknown" for name, match in found.items()}


def _program() -> str:
    """Build the program, as benchmarks are built, and find it."""
    manifest = Path(__file__).parents[1] / "Cargo.toml"
    cargo = ("cargo", "bench", "--manifest-path", str(manifest), "-p", "lss-core", "--bench", "instructions")
    lines = _output(*cargo, "--no-run", "--message-format=json").splitlines()
    (program,) = filter(None, (json.loads(line).get("executable") for line in lines))
    return str(program)


def count(*arguments: str) -> dict[str, int]:
    """Run the program under valgrind."""
    program = _program()
    with tempfile.TemporaryDirectory() as folder:
        options = (f"--toggle-collect={COUNTED}", f"--dump-before={COUNTED}")
        done = subprocess.run(
            ["valgrind", "-q", "--tool=callgrind", *options, "--callgrind-out-file=out", program, *arguments],
            check=True,
            cwd=folder,
            env=os.environ | {"LSS_SIMD": KERNEL},
            stdout=subprocess.PIPE,
            text=True,
        )
        return read_counts(Path(folder), done.stdout.split())


def a_search(index: Index, queries: np.ndarray, k: int) -> float | None:
    """Count the instructions of a search of one query in the core, on average; None where that cannot be."""
    if None in map(shutil.which, ("valgrind", "cargo")) or platform.machine() != "x86_64":
        return None
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(folder) / name) for name in ("index.safetensors", "queries.f32")]
        index.save(paths[0])
        np.ascontiguousarray(queries, np.float32).tofile(paths[1])
        (counted,) = count(*paths, str(k)).values()
    return counted / len(queries)


def main() -> None:
    """Count, and compare or record."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.instructions", description=__doc__)
    parser.add_argument("--record", action="store_true", help="keep these counts")
    record = parser.parse_args().record
    if shutil.which("valgrind") is None:
        sys.exit("this needs valgrind, Debian's package of that name")
    counts, versions = count(), _versions()
    if record:
        RECORD.write_text(to_toml(counts, versions), encoding="utf-8")
        print(f"recorded in {RECORD.name}")
        return
    old = parse(RECORD)
    recorded = old["instructions"]
    for name, number in counts.items():
        change = f"{100 * (number / recorded[name] - 1):+.1f} %" if name in recorded else "new"
        print(f"{name:<15}{number:>15,}  {change}")
    for name, version in versions.items():
        if version != old[name]:
            print(f"recorded with {name} {old[name]}, counted with {version}: that alone may change counts")
    wrong = compare(recorded, counts)
    if wrong:
        sys.exit("\n".join([*wrong, "If that is meant, record the counts: make instructions-record"]))


if __name__ == "__main__":
    main()

"""Where a run took place, and what one process needs: processor, versions, commit, memory, pinning."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lss_rs import _core

__all__ = ["anonymous_memory", "clock_ghz", "cpus", "describe", "folder_name", "pin"]


def _cpuinfo() -> dict[str, str]:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").split("\n\n")[0].splitlines() if path.is_file() else []
    return {key.strip(): value.strip() for key, value in (line.split(":", 1) for line in lines)}


def clock_ghz() -> float | None:
    """Clock of a processor, as Linux names it; None where it does not."""
    mhz = _cpuinfo().get("cpu MHz")
    return float(mhz) / 1e3 if mhz else None


def cpus() -> list[int]:
    """Processors this process may use."""
    if not hasattr(os, "sched_getaffinity"):  # macOS
        return list(range(os.cpu_count() or 1))
    return sorted(os.sched_getaffinity(0))


def describe(libraries: set[str]) -> dict[str, Any]:
    """Head of a record: the machine, and the versions of these distributions."""
    info = _cpuinfo()
    flags = set(info.get("flags", "").split())
    versions = {"python": platform.python_version()}
    for name in sorted(libraries | {"numpy"}):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "cpu": f"{info.get('model name', platform.machine())}"
        f" (family {info.get('cpu family', '?')}, model {info.get('model', '?')})",
        "cores": len(cpus()),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "simd": sorted(
            flags & {"avx2", "fma", "avx512f", "avx512_vnni", "avx512vbmi", "avx512_bf16", "amx_int8"}
        ),
        "kernel": _core.active_kernel(),
        "versions": versions,
        "commit": _commit(),
    }


def folder_name(head: dict[str, Any]) -> str:
    """Name a folder for a machine's records: "amd-epyc-family-25-model-17"."""
    return re.sub(r"[^a-z0-9]+", "-", head["cpu"].lower()).strip("-")


def _commit() -> str:
    """Short hash of the checkout, with a "+" where the sources differ from it."""

    def git(*arguments: str) -> str:
        try:
            done = subprocess.run(
                ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
            )
        except FileNotFoundError:  # a borrowed machine need not have git
            return ""
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--", "..", ":!record", ":!../docs", ":!../README.md")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + ("+" if changed else "")


def pin(processors: list[int]) -> None:
    """Keep every thread of this process on these processors.

    A thread inherits its maker's, so that a pool made on one processor would stay there: each thread is told.
    """
    for task in Path("/proc/self/task").iterdir():
        try:
            os.sched_setaffinity(int(task.name), processors)
        except ProcessLookupError:  # it ended meanwhile
            continue


def anonymous_memory(pid: int) -> int:
    """Bytes that a process holds itself; mapped files are not among them."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    match = re.search(r"RssAnon:\s+(\d+) kB", status)
    return int(match[1]) * 1024 if match else 0

"""What a query costs in energy: measured where the machine counts it, else estimated, and said to be."""

from __future__ import annotations

from typing import Any

from benchmarks.definitions import read_toml

__all__ = ["ESTIMATED", "MEASURED", "Meter", "estimate_uj"]

_MODEL = read_toml("energy")

ESTIMATED: str = _MODEL["description"].strip().format(**_MODEL)
MEASURED = "measured: the processor package and its memory while a query was answered, by RAPL."


def estimate_uj(cpu_us: float, bytes_read: float) -> float:
    """Microjoules by the model of ``definitions/energy.toml``: a busy core's power, and bytes from memory."""
    return float(cpu_us * _MODEL["watts_a_core"] + bytes_read * _MODEL["picojoules_a_byte"] * 1e-6)


class Meter:
    """Energy of the processor package by RAPL, through ``zeus``; ``available`` says whether there is any."""

    def __init__(self) -> None:
        self._cpus: Any = None
        try:
            from zeus.device.cpu import get_cpus
            from zeus.device.exception import ZeusBaseCPUError
        except ImportError:
            return
        try:
            self._cpus = get_cpus()
        except ZeusBaseCPUError:
            return

    @property
    def available(self) -> bool:
        """Whether this machine counts energy."""
        return self._cpus is not None

    def microjoules(self) -> float:
        """Microjoules counted since some moment in the past."""
        counted = (self._cpus.get_total_energy_consumption(i) for i in range(len(self._cpus)))
        return float(sum(energy.cpu_mj + (energy.dram_mj or 0.0) for energy in counted)) * 1e3

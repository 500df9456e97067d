"""What is measured, as data: TOML files, one for each kind of run. Engines keep their grids beside them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["parse", "read_toml"]


def parse(path: Path) -> dict[str, Any]:
    """Read a TOML file."""
    return tomllib.loads(path.read_text(encoding="utf-8"))


def read_toml(name: str) -> dict[str, Any]:
    """Read one of the files in this folder."""
    return parse(Path(__file__).parent / f"{name}.toml")

"""What a bug report needs to say about where it happened."""

from __future__ import annotations

import os
import sys

import numpy as np

from lss_rs import _core

_OPTIONAL = ("scipy", "torch", "transformers", "tqdm", "safetensors")


def show_versions() -> None:
    """Print versions, the CPU's features and the kernel in use, for a bug report."""
    import platform  # slow to import, and seldom needed

    features = _core.cpu_features()
    lines = {
        "lss_rs": _core.__version__,
        "file format": _core.FORMAT_VERSION,
        "python": sys.version.replace("\n", " "),
        "system": f"{platform.platform()} ({os.cpu_count()} CPUs)",
        "cpu features": ", ".join(name for name, there in features.items() if there) or "none of interest",
        "kernel": _core.active_kernel(),
        "threads": _core.get_num_threads(),
        "numpy": np.__version__,
        **{name: _installed(name) for name in _OPTIONAL},
    }
    width = max(map(len, lines))
    sys.stdout.write("".join(f"{name:>{width}}: {value}\n" for name, value in lines.items()))


def _installed(name: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"

"""Build every bundle that is measured, or what they lack.

python -m benchmarks.bundles
"""

from __future__ import annotations

from benchmarks.bundles import lm_smollm2, lstm_gcide, scale, w2v_gcide, xmc_contents
from benchmarks.definitions import read_toml


def main() -> None:
    """Build them one after another."""
    lm_smollm2.main([])
    xmc_contents.main([])
    w2v_gcide.main([])
    lstm_gcide.main([])
    for rows in read_toml("scale")["rows"]:
        scale.main(["--rows", str(rows)])


if __name__ == "__main__":
    main()

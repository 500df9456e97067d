"""Measure engines on bundles, record what was measured, and write the report.

    python -m benchmarks [NAME or PATH ...] [--engines NAME,NAME] [--smoke]

A NAME is a bundle of definitions/bundles.toml, "shift", "scale", "defaults", "methods", "fit",
"queries", "both", "generate", "heads", "stages" or "device"; without any, all of them but "device", which is
for machines with a GPU. A PATH is any folder in the layout of bundles/README.md: your own output layer.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from benchmarks import (
    both,
    defaults,
    device,
    fit,
    generate,
    heads,
    machine,
    methods,
    queries,
    record,
    report,
    run,
    scale,
    shift,
    smoke,
    stages,
)
from benchmarks.engines import names


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    bundles = run.DEFINITION["bundle"]
    parts = {
        "shift": shift.measure,
        "scale": scale.measure,
        "defaults": defaults.measure,
        "methods": methods.measure,
        "fit": fit.measure,
        "queries": queries.measure,
        "both": both.measure,
        "generate": generate.measure,
        "heads": heads.measure,
        "stages": stages.measure,
    }
    usual = [*bundles, *parts]
    # Without a GPU it takes long, and its record would take the place of a GPU's in the report.
    parts["device"] = device.measure
    parser.add_argument(
        "what", nargs="*", metavar="NAME or PATH", help=f"by default all of {', '.join(usual)}"
    )
    parser.add_argument("--engines", default="", metavar="NAMES", help=f"of {', '.join(names())}")
    parser.add_argument("--records", type=Path, default=record.FOLDER, metavar="DIR", help="where to write")
    parser.add_argument("--smoke", action="store_true", help="check the harness on tiny data, write nothing")
    options = parser.parse_args(arguments)
    if options.smoke:
        smoke.main()
        return
    engines = [name for name in options.engines.split(",") if name]
    if unknown := set(engines) - set(names()):
        parser.error(f"no such engine: {', '.join(sorted(unknown))}")
    for what in options.what or usual:
        start = time.monotonic()
        if what in parts:
            name, (head, rows) = what, parts[what]()
        else:
            path = run.bundle_path(what) if what in bundles else Path(what)
            name = what if what in bundles else path.name
            head, rows = run.measure(path, engines=engines)
            head |= {"bundle": name, "title": bundles.get(what, {}).get("title", name)}
        head["seconds"] = round(time.monotonic() - start)
        file = options.records / machine.folder_name(head) / f"{head['date']}-{name}.csv"
        record.write(file, head, rows)
        print(f"recorded {file}")
    report.main([])


if __name__ == "__main__":
    main()

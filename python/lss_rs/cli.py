"""The command line ``lss-rs``; it needs the extra ``cli``.

Answers go to stdout, everything else to stderr. The exit code is 1 where a file or a package is missing or
cannot be used, and 2 where what was asked for makes no sense.
"""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

try:
    import typer
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text
    from typer.core import TyperGroup

    from lss_rs._demo_report import demo_report
    from lss_rs._evaluate import Clock, evaluate, progress, step
except ImportError as error:  # the command's entry point imports this module: a line, not a traceback
    raise SystemExit(
        f"lss-rs: {error.name} is not installed; the command line needs: pip install 'lss-rs[cli]'"
    ) from None

from lss_rs import __version__, set_num_threads
from lss_rs._arrays import QueryRows, as_labels
from lss_rs._files import check_output, read_labels, read_matrix, write_answers
from lss_rs.config import LSSConfig
from lss_rs.index import Index
from lss_rs.tuning import tune

if TYPE_CHECKING:
    from lss_rs.learn.iul import Round

_SHOWN = 10
"""Queries in the table of ``search``."""


class _Group(TyperGroup):
    """All commands, with the library's errors and warnings as lines of text."""

    def invoke(self, ctx: Any) -> Any:
        with warnings.catch_warnings():
            warnings.filterwarnings("default", category=UserWarning, module=r"lss_rs\b")
            warnings.showwarning = _show_warning
            try:
                return super().invoke(ctx)
            except (BrokenPipeError, typer.Abort, typer.Exit):
                raise  # typer knows what to do
            except (ImportError, MemoryError, OSError, RuntimeError, TypeError, ValueError) as error:
                _note(f"error: {str(error) or type(error).__name__}")
                raise typer.Exit(1 if isinstance(error, (ImportError, OSError)) else 2) from None


app = typer.Typer(cls=_Group, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

_Json = Annotated[bool, typer.Option("--json", help="Print one machine-readable document.")]
_Threads = Annotated[int | None, typer.Option(min=1, help="Threads for batches.", show_default="one a core")]
_IndexFile = Annotated[Path, typer.Argument(metavar="INDEX", help="What 'fit' wrote.")]
_Queries = Annotated[str, typer.Option(help="Queries (n, d): .npy, .npz or .safetensors, or FILE:KEY.")]

_LABELS = (
    "True labels: ids (n,) or (n, t); a sparse .npz; a prefix of _indptr.npy and _indices.npy; or XMC text."
)
_GROUPS = "Number of each query's document (n,), a file: intervals then resample documents."


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"lss-rs {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line."""
    app(prog_name="lss-rs")


@app.callback()
def _options(
    _version: Annotated[bool, typer.Option("--version", is_eager=True, callback=_print_version)] = False,
) -> None:
    """Answer wide output layers at a fraction of their cost."""


@app.command()
def fit(
    weights: Annotated[
        str,
        typer.Argument(help="Rows (m, d): .npy, .npz or .safetensors, or FILE:KEY."),
    ],
    queries: _Queries,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write the index.")],
    labels: Annotated[str | None, typer.Option(help=_LABELS, show_default="the full layer's best")] = None,
    bias: Annotated[str | None, typer.Option(help="Biases (m,), a file as of WEIGHTS.")] = None,
    k: Annotated[int, typer.Option("-k", help="Answers that searches will ask for.")] = 10,
    target: Annotated[
        float | None, typer.Option(help="Share of the full layer's P@1 and P@5 to keep; 0 tunes nothing.")
    ] = 0.99,
    groups: Annotated[str | None, typer.Option(help=_GROUPS)] = None,
    bits: Annotated[int | None, typer.Option(help="Bits of a code: 2**BITS buckets a table.")] = None,
    tables: Annotated[int | None, typer.Option(help="Number of tables.")] = None,
    probes: Annotated[int | None, typer.Option(help="Buckets visited at most, a table, on average.")] = None,
    max_entries: Annotated[int | None, typer.Option(help="Entries read before probing ends.")] = None,
    neighbors: Annotated[
        int | None, typer.Option(help="Training queries whose labels are candidates.")
    ] = None,
    rescore: Annotated[int | None, typer.Option(help="Candidates scored exactly.")] = None,
    sketch_bytes: Annotated[int | None, typer.Option(help="Bytes of a row's sketch: 0, 64 or 128.")] = None,
    regions: Annotated[int | None, typer.Option(help="Regions with lists of labels; 0 for none.")] = None,
    fill: Annotated[str | None, typer.Option(help="What buckets hold: queries or rows.")] = None,
    method: Annotated[str | None, typer.Option(help="Planes: refine, aligned, simhash or iul.")] = None,
    iul: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="An option of --method iul, such as rounds=20; repeat it."),
    ] = None,
    teacher_top: Annotated[int | None, typer.Option(help="Best labels that a query teaches.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the random directions.")] = None,
    dtype: Annotated[
        str | None, typer.Option(help="Store rows as float32, float16 or bfloat16.", show_default="as given")
    ] = None,
    threads: _Threads = None,
    as_json: _Json = False,
) -> None:
    """Build an index of WEIGHTS and teach it with training queries."""
    given = {
        "n_bits": bits,
        "n_tables": tables,
        "n_probes": probes,
        "max_entries": max_entries,
        "n_neighbors": neighbors,
        "n_rescore": rescore,
        "sketch_bytes": sketch_bytes,
        "n_regions": regions,
        "fill": fill,
        "method": method,
        "teacher_top": teacher_top,
        "seed": seed,
        "dtype": dtype,
        "iul": dict(map(_parse_option, iul)) if iul else None,
    }
    config = LSSConfig.from_json({name: value for name, value in given.items() if value is not None})
    check_output(output)
    _use_threads(threads)
    clock = Clock()
    with step("reading"):
        W, stored = read_matrix(weights)
        if stored == "bfloat16" and dtype is None:
            config = LSSConfig.from_json({**config.to_json(), "dtype": stored})
        b = _read_optional(bias)
        Q = read_matrix(queries)[0]
        Y = None if labels is None else read_labels(labels)
        documents = _read_optional(groups)
        index = Index.from_weights(W, b, config)
        del W
    seconds = {"read": clock()}
    index.fit(Q, Y, k=k, target=target or None, groups=documents)
    seconds["fit"] = clock()
    with step("writing"):
        index.save(output)
    seconds["write"] = clock()
    report = {
        "index": str(output),
        "file_bytes": output.stat().st_size,
        "m": index.m,
        "d": index.d,
        "dtype": index.dtype,
        "queries": len(Q),
        "seconds": seconds,
        "params": index.params,
    }
    if as_json:
        _print_json({**report, "history": [met._asdict() for met in index.history]})
        return
    Console().print(_listing(report, f"{index.m:,} rows, taught by {len(Q):,} queries"))
    if index.history:
        Console().print(_learning_curve(index.history))


@app.command()
def search(
    index_file: _IndexFile,
    queries: _Queries,
    k: Annotated[int, typer.Option("-k", help="Answers wanted.")] = 10,
    exact: Annotated[bool, typer.Option("--exact", help="Score every row.")] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write labels and scores, (n, k), to an .npz file."),
    ] = None,
    threads: _Threads = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON a query.")] = False,
) -> None:
    """Find the best labels of each query."""
    if output is not None:
        check_output(output)
    _use_threads(threads)
    index = Index.load(index_file, mmap=True)
    rows = _query_rows(queries, index.d)
    labels, scores = np.empty((rows.n, max(k, 0)), np.int64), np.empty((rows.n, max(k, 0)), np.float32)
    done = 0
    for block in progress(rows, "search"):
        here = slice(done, done + len(block))
        index.search(block, k, exact=exact, out=(labels[here], scores[here]))
        done += len(block)
    if output is not None:
        write_answers(output, labels, scores)
        _note(f"{output}: answers to {rows.n:,} queries")
    if as_json:
        for i, (ids, logits) in enumerate(zip(labels.tolist(), scores.tolist(), strict=True)):
            _print_json({"query": i, "labels": ids, "scores": logits}, indent=None)
    elif output is None:
        table = Table("query", "labels", "scores", title=f"The best {k} of {index.m:,} labels")
        for i, (ids, logits) in enumerate(zip(labels[:_SHOWN], scores[:_SHOWN], strict=True)):
            table.add_row(str(i), " ".join(map(str, ids)), " ".join(f"{logit:.3f}" for logit in logits))
        if rows.n > _SHOWN:
            table.caption = f"and {rows.n - _SHOWN:,} more: see --json and --output"
        Console().print(table)


@app.command("eval")
def evaluate_command(
    index_file: _IndexFile,
    queries: _Queries,
    labels: Annotated[str, typer.Option(help=_LABELS)],
    ks: Annotated[str, typer.Option("-k", help="Answers to judge, parted by commas.")] = "1,5",
    groups: Annotated[str | None, typer.Option(help=_GROUPS)] = None,
    threads: _Threads = None,
    as_json: _Json = False,
) -> None:
    """Measure an index against its own full layer, on queries it was not taught with."""
    wanted = _parse_ks(ks)
    _use_threads(threads)
    with step("reading"):
        index = Index.load(index_file)
        rows = _query_rows(queries, index.d)
        truth = as_labels(read_labels(labels), rows.n, index.m)
        documents = _read_optional(groups)
    report = evaluate(index, rows, truth, wanted, groups=documents)
    if as_json:
        _print_json(report)
    else:
        Console().print(comparison(report))


@app.command("tune")
def tune_command(
    index_file: _IndexFile,
    queries: _Queries,
    labels: Annotated[str | None, typer.Option(help=_LABELS, show_default="the full layer's best")] = None,
    ks: Annotated[str, typer.Option("-k", help="Which P@k must be kept, parted by commas.")] = "1,5",
    target: Annotated[float, typer.Option(help="Share of the full layer's P@k to keep.")] = 0.99,
    objective: Annotated[str, typer.Option(help="What to make small: latency or throughput.")] = "latency",
    effort: Annotated[
        str, typer.Option(help="Of searches: adaptive, which go on where not trusted, or fixed.")
    ] = "adaptive",
    insurance: Annotated[
        float, typer.Option(help="Share of the first step's time for queries of another kind.")
    ] = 0.1,
    groups: Annotated[str | None, typer.Option(help=_GROUPS)] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where to write the index, tuned.")
    ] = None,
    threads: _Threads = None,
    as_json: _Json = False,
) -> None:
    """Find the quickest operating point that keeps the target, on queries an index was not taught with."""
    wanted = _parse_ks(ks)
    if output is not None:
        check_output(output)
    _use_threads(threads)
    with step("reading"):
        index = Index.load(index_file)
        Q = read_matrix(queries)[0]
        Y = None if labels is None else read_labels(labels)
        documents = _read_optional(groups)
    report = tune(
        index,
        Q,
        Y,
        ks=wanted,
        target=target,
        objective=objective,
        effort=effort,
        insurance=insurance,
        groups=documents,
    )
    if output is not None:
        index.apply(report.best).save(output)
    if as_json:
        _print_json(report.to_json())
    else:
        typer.echo(str(report))


@app.command()
def info(index_file: _IndexFile, as_json: _Json = False) -> None:
    """Say what an index is, after checking all of it."""
    metadata = Index.metadata(index_file)
    with step("checking"):
        index = Index.load(index_file, mmap=True)
        index._core.validate()
    report = {
        "index": str(index_file),
        "file_bytes": index_file.stat().st_size,
        "valid": True,
        **metadata,
        "fitted": index.fitted,
        "params": index.params,
        "nbytes": index.nbytes,
    }
    if as_json:
        _print_json(report)
    else:
        Console().print(_listing(report, f"{index_file}: sound"))


@app.command()
def demo(
    cache: Annotated[
        Path | None, typer.Option(help="Folder to keep data and index in.", show_default="~/.cache/lss_rs")
    ] = None,
    threads: _Threads = None,
    as_json: _Json = False,
) -> None:
    """Show all of it on the output layer of SmolLM2-135M and text found on this machine."""
    _use_threads(threads)
    report = demo_report(cache)
    if as_json:
        _print_json(report)
        return
    console = Console()
    console.print(
        "{model}: {m:,} labels, d={d}. Which token comes next, in docstrings of other modules than the index "
        "has learned from ({train_queries:,} tokens)?".format(**report)
    )
    table = comparison(report)
    table.caption = f"intervals resample stretches of {report['stretch']} tokens, for neighbours are alike"
    console.print(table)
    console.print(_side_by_side(report["generation"]))
    _note(f"{sum(report['seconds'].values()):.1f} s; kept in {report['folder']}")


# Tables


def _ratio(full: float, index: float) -> str:
    return f"{full / index:,.1f}x faster" if index <= full else f"{index / full:,.1f}x slower"


def comparison(report: dict[str, Any]) -> Table:
    """Lay out what ``evaluate`` returned."""
    full, ours, ratio = report["full"], report["index"], report["ratio"]
    table = Table(title=f"{report['queries']:,} queries, kernel {report['kernel']}")
    table.add_column("")
    for name in (full["name"], ours["name"], "index / full"):
        table.add_column(name, justify="right")
    for k, value in full["precision"].items():
        kept = ""
        if interval := ratio["precision"].get(k):
            kept = "{estimate:.4f} ({low:.4f}-{high:.4f})".format(**interval)
        table.add_row(f"P@{k}", f"{value:.4f}", f"{ours['precision'][k]:.4f}", kept)
    if ours["label_recall"] is not None:
        table.add_row("label recall", "1.0000", f"{ours['label_recall']:.4f}")
    share = f"{ours['candidates'] / full['candidates']:.1%}"
    table.add_row("candidates a query", f"{full['candidates']:,}", f"{ours['candidates']:,.0f}", share)
    table.add_row("entries a query", "", f"{ours['entries']:,.0f}")
    for name in ("p50", "p99"):
        a, b = full["one_query_us"][name], ours["one_query_us"][name]
        table.add_row(f"one query, {name}", _duration(a), _duration(b), _ratio(a, b))
    label = f"batch of {report['batch_size']:,}, {report['threads']} thread{'s' * (report['threads'] > 1)}"
    a, b = full["batch_ms"] * 1e3, ours["batch_ms"] * 1e3
    table.add_row(label, _duration(a), _duration(b), _ratio(a, b))
    return table


def _side_by_side(generation: dict[str, Any]) -> Table:
    """Lay out the texts of ``demo_report``."""
    table = Table(title=Text(f"{generation['prompt']} ..."))
    for name in ("full", "index"):
        table.add_column("full layer" if name == "full" else name, ratio=1)
    table.add_row(*(Text(generation[name].strip()) for name in ("full", "index")))
    table.caption = "the first {identical} of {tokens} tokens are identical".format(**generation)
    return table


def _learning_curve(history: tuple[Round, ...]) -> Table:
    """Lay out what the rounds of IUL met."""
    table = Table(
        "round", *(name.replace("_", " ") for name in history[0]._fields), title="IUL, before each step"
    )
    for number, met in enumerate(history, 1):
        table.add_row(f"{number:,}", *map(_text, met))
    return table


# Small things


def _parse_option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise ValueError(f"'--iul' must be NAME=VALUE. Got {text!r} instead.")
    try:
        return name, json.loads(value)
    except ValueError:  # a word
        return name, value


def _read_optional(spec: str | None) -> Any:
    return None if spec is None else read_matrix(spec)[0]


def _parse_ks(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise ValueError(f"'-k' must be numbers of 1 or more, parted by commas. Got {text!r} instead.")
    return sorted({int(part) for part in parts})


def _use_threads(threads: int | None) -> None:
    if threads is not None:
        set_num_threads(threads)


def _query_rows(spec: str, d: int) -> QueryRows:
    Q = read_matrix(spec)[0]
    return QueryRows(Q[None] if Q.ndim == 1 else Q, d, "queries")


def _show_warning(message: Warning | str, *_args: Any, **_options: Any) -> None:
    _note(f"warning: {message}")


def _note(text: str) -> None:
    typer.echo(f"lss-rs: {' '.join(text.split())}", err=True)


def _print_json(document: Any, indent: int | None = 2) -> None:
    typer.echo(json.dumps(_finite(document), indent=indent, allow_nan=False))


def _finite(value: Any) -> Any:
    """Put null in the place of what JSON has no number for."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _listing(report: dict[str, Any], title: str) -> Table:
    """Lay out names and values, a level deep."""
    table = Table("", "", title=title, show_header=False)
    for name, value in report.items():
        if isinstance(value, dict):
            table.add_section()
            for inner, item in value.items():
                table.add_row(f"{name}.{inner}", _text(item))
            table.add_section()
        else:
            table.add_row(name, _text(value))
    return table


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(item)}" for name, item in value.items())
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _duration(us: float) -> str:
    return f"{us:,.1f} us" if us < 1000 else f"{us / 1e3:,.1f} ms" if us < 1e6 else f"{us / 1e6:,.2f} s"

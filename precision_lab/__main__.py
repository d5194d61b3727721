"""The command line. Data on stdout, progress and errors on stderr.

What comes from others, an exception's message or a name in a file, is printed with its control characters
escaped, in Markdown also what would be markup.

Exit 0, 1 failed, 2 usage, 3 inconclusive, 130 interrupted.

Nothing heavy is imported until a command needs it, so that ``--help`` answers at once.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
import sys
from contextlib import redirect_stdout
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from .errors import InputError, PrecisionLabError, printable
from .types import Budget, Profile

app = typer.Typer(
    name="precision-lab",
    help="What distribution does a categorical sampler really draw from?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Format(StrEnum):
    TABLE = "table"
    MD = "md"
    JSON = "json"
    CSV = "csv"


UseOption = Annotated[
    str,
    typer.Option(
        "--for",
        help="lm: the next token. mdm:N: N ancestral steps. first-hitting: masked diffusion's other way.",
    ),
]
FormatOption = Annotated[Format, typer.Option("--format", "-f", help="How to print the data.")]


def _plain(value: Any) -> Any:
    """JSON has no NaN or infinity: they become null and the strings inf, -inf."""
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def _text(value: Any) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return "" if value is None else str(value)


def _markdown(text: str) -> str:
    """One line of Markdown, in a table's cell or outside, that shows the text: no tags, links, images or
    new cells."""
    line = printable(text).replace("\\", "\\\\").replace("|", "\\|").replace("](", "]\\(")
    line = re.sub(r"&(?=#?\w+;)", "&amp;", line)
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", line)  # what can begin a tag; a <= stays as it is


def _code(text: str) -> str:
    """The text, in one line, as a code span of Markdown."""
    line = printable(text)
    longest = max((len(run) for run in re.findall("`+", line)), default=0)
    fence = "`" * (longest + 1)
    space = " " if longest else ""
    return f"{fence}{space}{line}{space}{fence}"


def emit(rows: list[dict[str, Any]], format: Format) -> None:
    """Print rows on stdout: a table for people, Markdown, CSV, or JSON (one object if there is one row)."""
    names = list(rows[0]) if rows else []
    if format is Format.JSON:
        plain = [{k: _plain(v) for k, v in row.items()} for row in rows]
        print(json.dumps(plain[0] if len(plain) == 1 else plain, indent=2))
    elif format is Format.CSV:
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        print(buffer.getvalue(), end="")
    elif format is Format.MD:
        print("| " + " | ".join(_markdown(name) for name in names) + " |\n|" + "---|" * len(names))
        for row in rows:
            print("| " + " | ".join(_markdown(_text(v)) for v in row.values()) + " |")
    else:
        from rich.console import Console
        from rich.table import Table

        if len(rows) == 1:
            names, rows = ["quantity", "value"], [{"quantity": k, "value": v} for k, v in rows[0].items()]
        table = Table(*names, box=None, pad_edge=False)
        for row in rows:
            table.add_row(*(printable(_text(v)) for v in row.values()))
        width = None if sys.stdout.isatty() else 400
        Console(width=width, highlight=False, markup=False, emoji=False).print(table)  # [vocab=5] is not a tag


class Device(StrEnum):
    CPU = "cpu"
    CUDA = "cuda"


class Accept(StrEnum):
    RATIO = "ratio"
    MATCH = "match"
    ANY = "any"


class Logits(StrEnum):
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    FLOAT32 = "float32"
    FLOAT64 = "float64"


class Takes(StrEnum):
    LOGITS = "logits"
    LOG_PROBS = "log_probs"
    PROBS = "probs"


DeviceOption = Annotated[Device, typer.Option(help="Where the function runs, and whose arithmetic its law is.")]
LogitsOption = Annotated[Logits, typer.Option(help="In what dtype a function is given its logits.")]
DrawsOption = Annotated[
    int,
    typer.Option(
        min=1, help="Draws of one call of a function: torch.multinomial draws 1 and several differently."
    ),
]
TakesOption = Annotated[Takes, typer.Option(help="What a function is given.")]


@app.command()
def run(
    experiments: Annotated[list[str] | None, typer.Argument(help="Names; all if none is given.")] = None,
    profile: Annotated[Profile, typer.Option(help="How much of the grid.")] = Profile.QUICK,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for table, manifest and figure.")
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", help="Processes.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Seed of every cell's own stream.")] = 0,
    device: Annotated[
        Device, typer.Option(help="Where experiments that can choose run: timings, draws.")
    ] = Device.CPU,
) -> None:
    """Run experiments: measure, tabulate, draw. Interrupt at will; the same command resumes."""
    import os

    from . import devices, engine, report

    os.environ[devices.VARIABLE] = devices.checked(device.value)

    folder = out or Path("results" if profile is Profile.QUICK else f"results/{profile}")
    names = experiments or list(engine.experiments())
    for name in names:
        engine.load_study(name)  # unknown names fail before any long work
    files: list[Path] = []
    for name in names:
        result, written = report.run(name, profile, folder, seed=seed, jobs=jobs)
        files += written
        print(f"{name}: {result.manifest['verdict']}\n", file=sys.stderr, flush=True)
    print("Look at:")
    for path in files:
        if path.suffix in (".png", ".csv"):
            print(f"  {path}")


def _rows_of(target: str, row: int | None) -> Any:
    """A target by name, or one row of a file of logits."""
    from .targets import is_file_of_logits, load_row, parse_target

    if is_file_of_logits(target):
        return load_row(target, row or 0)
    if row is not None:
        raise InputError("--row with a synthetic target", "a file of logits", "leave --row out")
    return parse_target(target)


def _sampler(spec: str, takes: Takes, draws: int) -> Any:
    """The sampler of a name or a function; only a function can take anything but logits."""
    from dataclasses import replace

    from .samplers import FunctionSampler, resolve

    found = resolve(spec)
    if isinstance(found, FunctionSampler):
        return replace(found, takes=takes.value, draws=draws)
    if takes is not Takes.LOGITS:
        raise InputError(f"--takes {takes} for {found.name}", "a function of yours", "leave --takes out")
    return found


PipelineOption = Annotated[
    str | None,
    typer.Option(
        help="What is meant between logits and draw, in order: temperature=0.7 > top_k=50 > top_p=0.95 > min_p=0.05;"
        " or a published processor: 'vllm: temperature=0.7, top_k=50'.",
    ),
]


def _pipeline(text: str | None) -> Any:
    from .pipelines import parse_pipeline

    return None if text is None else parse_pipeline(text)


@app.command()
def law(
    sampler: Annotated[str, typer.Option(help="A name from `ls samplers`, file.py:name or module:name.")],
    target: Annotated[
        str, typer.Option(help="name[parameter=value,...] from `ls targets`, or a .safetensors file.")
    ],
    row: Annotated[int | None, typer.Option(help="Which row of the file.")] = None,
    use: UseOption = "lm",
    pipeline: PipelineOption = None,
    dtype: LogitsOption = Logits.FLOAT32,
    device: DeviceOption = Device.CPU,
    takes: TakesOption = Takes.LOGITS,
    draws: DrawsOption = 2,
    format: FormatOption = Format.TABLE,
) -> None:
    """The law of a sampler, or of your own function as it runs, on one target, against the target itself.
    Nothing is drawn but a few thousand tokens by which the reading of a function is confirmed.

    With --pipeline against the law that the steps mean, in float64: a function is given the raw logits, its
    own processors are in its law; before a sampler by name, which has none, the steps run in --dtype.
    """
    from .compare import compare, in_use, telling

    with redirect_stdout(sys.stderr):  # what a function prints is not data
        found = telling(_sampler(sampler, takes, draws))
        meant = _pipeline(pipeline)
        compared = compare(
            found,
            in_use(_rows_of(target, row), use),
            dtype=dtype.value,
            device=device.value,
            pipeline=meant,
        )
    emit([compared], format)


@app.command()
def explain(
    sampler: Annotated[str, typer.Argument(help="file.py:name, module:name, or a name from `ls samplers`.")],
    vocab: Annotated[int, typer.Option(min=2, help="Tokens of the row at which the function is read.")] = 1000,
    dtype: LogitsOption = Logits.FLOAT32,
    device: DeviceOption = Device.CPU,
    takes: TakesOption = Takes.LOGITS,
    draws: DrawsOption = 2,
    format: FormatOption = Format.TABLE,
) -> None:
    """How a function draws: source and bits, noise map, weights, join, dtypes, decision, ties, ceiling,
    smallest tail."""
    from .explain import explained

    with redirect_stdout(sys.stderr):  # what a function prints is not data
        words = explained(_sampler(sampler, takes, draws), vocab, dtype=dtype.value, device=device.value)
    emit([words], format)


DetectOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Effect to see: temperature=0.02 (the default), tail=0.1, tv=0.05, float32=1, sharing=0.1; repeatable."
    ),
]
FalseFail = Annotated[float, typer.Option(help="Chance to fail a right sampler, over all tests.")]
FalsePass = Annotated[float, typer.Option(help="Chance to pass a sampler that is off by the effect.")]


def show(report: Any, format: Format) -> None:
    """A verdict on stdout: headline, tests, recipes and command; as CSV the tests only."""
    if format is Format.JSON:
        print(json.dumps(_strict(report.json()), indent=2))
    elif format is Format.CSV:
        emit(report.rows(), format)
    else:
        said = _markdown if format is Format.MD else printable
        bold = "**" if format is Format.MD else ""
        print(f"{bold}{said(report.headline())}{bold}\n")
        if report.harms:
            emit([harm.row() for harm in report.harms], format)
            print()
        elif report.no_law:
            print(f"{said(report.no_law)}\n")
        emit(report.rows(), format)
        if report.suspects:
            print(f"\n{said(report.best_fit())}\n")
            emit(report.suspect_rows(), format)
        for note in report.all_notes():
            print(f"\n{said(note)}")
        if report.judged and report.exit_code != 0:
            print(f"\nscope: {said(report.scope())}")
        if report.shown and report.exit_code == 1:
            print(f"\nshown by: {_code(report.shown)}")
        if report.command:
            print(f"\nagain: {_code(report.command)}")
    raise typer.Exit(report.exit_code)


def _strict(value: Any) -> Any:
    """:func:`_plain` of everything inside."""
    if isinstance(value, dict):
        return {key: _strict(each) for key, each in value.items()}
    return [_strict(each) for each in value] if isinstance(value, list) else _plain(value)


@app.command()
def check(
    sampler: Annotated[
        str, typer.Argument(help="A name from `ls samplers`, file.py:function or module:function.")
    ],
    targets: Annotated[
        list[str] | None, typer.Option(help="name[parameter=value,...], or FILE[:ROW] of logits; repeatable.")
    ] = None,
    vocab: Annotated[int | None, typer.Option(help="Vocabulary of the named targets.")] = None,
    detect: DetectOption = None,
    false_fail: FalseFail = 1e-6,
    false_pass: FalsePass = 1e-3,
    use: UseOption = "lm",
    budget: Annotated[
        str | None,
        typer.Option(help="smoke, ci, full; seconds (20s, 1m, 10m); or noise values (3e9). Default: by --for."),
    ] = None,
    pipeline: PipelineOption = None,
    law: Annotated[bool, typer.Option(help="Ask for the sampler's own law too, where it can be read.")] = True,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    timeout: Annotated[float, typer.Option(help="Seconds that one call may take.")] = 60.0,
    ledger: Annotated[Path | None, typer.Option(help="Folder that keeps the evidence of earlier runs.")] = None,
    device: Annotated[Device, typer.Option(help="Where the sampler draws.")] = Device.CPU,
    call: Annotated[
        str | None,
        typer.Option(
            help="How it is called, where the names of its arguments do not tell: 'sample(probs, seed=seed, top_k=50)'."
        ),
    ] = None,
    batch: Annotated[
        bool, typer.Option("--batch", help="Also: a row's ids must not depend on company, order or padding.")
    ] = False,
    speculative: Annotated[
        bool,
        typer.Option(
            "--speculative",
            help="A speculative function, fn(draft_logits, target_logits, n, *, generator) -> (ids, accepted), "
            "or with draft_ids in place of n.",
        ),
    ] = False,
    accept: Annotated[
        Accept | None,
        typer.Option(
            help="What it promises to accept (ratio, the default: min(1, p/q); match: what equals the target's "
            "own draw; any: only tokens are judged)."
        ),
    ] = None,
    format: FormatOption = Format.TABLE,
) -> None:
    """Verdict on a sampler: exit 0 pass, 1 fail, 3 inconclusive; and which known recipe its draws look like."""
    if speculative:
        from .verdict.speculative import asked_of_tv, check_speculative

        if targets or ledger or call or batch or use != "lm":
            raise InputError(
                "--targets, --ledger, --call, --batch or --for with --speculative",
                "one of them",
                "its pairs are built in",
            )
        if budget not in (None, *map(str, Budget)):
            raise InputError(f"--budget {budget} with --speculative", ", ".join(Budget), "choose one")
        options = {} if vocab is None else {"vocab": vocab}
        verdict = check_speculative(
            sampler,
            promise=(accept or Accept.RATIO).value,
            tv=asked_of_tv(detect),
            false_fail=false_fail,
            false_pass=false_pass,
            budget=Budget(budget or "smoke"),
            seed=seed,
            timeout=timeout,
            device=device.value,
            say=lambda line: print(line, file=sys.stderr, flush=True),
            **options,
        )
        show(verdict, format)
    if accept is not None:
        raise InputError(
            "--accept without --speculative", "both", "--accept says what a speculative function does"
        )
    from .verdict import check as room

    report = room.check(
        sampler,
        targets=targets or (),
        vocab=vocab,
        use=use,
        law=law,
        pipeline=pipeline,
        detect=detect or room.DEFAULT_DETECT,
        false_fail=false_fail,
        false_pass=false_pass,
        budget=budget,
        seed=seed,
        timeout=timeout,
        ledger=ledger,
        device=device.value,
        call=call,
        batch=batch,
    )
    show(report, format)


@app.command()
def audit(
    draws: Annotated[
        Path, typer.Argument(help="tokens (n,) in .safetensors, .npz, .npy, .parquet, .json or .jsonl.")
    ],
    logits: Annotated[Path, typer.Option(help="logits (n, vocab), or one shared row; may be the same file.")],
    detect: DetectOption = None,
    pipeline: PipelineOption = None,
    false_fail: FalseFail = 1e-6,
    false_pass: FalsePass = 1e-3,
    seed: Annotated[int, typer.Option(min=0, help="Of simulated nulls.")] = 0,
    format: FormatOption = Format.TABLE,
) -> None:
    """The same verdict from files of draws and logits, for a sampler that cannot be imported."""
    from .verdict import audit as room

    wished = detect or room.DEFAULT_DETECT
    show(
        room.audit(
            draws,
            logits,
            detect=wished,
            false_fail=false_fail,
            false_pass=false_pass,
            seed=seed,
            pipeline=pipeline,
        ),
        format,
    )


@app.command()
def perplexity(
    samples: Annotated[
        Path,
        typer.Argument(
            help="tokens (n, length) in .npz, .npy, .parquet, .safetensors or .jsonl; or texts: .txt (one a line), .jsonl."
        ),
    ],
    tokenizer: Annotated[
        Path | None, typer.Option(help="tokenizer.json of the ids, of any kind, or its folder.")
    ] = None,
    judge: Annotated[
        str,
        typer.Option(
            help="smollm2 (reads the text; 93 MB on first use), the folder of a Hugging Face causal model (extra hf), "
            "or of a causal model of ours."
        ),
    ] = "smollm2",
    end: Annotated[
        str | None, typer.Option(help="Name or id of a token that ends a text, beside </s> and the like.")
    ] = None,
    mask: Annotated[
        str | None, typer.Option(help="Name or id of the mask, if its name does not say so.")
    ] = None,
    start: Annotated[
        bool | None,
        typer.Option(help="A start symbol before each text. Default: as the judge's own tokenizer has it."),
    ] = None,
    device: Annotated[Device, typer.Option(help="Where the judge runs.")] = Device.CPU,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.")] = 0,
    format: FormatOption = Format.TABLE,
) -> None:
    """Generative perplexity of your own samples, by each public definition, beside their diversity; 95 %
    intervals. Padding is cut, an end ends a text, and a mask that is left is an error."""
    from . import devices
    from .mdm import judges

    names = ("value", "low", "high", "n", "method")
    where = devices.checked(device.value)
    found = judges.report(samples, tokenizer, judge, seed=seed, start=start, device=where, end=end, mask=mask)
    for note in found.notes:
        print(f"note: {printable(note)}", file=sys.stderr)
    estimates = found.estimates.items()
    emit([{"quantity": key} | {name: getattr(e, name) for name in names} for key, e in estimates], format)


@app.command()
def bound(
    folder: Annotated[
        Path, typer.Argument(help="A masked language model saved by transformers, or one of ours.")
    ],
    text: Annotated[Path, typer.Argument(help="Texts: .txt (one a line), .jsonl; or ids (n, length).")],
    length: Annotated[int, typer.Option(min=1, help="Tokens of a window.")] = 128,
    passes: Annotated[int, typer.Option(min=1, help="Draws of masks for every window.")] = 4,
    mask: Annotated[str | None, typer.Option(help="Name or id of the mask; default: the tokenizer's.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the masks.")] = 0,
    device: Annotated[Device, typer.Option(help="Where the model runs.")] = Device.CPU,
    format: FormatOption = Format.TABLE,
) -> None:
    """At most so many nats per token does a masked diffusion model need for a text (the bound that it is trained
    on), 95 % over windows."""
    from . import devices
    from .mdm.bound import bound as measure

    where = devices.checked(device.value)
    mask_id = int(mask) if mask is not None and mask.isdecimal() else mask
    found = measure(folder, text, length=length, passes=passes, seed=seed, mask_id=mask_id, device=where)
    names = ("value", "low", "high", "n", "method")
    emit([{"quantity": "nats per token, at most"} | {name: getattr(found, name) for name in names}], format)


class What(StrEnum):
    SAMPLERS = "samplers"
    TARGETS = "targets"
    EXPERIMENTS = "experiments"


@app.command()
def ls(what: Annotated[What, typer.Argument()], format: FormatOption = Format.TABLE) -> None:
    """List what there is."""
    if what is What.SAMPLERS:
        from .samplers import SAMPLERS

        rows = [
            {
                "name": s.name,
                "publisher": s.publisher,
                "dtypes": str(s.stages),
                "ceiling": s.ceiling,
                "emulated": "no" if s.emulated is None else "yes",
                "source": s.source_ref,
            }
            for s in SAMPLERS.values()
        ]
    elif what is What.TARGETS:
        import inspect

        from .targets import TARGETS

        rows = [
            {
                "name": name,
                "parameters": ", ".join(
                    f"{p.name}={p.default}" for p in inspect.signature(make).parameters.values()
                ),
                "formula": (make.__doc__ or "").split("\n")[0],
            }
            for name, make in TARGETS.items()
        ]
    else:
        from . import engine

        rows = [{"name": name, "question": engine.load_study(name).question} for name in engine.experiments()]
    emit(rows, format)


class Kind(StrEnum):
    MDM = "mdm"
    AR = "ar"


@app.command()
def train(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run; its state resumes it.")] = Path(
        "runs/mdm"
    ),
    kind: Annotated[Kind, typer.Option(help="mdm: masked diffusion. ar: its rival, left to right.")] = Kind.MDM,
    sources: Annotated[
        str,
        typer.Option(help="Names of text sources by commas; all: those that pip, npm and apt can bring here."),
    ] = "chitchat,wikipedia",
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps in all; may change on resuming.")] = 2000,
    batch: Annotated[int, typer.Option(min=1, help="Windows in a step.")] = 32,
    length: Annotated[int, typer.Option(min=2, help="Tokens in a window.")] = 128,
    vocab: Annotated[int, typer.Option(help="Tokens of the byte-level BPE, trained if --out has none.")] = 8192,
    width: Annotated[int, typer.Option(min=64, help="A multiple of 64, the size of a head.")] = 256,
    layers: Annotated[int, typer.Option(min=1)] = 6,
    timed: Annotated[
        bool, typer.Option("--timed", help="Tell the network the time (Prop. 3.2: it gains nothing).")
    ] = False,
    save_every: Annotated[
        int, typer.Option(min=1, help="Steps between validations, each of which saves.")
    ] = 250,
    weight_bits: Annotated[
        int, typer.Option(help="Of the weights as written: 16, or 8 with a scale a row.")
    ] = 16,
    device: Annotated[Device, typer.Option(help="Both use bfloat16 products under autocast.")] = Device.CPU,
    threads: Annotated[int, typer.Option(min=1, help="Processor threads.")] = 2,
) -> None:
    """Train the masked diffusion model, or its autoregressive rival, on real text. Run it again to resume.

    With glibc, MALLOC_MMAP_THRESHOLD_=4000000000 MALLOC_TRIM_THRESHOLD_=8000000000 in the environment saves
    the page faults of large buffers: 1.5 times the speed at 16,384 tokens on one core.
    """
    if not 256 < vocab <= 65_536:
        raise InputError(f"vocab = {vocab}", "257 to 65,536", "ids are kept in 16 bits")
    if weight_bits not in (8, 16):
        raise InputError(f"--weight-bits {weight_bits}", "8 or 16", "choose one")
    if timed and kind is Kind.AR:
        raise InputError("--timed with --kind ar", "one of them", "a causal network has no time")
    if width % 64:
        raise InputError(f"width = {width}", "a multiple of 64", "heads have 64 numbers each")
    import torch

    from . import devices
    from .mdm import corpus
    from .mdm.denoiser import DenoiserConfig
    from .mdm.train import TrainConfig
    from .mdm.train import train as fit

    devices.checked(device.value)
    torch.set_num_threads(threads)
    shape = DenoiserConfig(vocab, layers, heads=width // 64, width=width, causal=kind is Kind.AR, timed=timed)
    config = TrainConfig(shape, steps, batch, length, evaluate_every=save_every, device=device.value)
    chosen = None if sources == "all" else tuple(sources.split(","))
    manifest = fit(config, corpus.load(out / "tokenizer.json", vocab, sources=chosen), out, bits=weight_bits)
    emit([{k: v for k, v in manifest["nats_per_token"].items() if k != "by_source"}], Format.TABLE)


class Model(StrEnum):
    MDM = "mdm"
    SMOLLM2 = "smollm2"


@app.command()
def capture(
    model: Annotated[
        Model, typer.Option(help="mdm: a trained folder. smollm2: downloads 93 MB on first use.")
    ] = Model.MDM,
    folder: Annotated[Path, typer.Option(help="Folder of the masked diffusion model.")] = Path("models/mdm"),
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File to write (.safetensors).")] = None,
    rows: Annotated[int, typer.Option(help="Rows of logits.")] = 25,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    device: Annotated[Device, typer.Option(help="Where the model runs.")] = Device.CPU,
) -> None:
    """Record logits of a real model on real held-out text, at several mask ratios."""
    import numpy as np
    import torch

    from . import devices
    from .files import read_json
    from .mdm import capture as recorder
    from .mdm import corpus
    from .provenance import file_sha256
    from .targets import save_capture

    devices.checked(device.value)
    rng = np.random.Generator(np.random.Philox(seed))
    path = out or Path("models") / model / "logits.safetensors"
    if model is Model.MDM:
        from .mdm.train import load_model

        denoiser, manifest = load_model(folder), read_json(folder / "manifest.json")
        held_out = folder / "validation.npy"
        if not held_out.is_file() or file_sha256(held_out) != manifest.get("validation_sha256"):
            raise InputError(
                f"no {held_out} of this model", "its held-out windows", "restore the file or train again"
            )
        text = torch.from_numpy(np.load(held_out, allow_pickle=False).astype(np.int64))
        weights = manifest["weights_sha256"]
        note = {"weights_sha256": weights, "text": "held-out windows, one masked position a row", "seed": seed}
        note["device"] = devices.described(device.value)
        taken = recorder.capture_mdm(denoiser.to(device.value), text, rows=rows, rng=rng, manifest=note)
    else:
        from .mdm import smollm2
        from .mdm.sources import SOURCES, documents

        network, tokenizer = smollm2.load()
        texts = [t for name in corpus.MODERN for t in documents(SOURCES[name]) if corpus.in_validation(t)]
        ids = [tokenizer.encode(t).ids[:128] for t in texts[:: max(len(texts) // (4 * rows), 1)]]
        text = torch.tensor([i for i in ids if len(i) == 128])
        source = smollm2.SMOLLM2
        note = {
            "package": source.requirement,
            "package_sha256": source.sha256,
            "licence": source.licence,
            "seed": seed,
        }
        note["text"] = "held-out documents of chitchat and wikipedia, next token at a random position"
        note["device"] = devices.described(device.value)
        taken = recorder.capture_smollm2(network.to(device.value), text, rows=rows, rng=rng, manifest=note)
    save_capture(path, taken)
    print(f"{len(taken.logits)} rows of {taken.logits.shape[1]} logits -> {path}")


def _numbers(option: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(
            f"{option} {text!r}", "whole numbers by commas", f"for example {option} 4096,50257"
        ) from None


SecondsOption = Annotated[float, typer.Option(help="Of timing, shared by all samplers (of a cell).")]


@app.command()
def bench(
    vocab: Annotated[str, typer.Option(help="Vocabularies, by commas.")] = "50257",
    batch: Annotated[str, typer.Option(help="Batches, by commas.")] = "1,8",
    seconds: SecondsOption = 5.0,
    rows: Annotated[
        str, typer.Option(help="Logits whose laws are compared: zipf, normal or zipf,normal.")
    ] = "zipf",
    sampler: Annotated[
        list[str] | None, typer.Option(help="Only these, beside float32 Gumbel-max; repeatable.")
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder that keeps what is measured: the same command resumes.")
    ] = Path("runs/bench"),
    laws: Annotated[
        bool, typer.Option("--laws", help="Time exact laws by vocabulary and bits instead.")
    ] = False,
    models: Annotated[
        bool,
        typer.Option("--models", help="What adapters and decoders add to a network instead: time, memory."),
    ] = False,
    device: Annotated[
        Device, typer.Option(help="Where samplers draw; laws are computed on the CPU.")
    ] = Device.CPU,
    format: FormatOption = Format.TABLE,
) -> None:
    """Cost beside fidelity: samplers in turn, as ratios to float32 Gumbel-max in its best chunks, with 95 %
    intervals; memory, random bits, total variation, ceiling. Or the cost of exact laws."""
    if models:
        from .bench.models import bench_models

        emit(bench_models(), format)
        return
    if laws:
        from .bench.laws import bench_laws

        emit(bench_laws(), format)
        return
    from .bench import grid, h100

    wanted = tuple(rows.split(","))
    if not set(wanted) <= {"zipf", "normal"}:
        raise InputError(f"--rows {rows}", "zipf, normal or zipf,normal", "choose")
    vocabs = _numbers("--vocab", vocab)
    batches = _numbers("--batch", batch)
    table = grid.run(
        vocabs,
        batches,
        seconds=seconds,
        device=device.value,
        rows=wanted,
        samplers=tuple(sampler) if sampler else None,
        folder=out,
    )
    found = table.to_dict("records")
    blank = dict.fromkeys(table.columns)
    emit(found + [blank | row for row in h100.rows(vocabs, batches)], format)


@app.command()
def choose(
    vocab: Annotated[int | None, typer.Option(help="Tokens: of a Zipf row, if there is no --target.")] = None,
    batch: Annotated[int, typer.Option(help="Rows drawn at once.")] = 1,
    temperature: Annotated[float, typer.Option(help="Of the token.")] = 1.0,
    top_k: Annotated[int | None, typer.Option("--top-k")] = None,
    top_p: Annotated[float | None, typer.Option("--top-p")] = None,
    min_p: Annotated[float | None, typer.Option("--min-p")] = None,
    use: UseOption = "lm",
    target: Annotated[
        str | None, typer.Option(help="name[parameter=value,...], or FILE[:ROW] of logits: your own row.")
    ] = None,
    device: DeviceOption = Device.CPU,
    seconds: SecondsOption = 5.0,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    format: FormatOption = Format.TABLE,
) -> None:
    """Which sampler should I use? On this machine, in one use: what each gets wrong, by its law, beside what
    it costs; and one recommendation."""
    from .bench import choose as room

    found = room.choose(
        vocab=vocab,
        batch=batch,
        use=use,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        target=target,
        device=device.value,
        seconds=seconds,
        seed=seed,
    )
    if format is Format.JSON:
        whole = {"recommendation": found.recommendation, "given": found.given, "samplers": found.rows}
        print(json.dumps(_strict(whole), indent=2))
        return
    if format is not Format.CSV:
        bold = "**" if format is Format.MD else ""
        said = _markdown if format is Format.MD else printable
        print(f"{bold}{said(found.recommendation)}{bold}\n\n{said(found.given)}\n")
    emit(found.rows, format)


@app.command()
def overhead(
    vocab: Annotated[int, typer.Option(min=1, help="Vocabulary.")] = 8192,
    rows: Annotated[int, typer.Option(min=1, help="Rows drawn from at once.")] = 1,
    seconds: SecondsOption = 20.0,
    memory: Annotated[
        bool,
        typer.Option("--memory", help="Peak memory of up to 1e8 draws at a vocabulary of 151,936 instead."),
    ] = False,
    format: FormatOption = Format.TABLE,
) -> None:
    """What ``draw`` and a Study cost beside the bare torch expression in its best chunks, as ratios in one
    run."""
    from .bench import overhead as measure

    emit(measure.memory() if memory else measure.overhead(vocab=vocab, rows=rows, seconds=seconds), format)


@app.command()
def gallery(
    show_defects: Annotated[
        bool, typer.Option("--defects", help="The twelve defects, by law and by draws.")
    ] = False,
    pipelines: Annotated[
        bool, typer.Option("--pipelines", help="Faults of published temperature, top-k, top-p and min-p.")
    ] = False,
    orders: Annotated[
        bool, typer.Option("--orders", help="What the order of two such steps is worth, on rows in models/.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    format: FormatOption = Format.TABLE,
) -> None:
    """Published samplers, each with its recipe's source, ceiling and stages; or what is wrong with some of
    them."""
    if pipelines:
        from .pipelines.faults import FAULTS

        emit([fault.row() for fault in FAULTS], format)
        return
    if orders:
        from .pipelines.faults import order_rows

        found = {path.parent.name: path for path in sorted(Path("models").glob("*/logits.safetensors"))}
        if not found:
            raise InputError(
                "no models/*/logits.safetensors here", "rows of real logits", "precision-lab capture"
            )
        emit(list(order_rows(found)), format)
        return
    if show_defects:
        from .defects import defects

        emit(list(defects(seed=seed)), format)
        return
    from .samplers import PUBLISHED

    rows = [
        {
            "name": s.name,
            "publisher": s.publisher,
            "arithmetic": s.backend,
            "dtypes": str(s.stages),
            "ceiling": s.ceiling,
            "emulated": "no" if s.emulated is None else "yes",
            "source": s.source_ref,
        }
        for s in PUBLISHED.values()
    ]
    emit(rows, format)


@app.command()
def measure(
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write (.npz).")],
    op: Annotated[
        str, typer.Option(help="rand, exponential_, gumbel (-log(-log(rand))) or race (-log(rand)).")
    ] = "gumbel",
    dtype: Annotated[str, typer.Option(help="fp16, bf16, fp32 or fp64.")] = "fp32",
    device: Annotated[Device, typer.Option(help="Whose arithmetic.")] = Device.CPU,
    format: FormatOption = Format.TABLE,
) -> None:
    """Write this machine's noise table: every word of the generator through the device's own arithmetic,
    counted."""
    from .measure import measure as write

    emit([write(op, dtype, device.value, out)], format)


@app.command()
def doctor(format: FormatOption = Format.TABLE) -> None:
    """What this machine has, and which word maps its torch is found to take. Exit 1 only where one is
    unknown."""
    from .doctor import checks

    rows = checks()
    emit(rows, format)
    if any(row["state"] == "unusable" for row in rows):
        raise typer.Exit(1)


def _refuse(line: str) -> NoReturn:
    print(f"error: {printable(' '.join(line.splitlines()))}", file=sys.stderr)
    sys.exit(2)


def main() -> None:
    """Entry point: every error a user can mend is one line on stderr and exit 2."""
    try:
        code = app(standalone_mode=False)  # None, or the code of a typer.Exit; typer makes 130 of Ctrl-C
    except PrecisionLabError as error:
        _refuse(str(error))
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except OSError as error:
        place = "files that can be read and folders that can be written to"
        _refuse(f"got {error}; expected {place}; mend it, or name another: what is measured is kept")
    except Exception as error:
        if type(error).__module__.startswith(("click", "typer")) and hasattr(error, "show"):
            error.show()
            sys.exit(2)
        raise
    if code == 130:
        print("interrupted; run the same command again to resume", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()

"""What only a GPU can tell, in one script of at most four minutes: `make gpu`.

Steps, each within its own share of the time: the tests marked ``gpu``; the noise tables of the device, by
`precision-lab measure`; draws of a head and a tail by five samplers. Their results go to
results/gpu/<card>.json, with the card's name, torch's version and the driver's. Without a CUDA device it
says so in one line and exits with 2. `--device cpu` tries the steps with small numbers on a processor, and
prints what it found unless --out names a folder.

A head at logit 0 and round(0.1 e^gap) tokens at -gap: the tail has p = 0.0909 of the mass. n draws tell a
tail that is off by the factor 1 +- d from one that is not if n = (z_a + z_b)^2 (1 - p) / (p d^2): with z_a
= 4.89 a right sampler is called wrong once in a million, two-sided, and with z_b = 3.09 a wrong one missed
once in a thousand.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import torch
from gpu_kernels import benchmark
from scipy import stats
from torch import Tensor

from precision_lab.errors import InputError
from precision_lab.files import write_json
from precision_lab.provenance import git_commit, processor
from precision_lab.targets.synthetic import head_and_tail

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "results" / "gpu"
FALSE_FAIL = 1e-6
FALSE_PASS = 1e-3
EFFECTS = {
    14.0: 0.025,
    15.0: 0.05,
    16.0: 0.05,
    17.0: 0.1,
}  # gap: the d that must be seen; by gap 17 draws cost 2.4M words
DRY_EFFECTS = {5.0: 0.2, 6.0: 0.2}
TABLES = [("gumbel", "fp32"), ("race", "fp32"), ("exponential_", "fp32"), ("rand", "fp32")]
DRY_TABLES = [("rand", "bf16")]
SECONDS = {
    "tests": 60,
    "tables": 50,
    "draws": 75,
    "kernels": 35,
}  # of each step; 20 are left for imports and files
WORDS = {"cuda": 1 << 28, "cpu": 1 << 20}  # drawn at a time


# -- head and tail
def draws_needed(tail_mass: float, effect: float) -> int:
    """n of the module's formula. ``tail_mass``: p; ``effect``: d, relative."""
    z = stats.norm.isf(FALSE_FAIL / 2) + stats.norm.isf(FALSE_PASS)
    return int(np.ceil(z**2 * (1 - tail_mass) / (tail_mass * effect**2)))


def multinomial(logits: Tensor, rows: int, rng: torch.Generator) -> Tensor:
    probs = torch.softmax(logits, dim=-1).expand(rows, -1)
    return torch.multinomial(probs, 1, generator=rng).squeeze(-1)


def gumbel_line(logits: Tensor, rows: int, rng: torch.Generator) -> Tensor:
    u = torch.rand(rows, len(logits), generator=rng, device=logits.device)
    return (logits - torch.log(-torch.log(u))).argmax(dim=-1)


def race_line(logits: Tensor, rows: int, rng: torch.Generator) -> Tensor:
    noise = torch.empty(rows, len(logits), device=logits.device).exponential_(generator=rng)
    return (torch.softmax(logits, dim=-1) / noise).argmax(dim=-1)


@cache
def compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return torch.compile(function, dynamic=True)


def gumbel_like(like: Tensor, logits: Tensor) -> Tensor:
    return (logits - torch.log(-torch.log(torch.rand_like(like)))).argmax(dim=-1)


def race_like(like: Tensor, probs: Tensor) -> Tensor:
    return (probs / torch.empty_like(like).exponential_()).argmax(dim=-1)


def compiled_gumbel(logits: Tensor, rows: int, rng: torch.Generator) -> Tensor:
    """Compiled code draws from the global generator, which takes a seed from ``rng``."""
    seed_global(rng)
    return compiled(gumbel_like)(logits.expand(rows, -1), logits)


def compiled_race(logits: Tensor, rows: int, rng: torch.Generator) -> Tensor:
    seed_global(rng)
    return compiled(race_like)(logits.expand(rows, -1), torch.softmax(logits, dim=-1))


def seed_global(rng: torch.Generator) -> None:
    torch.manual_seed(int(torch.randint(1 << 62, (1,), generator=rng, device=rng.device)))


SAMPLERS: dict[str, Callable[[Tensor, int, torch.Generator], Tensor]] = {
    "torch.multinomial(p, 1)": multinomial,
    "argmax(logits - log(-log(rand)))": gumbel_line,
    "argmax(p / exponential_)": race_line,
    "compiled argmax(logits - log(-log(rand)))": compiled_gumbel,
    "compiled argmax(p / exponential_)": compiled_race,
}


def head_and_tail_point(name: str, gap: float, effect: float, device: str, deadline: float) -> dict[str, Any]:
    """Draws of one sampler at one gap, until n or the deadline (time.monotonic): counts, and the share of
    the true tail with its exact binomial interval of 95 %."""
    exact = head_and_tail(gap)
    tail = float(-np.expm1(exact[0] - np.logaddexp.reduce(exact)))
    wanted = draws_needed(tail, effect)
    logits = torch.from_numpy(exact).float().to(device)
    rows = min(max(WORDS[device] // len(logits), 1), wanted)
    rng = torch.Generator(device).manual_seed(round(1000 * gap) + list(SAMPLERS).index(name))
    n = 0
    hits = torch.zeros((), dtype=torch.int64, device=device)
    started = time.monotonic()
    while n < wanted and time.monotonic() < deadline:
        hits += (SAMPLERS[name](logits, rows, rng) > 0).sum()
        n += rows
        if device == "cuda":
            torch.cuda.synchronize()
    point = {"sampler": name, "gap": gap, "vocab": len(logits), "effect": effect, "n_wanted": wanted, "n": n}
    point |= {"tail_draws": int(hits), "true_tail": tail, "seconds": round(time.monotonic() - started, 2)}
    if n:
        interval = stats.binomtest(int(hits), n).proportion_ci(0.95)
        point |= {"ratio": int(hits) / n / tail, "low": interval.low / tail, "high": interval.high / tail}
    return point


def draw_points(device: str, deadline: float) -> dict[str, Any]:
    """Every sampler at every gap, the cheap gaps first, so that what a deadline cuts off is the dearest."""
    points = []
    for gap, effect in (EFFECTS if device == "cuda" else DRY_EFFECTS).items():
        for name in SAMPLERS:
            point = head_and_tail_point(name, gap, effect, device, deadline)
            say(f"gap {gap:g}, {name}: {point.get('ratio', float('nan')):.4f} of the tail, n = {point['n']}")
            points.append(point)
    enough = all(point["n"] >= point["n_wanted"] for point in points)
    return {"ok": enough, "false_fail": FALSE_FAIL, "false_pass": FALSE_PASS, "points": points}


# -- the other steps
def run_marked_tests(device: str, deadline: float) -> dict[str, Any]:
    """The tests marked ``gpu``; on a processor they are skipped, each with its reason."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "gpu", "tests"]
        ended = subprocess.run(
            [*pytest, f"--junitxml={report}"], cwd=ROOT, stdout=sys.stderr, timeout=left(deadline), check=False
        )
        cases = {}
        for case in ElementTree.parse(report).getroot().iter("testcase"):
            state = {child.tag for child in case}
            outcome = "skipped" if "skipped" in state else "passed"
            if state & {"failure", "error"}:
                outcome = "failed"
            cases[f"{case.get('classname')}::{case.get('name')}"] = outcome
    return {"ok": ended.returncode == 0, "tests": cases}


def measure_tables(device: str, deadline: float) -> dict[str, Any]:
    """What `precision-lab measure` says of each table; the tables themselves, up to a gigabyte, are not
    kept."""
    rows = []
    for op, dtype in TABLES if device == "cuda" else DRY_TABLES:
        with tempfile.TemporaryDirectory() as folder:
            options = ["--op", op, "--dtype", dtype, "--device", device, "--format", "json"]
            command = [
                sys.executable,
                "-m",
                "precision_lab",
                "measure",
                *options,
                "--out",
                f"{folder}/table.npz",
            ]
            done = subprocess.run(
                command, cwd=ROOT, capture_output=True, text=True, timeout=left(deadline), check=False
            )
        if done.returncode:
            rows.append({"op": op, "dtype": dtype, "error": done.stderr.strip().splitlines()[-1:]})
            continue
        row = json.loads(done.stdout)
        row.pop("file", None)
        rows.append({"op": op, "dtype": dtype, **row})
    return {"ok": not any("error" in row for row in rows), "tables": rows}


STEPS: dict[str, Callable[[str, float], dict[str, Any]]] = {
    "draws": draw_points,
    "tables": measure_tables,
    "tests": run_marked_tests,
    "kernels": benchmark,
}


# -- the whole
@dataclass(frozen=True)
class Card:
    """``name`` of the device, ``driver`` of it, and the name of its file."""

    name: str
    driver: str

    @property
    def slug(self) -> str:
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")


def card_of(device: str) -> Card:
    """Raises InputError where there is no such device."""
    if device == "cpu":
        return Card(processor(), "none")
    if not torch.cuda.is_available():
        raise InputError(
            "no CUDA device", "one", "run this on a machine with a GPU, or try it with --device cpu"
        )
    try:
        driver = Path("/proc/driver/nvidia/version").read_text().splitlines()[0]
    except OSError:
        driver = "unknown"
    return Card(torch.cuda.get_device_name(), driver)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def left(deadline: float) -> float:
    return max(deadline - time.monotonic(), 1.0)


def run(device: str, steps: list[str]) -> dict[str, Any]:
    card = card_of(device)
    result: dict[str, Any] = {
        "device": card.name,
        "driver": card.driver,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "commit": git_commit(),
    }
    for name in steps:
        started = time.monotonic()
        say(f"{name}: at most {SECONDS[name]} s")
        try:
            result[name] = STEPS[name](device, started + SECONDS[name])
        except subprocess.TimeoutExpired:
            result[name] = {"ok": False, "error": f"not done after {SECONDS[name]} s"}
        except (RuntimeError, OSError, ValueError, ElementTree.ParseError) as error:
            result[name] = {"ok": False, "error": f"{type(error).__name__}: {str(error).splitlines()[:1]}"}
        result[name]["seconds"] = round(time.monotonic() - started, 1)
        say(f"{name}: {'done' if result[name]['ok'] else 'NOT DONE OR FAILED'}, {result[name]['seconds']} s")
    return result


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="The measurements that need a GPU, in four minutes.")
    parser.add_argument(
        "--device", choices=["cuda", "cpu"], default="cuda", help="cpu: a dry run with small numbers"
    )
    parser.add_argument("--steps", nargs="+", choices=list(STEPS), default=list(STEPS))
    parser.add_argument("--out", type=Path, help="folder of the result; results/gpu for a GPU")
    chosen = parser.parse_args(arguments)
    try:
        result = run(chosen.device, chosen.steps)
    except InputError as error:
        say(f"error: {error}")
        return 2
    folder = chosen.out or (RESULTS if chosen.device == "cuda" else None)
    if folder is None:
        print(json.dumps(result, indent=2))
    else:
        path = folder / f"{card_of(chosen.device).slug}.json"
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, result)
        say(f"written: {path}")
    return 0 if all(result[name]["ok"] for name in chosen.steps) else 1


if __name__ == "__main__":
    sys.exit(main())

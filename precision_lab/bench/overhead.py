"""What the library costs beside the bare torch expression of the same recipe: draws a second of ``draw`` and of
a Study, in one run, and the memory of many draws.

The bare expression is written as its publisher does, in a loop over chunks, and gets the best of several sizes
of a chunk: see :mod:`.timing`.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import engine
from ..errors import InputError
from ..samplers import SAMPLERS, Sampler
from ..targets.synthetic import zipf
from ..types import Profile
from ..uniforms import Rng
from .rivals import Way
from .timing import CHUNKS, Clock, paired, ratio

BLOCK = 1 << 20  # draws whose ids are held at once where draws are counted
VALUES = 1 << 25  # noise values of one visit


def _gumbel(logits: Tensor, rng: torch.Generator, count: int) -> Tensor:
    u = torch.rand((count, *logits.shape), generator=rng, dtype=logits.dtype)
    return (logits - torch.log(-torch.log(u))).argmax(-1)


def _race(probs: Tensor, rng: torch.Generator, count: int) -> Tensor:
    u = torch.rand((count, *probs.shape), generator=rng, dtype=probs.dtype)
    return (probs / -torch.log(u)).argmax(-1)


def _multinomial(probs: Tensor, rng: torch.Generator, count: int) -> Tensor:
    many = probs.expand(count, *probs.shape).reshape(-1, probs.shape[-1])
    return torch.multinomial(many, 1, generator=rng).reshape(count, -1)


def _softmax(logits: Tensor) -> Tensor:
    return torch.softmax(logits, -1)


# What a draw of the recipe is without the library: of the logits once, and of a number of draws.
EXPRESSIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor, torch.Generator, int], Tensor]]] = {
    "gumbel_max_fp32": (Tensor.float, _gumbel),
    "gumbel_max_fp64": (Tensor.double, _gumbel),
    "exponential_race_fp32": (_softmax, _race),
    "torch_multinomial_fp32": (_softmax, _multinomial),
}

# An experiment of one cell that draws and counts: what the engine adds is all that is measured.
_STUDY = """
import numpy as np
import torch
from precision_lab import SAMPLERS
from precision_lab.study import Analysis, Study
from precision_lab.targets.synthetic import zipf

CELL = {cell!r}


def measure(cell, rng):
    logits = torch.from_numpy(zipf(cell["vocab"])).float().expand(cell["rows"], -1)
    generator = torch.Generator().manual_seed(int(rng.integers(1 << 62)))
    ids = SAMPLERS[cell["sampler"]].draw(logits, cell["draws"], rng=generator)
    return [cell | {{"head": int((ids == 0).sum())}}]


def nothing(rows):
    return Analysis(head="times are taken outside")


STUDY = Study("{name}", "what does the engine cost?", lambda profile: [CELL], measure, nothing, print)
"""


def overhead(
    *, vocab: int = 8192, rows: int = 1, seconds: float = 20.0, samplers: tuple[str, ...] = tuple(EXPRESSIONS)
) -> list[dict[str, Any]]:
    """A row for each sampler and way: microseconds a draw of a row, and draws a second over those of the best
    bare expression, the median over rounds with its 95 % bootstrap interval. ``vocab`` of a Zipf row, the same
    for all ``rows``; ``seconds`` of each sampler. Errors: InputError for a sampler without an expression."""
    table = []
    rng = np.random.default_rng(0)
    for name in samplers:
        if name not in EXPRESSIONS:
            raise InputError(f"sampler {name!r}", f"one of {', '.join(EXPRESSIONS)}", "give one of these names")
        draws = max(1, VALUES // (vocab * rows))
        print(f"overhead of {name}, vocabulary {vocab}, {rows} rows, {draws} draws", file=sys.stderr)
        with tempfile.TemporaryDirectory() as folder:
            ways = _ways(name, vocab, rows, draws, Path(folder))
            taken = paired(ways, clock=Clock.of("cpu"), seconds=seconds)
        bare = min(
            (way for way in taken if way.startswith("bare")), key=lambda way: statistics.median(taken[way])
        )
        for way in ("draw", "study", bare):
            found = ratio(taken[bare], taken[way], rng=rng)
            table.append(
                {
                    "sampler": name,
                    "vocab": vocab,
                    "rows": rows,
                    "way": way,
                    "us_per_draw": statistics.median(taken[way]) / draws / rows * 1e6,
                    "draws_per_second_over_bare": found.value,
                    "low": found.low,
                    "high": found.high,
                    "rounds": len(taken[way]),
                }
            )
    return table


def _ways(name: str, vocab: int, rows: int, draws: int, folder: Path) -> dict[str, Way]:
    sampler = SAMPLERS[name]
    logits = torch.from_numpy(zipf(vocab)).float().expand(rows, -1).contiguous()
    rng = torch.Generator().manual_seed(0)
    prepare, draw = EXPRESSIONS[name]

    def bare(at_once: int) -> None:
        given = prepare(logits)
        out = torch.empty((draws, rows), dtype=torch.int64)
        for start in range(0, draws, at_once):
            count = min(at_once, draws - start)
            out[start : start + count] = draw(given, rng, count)

    study = f"overhead_{name}"
    cell = {"sampler": name, "vocab": vocab, "rows": rows, "draws": draws}
    (folder / f"{study}.py").write_text(_STUDY.format(cell=cell, name=study))
    visits = iter(range(1 << 30))

    def by_engine() -> None:
        engine.run(study, Profile.SMOKE, folder / f"visit{next(visits)}", folder=folder)

    sizes = sorted({min(draws, max(1, values // (vocab * rows))) for values in CHUNKS})
    ways: dict[str, Way] = {"draw": lambda: sampler.draw(logits, draws, rng=rng), "study": by_engine}
    return ways | {f"bare, {size} at once": lambda size=size: bare(size) for size in sizes}


def drawn_in_blocks(sampler: Sampler, logits: Tensor, n: int, *, rng: Rng) -> Iterator[Tensor]:
    """Ids of ``n`` draws of one row, at most :data:`BLOCK` at a time."""
    for start in range(0, n, BLOCK):
        yield sampler.draw(logits, min(BLOCK, n - start), rng=rng)


def memory(*, vocab: int = 151_936, draws: dict[str, tuple[int, ...]] | None = None) -> list[dict[str, Any]]:
    """Peak memory of a process that makes so many draws of a Zipf row and counts them: each in a process of its
    own. ``draws``: for each sampler numbers of draws; a first process of one draw is what all need."""
    wanted = draws or {"faithful_masses": (10**6, 10**8), "gumbel_max_fp32": (100, 1000)}
    table = []
    for name, numbers in wanted.items():
        for n in (1, *numbers):
            print(f"memory of {n} draws of {name}, vocabulary {vocab}", file=sys.stderr)
            command = [sys.executable, "-m", "precision_lab.bench.overhead", name, str(vocab), str(n)]
            found = subprocess.run(command, capture_output=True, text=True, check=True)
            table.append({"sampler": name, "vocab": vocab, "draws": n} | json.loads(found.stdout))
    return table


def _count(name: str, vocab: int, n: int) -> dict[str, float]:
    """What a process of :func:`memory` prints."""
    logits = torch.from_numpy(zipf(vocab)).float()
    counts = np.zeros(vocab, dtype=np.int64)
    started = time.process_time()
    for ids in drawn_in_blocks(SAMPLERS[name], logits, n, rng=torch.Generator().manual_seed(0)):
        counts += np.bincount(ids.numpy(), minlength=vocab)
    assert counts.sum() == n
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10  # kilobytes on Linux
    return {"seconds": time.process_time() - started, "peak_mib": peak}


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(_count(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))

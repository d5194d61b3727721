"""Does float32 noise cost a real model's text its diversity, the more the more steps, and is it the noise's ceiling?

Answers the figures of arXiv:2409.02908 that plot entropy against steps in 32 and 64 bits, and RADD's sweep
(arXiv:2406.03736: float64 flat, float32 falling). models/mdm256: 16,384 tokens, sequences of 256, bfloat16 matrix
products. Ancestral steps, event-driven: with float32, float64 and truncated float64 noise from the closed-form law of a step,
with half-precision noise from the exact one. float32 again by brute force, every draw made (half precision: in ``decoders``);
two-stage: unmasking by float64 Bernoulli draws, the token by float32 Gumbel-max. Judged in ``generative_perplexity``. Fixed
before the run: the mean over sequences is the headline, the median stands beside it. The committed long run is added.
Cost: 20 ms a network call, at most 256 calls a sequence; brute force N * 256 * 16,384 / 2 noise values besides.
"""

from functools import cache
from itertools import product
from pathlib import Path

import numpy as np

from precision_lab import figures
from precision_lab.files import read_json
from precision_lab.mdm.denoiser import Autocast
from precision_lab.mdm.texts import batches, generate, real_texts, rows
from precision_lab.mdm.train import load_model
from precision_lab.result import average, averages, with_long_run
from precision_lab.statistics import cluster_bootstrap, difference, sequence_entropy
from precision_lab.statistics.entropies import to_bits
from precision_lab.study import Study

ROOT, LENGTH, BATCH, KEY = Path(__file__).parent.parent, 256, 4, ["decoder", "sampler", "steps"]
MODEL = ROOT / "models" / "mdm256"
FP32, FP64, CUT = "gumbel_max_fp32", "gumbel_max_fp64", "gumbel_max_fp64_truncated"
HALF, LINES = ("gumbel_max_fp16", "gumbel_max_bf16"), ("-", "-", "none", "none", "none", ":", ":")
SWEEP = (32, 128, 512, 1024, 4096, 16384, 50_000)  # RADD's range, and on
GRID = {
    "smoke": [("event_driven", FP32, 2, 1), ("two_stage", FP32, 2, 1), ("ancestral", FP32, 2, 1)],
    "quick": [
        ("event_driven", FP32, 2048, 1),  # no point of the long run: its numbers stay what they are
        ("two_stage", FP32, 32, 1),
        ("ancestral", FP32, 2, 1),
        ("event_driven", FP64, 2, 1),
    ],
    "full": [
        *(("event_driven", sampler, steps, 16) for sampler in (FP32, FP64) for steps in SWEEP),
        *((*run, steps, 16) for run in (("event_driven", CUT), ("two_stage", FP32)) for steps in (4096, 50_000)),
        *(("ancestral", FP32, steps, 8) for steps in (32, 128)),
        *(("event_driven", sampler, steps, 8) for sampler in HALF for steps in (32, 512, 4096, 50_000)),
    ],
}
CONTRAST_AT, CONTRASTS = (32, 512, 4096, 50_000), [  # decoder and sampler, less decoder and sampler
    *((("event_driven", sampler), ("event_driven", FP64)) for sampler in (FP32, CUT, *HALF)),
    (("event_driven", FP32), ("event_driven", CUT)), (("two_stage", FP32), ("event_driven", FP64)),
    (("event_driven", FP32), ("ancestral", FP32)),
]  # fmt: skip
COLUMNS = ["sequence_entropy", "distinct_1", "distinct_2", "repetition_3"]
model = cache(lambda: Autocast(load_model(MODEL)))


def cells(profile):
    weights = read_json(MODEL / "manifest.json")["weights_sha256"][:12]
    return [
        dict(zip(KEY, run, strict=True)) | part | {"weights": weights}
        for *run, total in GRID[profile]
        for part in batches(total, BATCH)
    ]


def measure(cell, rng):
    done = generate(model(), *(cell[key] for key in KEY), batch=cell["sequences"], length=LENGTH, rng=rng)
    return [cell | row for row in rows(done)]


def everything(frame):
    return with_long_run(frame, ROOT, "generation", [*KEY, "sequences", "part", "weights", "sequence"])


def summary(frame):
    """Means over sequences with 95 % bootstrap intervals; the sequence entropy in bits, its median, sequences below 1 nat."""
    both = everything(frame)
    table, each = averages(both, KEY, COLUMNS), both.groupby(KEY).sequence_entropy
    table["bits"], table["median"] = to_bits(table.sequence_entropy), each.median().to_numpy()
    table["degenerate"] = each.apply(lambda values: int((values < 1).sum())).to_numpy()
    return table


def slope(both, sampler):
    """Nats a doubling of N, least squares over all event-driven sequences of RADD's range, bootstrap over sequences."""
    part = both[(both.decoder == "event_driven") & (both.sampler == sampler) & both.steps.between(32, 4096)]
    x, y = np.log2(part.steps.to_numpy()), part.sequence_entropy.to_numpy()
    if len(set(x)) < 3:
        return None
    fit = lambda at: float(np.cov(x[at], y[at])[0, 1] / max(np.var(x[at], ddof=1), 1e-12))  # noqa: E731
    return cluster_bootstrap(fit, len(y), rng=np.random.default_rng(0))


@cache
def real():
    """Held-out text in windows of the same length."""
    return average(sequence_entropy(real_texts(MODEL)[:, :LENGTH]))


def draw(frame):
    table = summary(frame)
    table = table[
        (table.n >= 8) | (table.n.max() < 8)
    ]  # a fresh single text has no interval: not among those that have
    figure, panels = figures.canvas(2, width=4.8, height=3.9)
    lines = (
        ("event_driven", FP32),
        ("event_driven", FP64),
        ("event_driven", CUT),
        ("two_stage", FP32),
        ("ancestral", FP32),
        *(("event_driven", sampler) for sampler in HALF),
    )
    for k, (decoder, sampler) in enumerate(lines):
        part = table[(table.decoder == decoder) & (table.sampler == sampler)].sort_values("steps")
        name = f"{decoder.replace('_', '-').replace('ancestral', 'brute force')}, {sampler.removeprefix('gumbel_max_')}"
        for axes, column in zip(panels, ("sequence_entropy", "distinct_2"), strict=True):
            low, high = part[f"{column}_low"], part[f"{column}_high"]
            at = part.steps * 1.05 ** (k - 2)  # side by side
            figures.interval(
                axes, at, part[column], low, high, label=name, index=k, line="-" if k < 2 else ":" if k > 4 else "none"
            )
    panels[0].axhline(real().value, color="black", ls=":", lw=1.2, label="real text")
    panels[0].set(ylabel=f"mean sequence entropy (nats, {LENGTH} tokens)")
    panels[1].set(ylabel="different bigrams / bigrams of a sequence")
    for axes in panels:
        axes.set(xscale="log", xlabel="ancestral steps N")
    panels[0].set_title("Diversity of the text against steps, 95 %")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", fontsize=7.5, ncols=3)
    return figure


def verdict(frame):
    both, text = everything(frame), real()
    parts = [
        f"Mean sequence entropy, nats, 95 % bootstrap; real text {text.value:.3f} [{text.low:.3f}, {text.high:.3f}]"
    ]
    slopes = {sampler: slope(both, sampler) for sampler in (FP32, FP64)}
    if all(slopes.values()):
        gap = difference(*slopes.values())
        parts.append(f"RADD's shape is {'' if gap.high < 0 else 'not '}reproduced: per doubling of N, 32 to 4096, "
                     + ", ".join(f"{s} {e.value:+.4f} [{e.low:+.4f}, {e.high:+.4f}] (n = {e.n})" for s, e in slopes.items())
                     + f", difference [{gap.low:+.4f}, {gap.high:+.4f}]")  # fmt: skip
    groups = {key: average(part.sequence_entropy.to_numpy()) for key, part in both.groupby(KEY) if len(part) > 1}
    for steps, (a, b) in product(CONTRAST_AT, CONTRASTS):
        if {(*a, steps), (*b, steps)} <= groups.keys():
            gap = difference(groups[*a, steps], groups[*b, steps])
            said = "lower" if gap.high < 0 else "higher" if gap.low > 0 else "not told apart"
            parts.append(f"{' '.join(a)} less {' '.join(b)}, N = {steps}: {gap.text()}, {said}")
    for r in summary(frame).sort_values(KEY).itertuples():
        interval = f" [{r.sequence_entropy_low:.3f}, {r.sequence_entropy_high:.3f}]" if r.n > 1 else ""
        parts.append(
            f"{r.decoder} {r.sampler} N = {r.steps}: {r.sequence_entropy:.3f}{interval}, median {r.median:.3f} (n = {r.n})"
        )
    return "; ".join(parts) + "."


QUESTION = (
    "Does float32 noise cost a real model's text its diversity, the more the more steps, and is it the noise's ceiling?"
)
STUDY = Study("generation", QUESTION, cells, measure, draw, verdict, summary=summary)

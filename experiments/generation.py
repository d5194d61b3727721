"""Does float32 noise cost a real model's text its diversity, the more the more steps, and is it the noise's
ceiling?

Answers the figures of arXiv:2409.02908 that plot entropy against steps in 32 and 64 bits, and RADD's sweep
(arXiv:2406.03736: float64 flat, float32 falling). models/mdm256: 16,384 tokens, sequences of 256, bfloat16
matrix products. Ancestral steps, event-driven: with float32, float64 and truncated float64 noise from the
closed-form law of a step, with half-precision noise from the exact one. float32 again by brute force, every
draw made (half precision: in ``decoders``); two-stage: unmasking by float64 Bernoulli draws, the token by
float32 Gumbel-max. Judged in ``generative_perplexity``. Fixed before the run: the mean over sequences is the
headline, the median stands beside it. The committed long run is added.
Cost: 20 ms a network call, at most 256 calls a sequence; brute force N * 256 * 16,384 / 2 noise values
besides.
"""

from pathlib import Path

import numpy as np

from precision_lab import figures
from precision_lab.finding import Claim, Finding, number
from precision_lab.mdm.stored import StoredModel
from precision_lab.mdm.texts import batches, generate, real_texts
from precision_lab.mdm.texts import rows as sequence_rows
from precision_lab.result import average, averages
from precision_lab.statistics import cluster_bootstrap, difference, sequence_entropy
from precision_lab.statistics.entropies import to_bits
from precision_lab.study import Analysis, Study

MODEL = StoredModel(Path(__file__).parent.parent / "models" / "mdm256", autocast=True)
LENGTH = 256
BATCH = 4

# ---------------------------------------------------------------- grid

RUN = ["decoder", "sampler", "steps"]
FP32 = "gumbel_max_fp32"
FP64 = "gumbel_max_fp64"
TRUNCATED = "gumbel_max_fp64_truncated"
HALF = ("gumbel_max_fp16", "gumbel_max_bf16")
SWEEP = (32, 128, 512, 1024, 4096, 16384, 50_000)  # RADD's range, and on
GRID = {  # profile -> (decoder, sampler, steps, sequences)
    "smoke": [("event_driven", FP32, 2, 1), ("two_stage", FP32, 2, 1), ("ancestral", FP32, 2, 1)],
    "quick": [
        ("event_driven", FP32, 48, 1),  # no point of the long run: its numbers stay what they are
        ("two_stage", FP32, 32, 1),
        ("ancestral", FP32, 2, 1),
        ("event_driven", FP64, 2, 1),
    ],
    "full": [
        *(("event_driven", sampler, steps, 16) for sampler in (FP32, FP64) for steps in SWEEP),
        *(("event_driven", TRUNCATED, steps, 16) for steps in (4096, 50_000)),
        *(("two_stage", FP32, steps, 16) for steps in (4096, 50_000)),
        *(("ancestral", FP32, steps, 8) for steps in (32, 128)),
        *(("event_driven", sampler, steps, 8) for sampler in HALF for steps in (32, 512, 4096, 50_000)),
    ],
}


def cells(profile):
    weights = {"weights": MODEL.identity()}
    return [
        dict(zip(RUN, run, strict=True)) | part | weights
        for *run, total in GRID[profile]
        for part in batches(total, BATCH)
    ]


# ------------------------------------------------------------- measure


def measure(cell, rng):
    run = [cell[name] for name in RUN]
    done = generate(MODEL.network(), *run, batch=cell["sequences"], length=LENGTH, rng=rng)
    return [cell | row for row in sequence_rows(done)]


# ------------------------------------------------------------- analyse

COLUMNS = ["sequence_entropy", "distinct_1", "distinct_2", "repetition_3"]
ENOUGH = 8  # sequences that allow an interval
EVENT = "event_driven"
MOST = 50_000  # steps at which something is claimed
CONTRASTS = {  # decoder and sampler, less decoder and sampler -> what is claimed at N = MOST
    ((EVENT, FP32), (EVENT, FP64)): Claim.BELOW,
    ((EVENT, TRUNCATED), (EVENT, FP64)): Claim.BELOW,
    ((EVENT, HALF[0]), (EVENT, FP64)): None,
    ((EVENT, HALF[1]), (EVENT, FP64)): None,
    ((EVENT, FP32), (EVENT, TRUNCATED)): Claim.EQUAL,
    (("two_stage", FP32), (EVENT, FP64)): None,
    ((EVENT, FP32), ("ancestral", FP32)): None,
}
CONTRASTS_AT = (32, 512, 4096, MOST)
RADD = (32, 4096)  # steps that RADD's sweep shows


def analyse(rows):
    table = summary(rows)
    real = average(sequence_entropy(real_texts(MODEL.folder)[:, :LENGTH]))
    slopes = {sampler: slope(rows, sampler) for sampler in (FP32, FP64)}
    findings, notes = [], []
    if all(slopes.values()):
        gap = difference(slopes[FP32], slopes[FP64])
        name = f"RADD's shape, float32 less float64 a doubling of N, {RADD[0]} to {RADD[1]}"
        findings.append(Finding(name, gap, claim=Claim.BELOW, digits=4))
        notes += [f"a doubling of N, {name}: {number(e, 4)} (n = {e.n})" for name, e in slopes.items()]
    findings += contrasts(rows)
    notes += [level(row) for row in table.sort_values(RUN).itertuples()]
    head = f"Mean sequence entropy, nats, 95 % bootstrap; real text {real.text()}"
    return Analysis(findings, notes, head, table, details=real)


def summary(rows):
    """Means over sequences with 95 % bootstrap intervals; the sequence entropy in bits, its median,
    sequences below 1 nat."""
    table = averages(rows, RUN, COLUMNS)
    each = rows.groupby(RUN).sequence_entropy
    table["bits"] = to_bits(table.sequence_entropy)
    table["median"] = each.median().to_numpy()
    table["degenerate"] = each.apply(lambda values: int((values < 1).sum())).to_numpy()
    return table


def slope(rows, sampler):
    """Nats a doubling of N, least squares over all event-driven sequences of RADD's range, bootstrap over
    sequences."""
    part = rows[(rows.decoder == EVENT) & (rows.sampler == sampler) & rows.steps.between(*RADD)]
    doublings, entropy = np.log2(part.steps.to_numpy()), part.sequence_entropy.to_numpy()
    if len(set(doublings)) < 3:
        return None

    def fit(at):
        x, y = doublings[at], entropy[at]
        return float(np.cov(x, y)[0, 1] / max(np.var(x, ddof=1), 1e-12))

    return cluster_bootstrap(fit, len(entropy), rng=np.random.default_rng(0))


def contrasts(rows):
    groups = {
        key: average(part.sequence_entropy.to_numpy()) for key, part in rows.groupby(RUN) if len(part) > 1
    }
    found = []
    for steps in CONTRASTS_AT:
        for (first, second), claim in CONTRASTS.items():
            if {(*first, steps), (*second, steps)} <= groups.keys():
                gap = difference(groups[*first, steps], groups[*second, steps])
                name = f"{' '.join(first)} less {' '.join(second)}, N = {steps}"
                found.append(Finding(name, gap, claim=claim if steps == MOST else None))
    return found


def level(row):
    interval = f" [{row.sequence_entropy_low:.3f}, {row.sequence_entropy_high:.3f}]" if row.n > 1 else ""
    mean = f"{row.sequence_entropy:.3f}{interval}, median {row.median:.3f} (n = {row.n})"
    return f"{row.decoder} {row.sampler} N = {row.steps}: {mean}"


# -------------------------------------------------------------- figure

SHOWN = [  # decoder, sampler, name, line, and what differs from the precision's look
    (EVENT, FP32, "event-driven, float32", "-", {}),
    (EVENT, FP64, "event-driven, float64", "-", {}),
    (EVENT, TRUNCATED, "event-driven, truncated float64", "none", {}),
    ("two_stage", FP32, "two-stage, float32", "none", figures.precision("two-stage")),
    ("ancestral", FP32, "brute force, float32", "none", {"mfc": "white"}),
    (EVENT, HALF[0], "event-driven, float16", ":", {}),
    (EVENT, HALF[1], "event-driven, bfloat16", ":", {}),
]


def figure(rows, analysis):
    table = analysis.summary
    enough = (table.n >= ENOUGH) | (table.n.max() < ENOUGH)  # a fresh single text has no interval
    drawn, panels = figures.canvas(2, width=4.8, height=3.9)
    for axes, column in zip(panels, ("sequence_entropy", "distinct_2"), strict=True):
        for k, (decoder, sampler, label, line, other) in enumerate(SHOWN):
            part = table[enough & (table.decoder == decoder) & (table.sampler == sampler)]
            style = {"look": figures.precision(sampler) | other, "line": line, "factor": 1.05 ** (k - 2)}
            figures.sweep(axes, part, "steps", column, label=label, **style)
        axes.set(xscale="log", xlabel="ancestral steps N")
    panels[0].axhline(analysis.details.value, color="black", ls=":", lw=1.2, label="real text")
    panels[0].set(ylabel=f"mean sequence entropy (nats, {LENGTH} tokens)")
    panels[0].set_title("Diversity of the text against steps, 95 %")
    panels[1].set(ylabel="different bigrams / bigrams of a sequence")
    drawn.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", fontsize=7.5, ncols=3)
    return drawn


STUDY = Study(
    name="generation",
    question=(
        "Does float32 noise cost a real model's text its diversity, the more the more steps, "
        "and is it the noise's ceiling?"
    ),
    cells=cells,
    measure=measure,
    analyse=analyse,
    figure=figure,
    keys=(*RUN, "sequences", "part", "weights", "sequence"),
)

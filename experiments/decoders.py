"""Which decoders feel the precision of the noise, and where does insensitivity end?

Answers arXiv:2409.02908's claim that token-by-token decoding (first-hitting, autoregressive) is nearly
unaffected, and its comparison of first-hitting variants at few network calls. models/mdm256 and its rival
models/ar256, sequences of 256 tokens. First-hitting and left-to-right decoding with float16, bfloat16,
float32 and float64 Gumbel-max; ancestral with half precision by brute force, every draw made; parallel
first-hitting plain, extrapolated, corrected; confidence-ordered decoding with confidences in float64 and in
bfloat16, whose ties go to the left. Order: Spearman's correlation of a sequence's positions with the calls
in which they came, 1 is left to right. Fixed before the run: means over sequences. The committed long run is
added.
Cost: 20 ms a network call, at most 256 calls a sequence; brute force N * 256 * 16,384 / 2 noise values
besides.
"""

from pathlib import Path

import numpy as np
from scipy import stats

from precision_lab import figures
from precision_lab.finding import Claim, Finding
from precision_lab.mdm.stored import StoredModel
from precision_lab.mdm.texts import batches, generate, real_texts
from precision_lab.mdm.texts import rows as sequence_rows
from precision_lab.result import average, averages
from precision_lab.statistics import difference, sequence_entropy
from precision_lab.study import Analysis, Study

MODELS = Path(__file__).parent.parent / "models"
MASKED = StoredModel(MODELS / "mdm256", autocast=True)
RIVAL = StoredModel(MODELS / "ar256", autocast=True)
LENGTH = 256
BATCH = 4

# ---------------------------------------------------------------- grid

RUN = ["decoder", "sampler", "steps"]
FP16, BF16, FP32, FP64 = PRECISIONS = [f"gumbel_max_{name}" for name in ("fp16", "bf16", "fp32", "fp64")]
ONE_BY_ONE = ("first_hitting", "autoregressive")
PARALLEL = ("parallel", "extrapolated", "corrected")
CONFIDENCE = ("confidence_ordered", "confidence_ordered_bf16")
STEPS = (32, 128, 512)
CALLS = (32, 64, 128)
GRID = {  # profile -> (decoder, sampler, steps or calls, sequences)
    "smoke": [
        ("ancestral", BF16, 2, 1),
        ("extrapolated", FP64, 2, 1),
        ("confidence_ordered_bf16", FP64, 2, 1),
    ],
    "quick": [  # no point of the long run: its numbers stay what they are
        ("ancestral", BF16, 16, 1),
        ("corrected", FP64, 16, 2),
        ("confidence_ordered_bf16", FP64, 16, 1),
        ("autoregressive", "gumbel_max_fp64_truncated", 0, 1),
    ],
    "full": [
        *((decoder, sampler, 0, 12) for decoder in ONE_BY_ONE for sampler in PRECISIONS),
        *(("ancestral", sampler, steps, 4) for sampler in (FP16, BF16) for steps in STEPS),
        *((decoder, FP64, calls, 12) for decoder in (*PARALLEL, *CONFIDENCE) for calls in CALLS),
    ],
}


def model_of(decoder):
    return RIVAL if decoder == "autoregressive" else MASKED


def cells(profile):
    return [
        dict(zip(RUN, run, strict=True)) | part | {"weights": model_of(run[0]).identity()}
        for *run, total in GRID[profile]
        for part in batches(total, BATCH)
    ]


# ------------------------------------------------------------- measure


def measure(cell, rng):
    network = model_of(cell["decoder"]).network()
    run = [cell[name] for name in RUN]
    done = generate(network, *run, batch=cell["sequences"], length=LENGTH, rng=rng)
    orders = map(order, done.steps.numpy())
    return [cell | row | {"order": value} for row, value in zip(sequence_rows(done), orders, strict=True)]


def order(unmasked_at):
    """Rank correlation of a sequence's positions with the calls in which they came; 0 if all came in one."""
    if not unmasked_at.any():
        return 0.0
    return float(stats.spearmanr(np.arange(len(unmasked_at)), unmasked_at).statistic)


# ------------------------------------------------------------- analyse

COLUMNS = ["sequence_entropy", "distinct_1", "distinct_2", "repetition_3", "order"]
CLAIMS = {FP32: Claim.EQUAL, FP16: None, BF16: None}  # of one token at a time, less float64


def analyse(rows):
    table = averages(rows, RUN, COLUMNS)  # over sequences, 95 % bootstrap
    real = average(sequence_entropy(real_texts(MASKED.folder)[:, :LENGTH]))
    head = f"Mean sequence entropy, nats, 95 % bootstrap; real text {real.text()}"
    notes = [level(row) for row in table.sort_values(RUN).itertuples()]
    return Analysis(findings(rows), notes, head, table, details=real)


def findings(rows):
    """Token by token: each precision less float64."""
    entropy = {key: part.sequence_entropy.to_numpy() for key, part in rows.groupby(RUN)}
    found = []
    for decoder in ONE_BY_ONE:
        for sampler, claim in CLAIMS.items():
            if {(decoder, sampler, 0), (decoder, FP64, 0)} <= entropy.keys():
                gap = difference(average(entropy[decoder, sampler, 0]), average(entropy[decoder, FP64, 0]))
                found.append(Finding(f"{decoder}, {short(sampler)} less fp64", gap, claim=claim))
    return found


def level(row):
    interval = f" [{row.sequence_entropy_low:.3f}, {row.sequence_entropy_high:.3f}]" if row.n > 1 else ""
    name = f"{row.decoder}, {short(row.sampler)}{f', {row.steps}' if row.steps else ''}"
    return f"{name}: {row.sequence_entropy:.3f}{interval}, order {row.order:+.2f} (n = {row.n})"


def short(sampler):
    return sampler.removeprefix("gumbel_max_")


# -------------------------------------------------------------- figure

LOOKS = {decoder: figures.series(k) for k, decoder in enumerate((*ONE_BY_ONE, *PARALLEL[:2]))}
LOOKS["corrected"] = figures.series(7)
LOOKS["confidence_ordered"] = figures.series(6)
LOOKS["confidence_ordered_bf16"] = figures.series(6) | {"mfc": "white"}


def figure(rows, analysis):
    table = analysis.summary
    drawn, (one, half, calls, order) = figures.canvas(2, 2, width=4.6, height=3.2)
    token_by_token(one, table)
    half_precision(half, table)
    few_calls(calls, table, (*PARALLEL, *CONFIDENCE), "sequence_entropy")
    few_calls(order, table, CONFIDENCE, "order")
    for axes in (one, half, calls):
        axes.axhline(analysis.details.value, color="black", ls=":", lw=1.2, label="real text")
        axes.set(ylabel=f"sequence entropy (nats, {LENGTH} tokens)")
    calls.set(title="Parallel decoding: entropy")
    order.set(title="Confidence ordered: how far from left to right")
    order.set(ylabel="rank correlation, position and call")
    for axes in (one, half, calls, order):
        axes.legend(fontsize=7)
    return drawn


def token_by_token(axes, table):
    for k, decoder in enumerate(ONE_BY_ONE):
        part = table[(table.decoder == decoder) & table.sampler.isin(PRECISIONS)]
        part = part.assign(at=part.sampler.map(PRECISIONS.index) + 0.1 * k)
        name = decoder.replace("_", "-")
        figures.sweep(axes, part, "at", "sequence_entropy", label=name, look=LOOKS[decoder], line="none")
    axes.set_xticks(range(4), map(short, PRECISIONS))
    axes.set(xlabel="noise", title="One token at a time")


def half_precision(axes, table):
    for k, sampler in enumerate((FP16, BF16)):
        part = table[(table.decoder == "ancestral") & (table.sampler == sampler) & table.steps.isin(STEPS)]
        style = {
            "label": f"ancestral, {short(sampler)}",
            "look": figures.precision(sampler),
            "factor": 1.04**k,
        }
        figures.sweep(axes, part, "steps", "sequence_entropy", **style)
    axes.set(title="Half precision against the mask: ancestral", xlabel="ancestral steps N")
    logarithmic(axes, STEPS)


def few_calls(axes, table, decoders, column):
    for k, decoder in enumerate(decoders):
        part = table[(table.decoder == decoder) & (table.sampler == FP64) & table.steps.isin(CALLS)]
        name = decoder.replace("_", " ").replace(" ordered", "")
        factor = 1.03 ** (k - len(decoders) // 2)
        figures.sweep(axes, part, "steps", column, label=name, look=LOOKS[decoder], factor=factor)
    axes.set(xlabel=f"network calls for {LENGTH} tokens")
    logarithmic(axes, CALLS)


def logarithmic(axes, ticks):
    axes.set_xscale("log")
    axes.set_xticks(ticks, map(str, ticks))
    axes.minorticks_off()


STUDY = Study(
    name="decoders",
    question="Which decoders feel the precision of the noise, and where does insensitivity end?",
    cells=cells,
    measure=measure,
    analyse=analyse,
    figure=figure,
    keys=(*RUN, "sequences", "part", "weights", "sequence"),
)

"""Which decoders feel the precision of the noise, and where does insensitivity end?

Answers arXiv:2409.02908's claim that token-by-token decoding (first-hitting, autoregressive) is nearly unaffected, and its
comparison of first-hitting variants at few network calls. models/mdm256 and its rival models/ar256, sequences of 256
tokens. First-hitting and left-to-right decoding with float16, bfloat16, float32 and float64 Gumbel-max; ancestral with half
precision by brute force, every draw made; parallel first-hitting plain, extrapolated, corrected; confidence-ordered decoding
with confidences in float64 and in bfloat16, whose ties go to the left. Order: Spearman's correlation of a sequence's
positions with the calls in which they came, 1 is left to right. Fixed before the run: means over sequences. The committed long
run is added.
Cost: 20 ms a network call, at most 256 calls a sequence; brute force N * 256 * 16,384 / 2 noise values besides.
"""

from functools import cache
from pathlib import Path

import numpy as np
from scipy import stats

from precision_lab import figures
from precision_lab.files import read_json
from precision_lab.mdm.denoiser import Autocast
from precision_lab.mdm.texts import batches, generate, real_texts, rows
from precision_lab.mdm.train import load_model
from precision_lab.result import average, averages, with_long_run
from precision_lab.statistics import difference, sequence_entropy
from precision_lab.study import Study

ROOT, LENGTH, BATCH, KEY = Path(__file__).parent.parent, 256, 4, ["decoder", "sampler", "steps"]
FP16, BF16, FP32, FP64 = PRECISIONS = [f"gumbel_max_{name}" for name in ("fp16", "bf16", "fp32", "fp64")]
ONE_BY_ONE, PARALLEL = ("first_hitting", "autoregressive"), ("parallel", "extrapolated", "corrected")
CONFIDENCE = ("confidence_ordered", "confidence_ordered_bf16")
STEPS, CALLS = (32, 128, 512), (32, 64, 128)
GRID = {
    "smoke": [("ancestral", BF16, 2, 1), ("extrapolated", FP64, 2, 1), ("confidence_ordered_bf16", FP64, 2, 1)],
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
}  # fmt: skip
COLUMNS = ["sequence_entropy", "distinct_1", "distinct_2", "repetition_3", "order"]
model = cache(lambda name: Autocast(load_model(ROOT / "models" / name)))


def cells(profile):
    names = {"autoregressive": "ar256"}
    weights = {
        name: read_json(ROOT / "models" / name / "manifest.json")["weights_sha256"][:12] for name in ("mdm256", "ar256")
    }
    return [
        dict(zip(KEY, run, strict=True)) | part | {"weights": weights[names.get(run[0], "mdm256")]}
        for *run, total in GRID[profile]
        for part in batches(total, BATCH)
    ]


def measure(cell, rng):
    network = model("ar256" if cell["decoder"] == "autoregressive" else "mdm256")
    done = generate(network, *(cell[key] for key in KEY), batch=cell["sequences"], length=LENGTH, rng=rng)
    places = np.arange(LENGTH)
    order = [float(stats.spearmanr(places, came).statistic) if came.any() else 0.0 for came in done.steps.numpy()]
    return [cell | row | {"order": value} for row, value in zip(rows(done), order, strict=True)]


def everything(frame):
    return with_long_run(frame, ROOT, "decoders", [*KEY, "sequences", "part", "weights", "sequence"])


def summary(frame):
    """Means over sequences with 95 % bootstrap intervals."""
    return averages(everything(frame), KEY, COLUMNS)


@cache
def real():
    """Held-out text in windows of the same length."""
    return average(sequence_entropy(real_texts(ROOT / "models" / "mdm256")[:, :LENGTH]))


def short(sampler):
    return sampler.removeprefix("gumbel_max_")


def draw(frame):
    table = summary(frame).set_index(KEY).sort_index()
    figure, (one, half, calls, order) = figures.canvas(2, 2, width=4.6, height=3.2)

    def line(axes, x, keys, column, **options):
        here = [key in table.index for key in keys]
        part = table.loc[[key for key, known in zip(keys, here, strict=True) if known]]
        low, high = part[f"{column}_low"], part[f"{column}_high"]
        figures.interval(axes, np.asarray(x)[here], part[column], low, high, **options)

    for k, decoder in enumerate(ONE_BY_ONE):
        keys = [(decoder, sampler, 0) for sampler in PRECISIONS]
        name = decoder.replace("_", "-")
        line(one, np.arange(4) + 0.1 * k, keys, "sequence_entropy", label=name, index=k, line="none")
    for k, sampler in enumerate((FP16, BF16)):
        keys = [("ancestral", sampler, steps) for steps in STEPS]
        line(
            half, np.array(STEPS) * 1.04**k, keys, "sequence_entropy", label=f"ancestral, {short(sampler)}", index=2 + k
        )
    for axes, column in ((calls, "sequence_entropy"), (order, "order")):
        for k, decoder in enumerate((*PARALLEL, *CONFIDENCE)[0 if axes is calls else 3 :], 0 if axes is calls else 3):
            keys, name = [(decoder, FP64, c) for c in CALLS], decoder.replace("_", " ").replace(" ordered", "")
            line(axes, np.array(CALLS) * 1.03 ** (k - 2), keys, column, label=name, index=k)
    for axes in (one, half, calls):
        axes.axhline(real().value, color="black", ls=":", lw=1.2, label="real text")
        axes.set(ylabel=f"sequence entropy (nats, {LENGTH} tokens)")
    one.set_xticks(range(4), map(short, PRECISIONS))
    one.set(xlabel="noise", title="One token at a time")
    half.set(title="Half precision against the mask: ancestral", xlabel="ancestral steps N")
    calls.set(title="Parallel decoding: entropy", xlabel=f"network calls for {LENGTH} tokens")
    order.set(title="Confidence ordered: how far from left to right", xlabel=f"network calls for {LENGTH} tokens",
              ylabel="rank correlation, position and call")  # fmt: skip
    for axes, ticks in ((half, STEPS), (calls, CALLS), (order, CALLS)):
        axes.set_xscale("log")
        axes.set_xticks(ticks, map(str, ticks))
        axes.minorticks_off()
    for axes in (one, half, calls, order):
        axes.legend(fontsize=7)
    return figure


def verdict(frame):
    both, text = everything(frame), real()
    parts = [
        f"Mean sequence entropy, nats, 95 % bootstrap; real text {text.value:.3f} [{text.low:.3f}, {text.high:.3f}]"
    ]
    groups = {key: part.sequence_entropy.to_numpy() for key, part in both.groupby(KEY)}
    for decoder, sampler in ((d, s) for d in ONE_BY_ONE for s in (FP32, FP16, BF16)):
        if {(decoder, sampler, 0), (decoder, FP64, 0)} <= groups.keys():
            gap = difference(average(groups[decoder, sampler, 0]), average(groups[decoder, FP64, 0]))
            kind = "not told apart" if gap.low <= 0 <= gap.high else "different"
            parts.append(
                f"{decoder}, {short(sampler)} less fp64: {gap.value:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}], {kind}"
            )
    for r in summary(frame).sort_values(KEY).itertuples():
        interval = f" [{r.sequence_entropy_low:.3f}, {r.sequence_entropy_high:.3f}]" if r.n > 1 else ""
        name = f"{r.decoder}, {short(r.sampler)}{f', {r.steps}' if r.steps else ''}"
        parts.append(f"{name}: {r.sequence_entropy:.3f}{interval}, order {r.order:+.2f} (n = {r.n})")
    return "; ".join(parts) + "."


QUESTION = "Which decoders feel the precision of the noise, and where does insensitivity end?"
STUDY = Study("decoders", QUESTION, cells, measure, draw, verdict, summary=summary)

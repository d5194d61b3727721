"""One line of code on three devices: what do CPU, CUDA and compiled CUDA make of ``torch.multinomial(p,
1)``?

A head at logit 0 and round(0.1 e^gap) equal tokens at -gap: P(tail) over the true one, from laws, beside
counts of an H100 (results/gpu) and fresh draws here, Clopper-Pearson 95 %; then the laws on logits of real
models. CPU laws are exact, or (multinomial) the target within a proved bound; CUDA laws are emulated:
torch's arithmetic here, and the logarithm measured on an H100. Inductor leaves ``torch.multinomial`` to the
eager kernel: "compiled" is the race written out. n of draws here: ((z_a + z_b) / d)^2 (1 - p) / p, p = 1/11,
for a tail off by 1 +- d: what CUDA does (0.113 at gap 15, false fails 1e-3, misses 1e-2; 0.14 and 0.21 at 16
and 17, from here on 5 % and 20 %), Gumbel-max's own loss (0.095, 0.24, 0.56), and in quick a loss like it.
Cost: quick 40 seconds of a core, full twenty minutes.
"""

import math
from dataclasses import replace
from pathlib import Path

import torch

from precision_lab import SAMPLERS, figures
from precision_lab.compare import compare
from precision_lab.files import read_json
from precision_lab.samplers import with_tolerance
from precision_lab.samplers.head_and_tail import head_and_tail_law, true_tail
from precision_lab.statistics import ratio_of_proportion, tail_test
from precision_lab.study import Analysis, Study
from precision_lab.targets import load_capture
from precision_lab.targets.synthetic import head_and_tail
from precision_lab.uniforms.cuda import TORCH_CUDA_RAND
from precision_lab.uniforms.wide import wide_law

ROOT = Path(__file__).parent.parent
RECORDED = ROOT / "results" / "gpu" / "h100_head_and_tail.json"
EAGER_GUMBEL = replace(SAMPLERS["gumbel_max_fp32"], source=TORCH_CUDA_RAND["fp32"], backend="cuda")
SERIES = {  # series -> (sampler, what stands behind its law), three for each line of code
    "multinomial, CPU": (SAMPLERS["torch_multinomial_fp32"], "CPU: true within 3e-7, proved"),
    "multinomial, CUDA": (SAMPLERS["torch_cuda_race_fp32"], "CUDA: emulated, an H100's fast logarithm"),
    "race, compiled": (SAMPLERS["torch_compiled_race_fp32"], "compiled argmax(p / exponential_): emulated"),
    "Gumbel, CPU": (SAMPLERS["gumbel_max_fp32"], "CPU: exact"),
    "Gumbel, CUDA": (EAGER_GUMBEL, "CUDA: emulated"),
    "Gumbel, compiled": (SAMPLERS["torch_compiled_gumbel_fp32"], "compiled CUDA: emulated"),
}
PANELS = {
    "torch.multinomial(p, 1)": list(SERIES)[:3],
    "argmax(logits - log(-log(rand)))": list(SERIES)[3:],
}

# ---------------------------------------------------------------- grid

GAPS = [8 + k / 4 for k in range(49)]
NO_ROWS = {"mdm": [], "steps": [], "first_hitting": [], "smollm2": []}  # rows of each model; steps N
TWO_STEPS = NO_ROWS | {"mdm": [2], "steps": [1024, 50000]}
ALL_ROWS = {
    "mdm": [*range(5)],
    "steps": [1024, 4096, 16384, 50000],
    "first_hitting": [0, 1],
    "smollm2": [0, 1],
}
LAWS = {  # profile -> series -> rows of real models, beside the tail
    "smoke": {"Gumbel, CPU": NO_ROWS},
    "quick": {
        "multinomial, CPU": NO_ROWS,
        "multinomial, CUDA": TWO_STEPS,
        "race, compiled": NO_ROWS,
        "Gumbel, CPU": NO_ROWS,
    },
    "full": dict.fromkeys(SERIES, ALL_ROWS),
}
DRAWS = {  # profile -> series -> gap -> draws
    "smoke": {},
    "quick": {"multinomial, CPU": {17.0: 250}},
    "full": {
        "multinomial, CPU": {15.0: 24_700, 16.0: 4060, 17.0: 1830},
        "Gumbel, CPU": {15.0: 8700, 16.0: 1330, 17.0: 250},
    },
}


def cells(profile):
    gaps = [10.0, 14.0] if profile == "smoke" else GAPS
    drawn = [
        {"series": series, "gap": gap, "draws": n}
        for series, points in DRAWS[profile].items()
        for gap, n in points.items()
    ]
    laws = [{"series": series, "gaps": gaps} | rows for series, rows in LAWS[profile].items()]
    recorded = [] if profile == "smoke" else [{"recorded": RECORDED.name}]
    return drawn + laws + recorded


# ------------------------------------------------------------- measure


def measure(cell, rng):
    if "recorded" in cell:
        points = read_json(RECORDED)["draws"]["points"]
        return [counted(p["law"], p["sampler"], p["gap"], p["tail_draws"], p["n"]) for p in points]
    if "draws" in cell:
        return [drawn_here(cell, rng)]
    rows = tails(cell)
    if cell["series"] != "multinomial, CPU":  # whose law is the target, within the bound
        rows += on_real_rows(cell)
    wide_law.cache_clear()  # 2 GB a device
    return [{"series": cell["series"]} | row for row in rows]


def drawn_here(cell, rng):
    sampler = SERIES[cell["series"]][0]
    tokens = sampler.draw(torch.from_numpy(head_and_tail(cell["gap"])), cell["draws"], rng=rng)
    return counted(cell["series"], "CPU draws", cell["gap"], int((tokens > 0).sum()), cell["draws"])


def counted(series, source, gap, hits, n):
    found = ratio_of_proportion(hits, n, true_tail(gap))
    row = {"series": series, "kind": "draws", "source": source, "at": gap, "ratio": found.value}
    return row | {"low": found.low, "high": found.high, "n": n, "hits": hits}


def tails(cell):
    rows = []
    for gap in cell["gaps"]:
        law = head_and_tail_law(SERIES[cell["series"]][0], gap)
        row = {"kind": "tail", "at": gap, "ratio": law.probs[1] / true_tail(gap)}
        rows.append(row | {"error": law.error, "guarantee": str(law.guarantee)})
    return rows


def on_real_rows(cell):
    sampler = with_tolerance(SERIES[cell["series"]][0], 1e-8, math.inf)
    masked = load_capture(ROOT / "models" / "mdm" / "logits.safetensors")
    following = load_capture(ROOT / "models" / "smollm2" / "logits.safetensors")
    steps = [("step", masked.step(k, n), k, n) for k in cell["mdm"] for n in cell["steps"]]
    first_hitting = [("first-hitting", masked.row(k), k, 0) for k in cell["first_hitting"]]
    next_token = [
        ("next token", following.row(k).at_temperature(t), k, t) for k in cell["smollm2"] for t in (1.0, 0.7)
    ]
    return [on_row(sampler, *which) for which in (*steps, *first_hitting, *next_token)]


EFFECTS = ["unmask_multiplier", "token_temperature", "token_entropy_lost", "total_variation"]


def on_row(sampler, kind, target, row, at):
    found = compare(sampler, target)
    columns = [*EFFECTS, "error", "guarantee"]
    return {"kind": kind, "row": row, "at": at} | {name: found.get(name) for name in columns}


# ------------------------------------------------------------- analyse

POINT = ["series", "kind", "source", "row", "at"]
LEVEL = 1e-3  # of each group of tests


def analyse(rows):
    rows = larger_samples(rows)
    table = summary(rows)
    p_values = tests(rows)
    counts = [departure_text(where, p) for where, p in p_values.items() if p]
    return Analysis(notes=counts + race_texts(rows) + effect_texts(table), summary=table)


def larger_samples(rows):
    """Of two samples of the same draws the larger."""
    return rows.sort_values("n", ascending=False, kind="stable").drop_duplicates(POINT)


def tests(rows):
    """Where the draws are from -> p-values of the law of the same line of code."""
    laws = rows[rows.kind == "tail"].set_index(["series", "at"])
    found = {"an H100": [], "this CPU": []}
    for drawn in rows[rows.kind == "draws"].itertuples():
        law = laws.loc[(drawn.series, drawn.at)]
        p0 = law.ratio * true_tail(drawn.at)
        test = tail_test(int(drawn.hits), int(drawn.n), p0, p0_error=law.error)
        found["this CPU" if drawn.source == "CPU draws" else "an H100"].append(test.p_value)
    return found


def departure_text(where, p):
    least = min(1.0, min(p) * len(p))
    seen = "a departure from" if least <= LEVEL else "no departure from"
    return f"{len(p)} counts on {where}: {seen} the law, smallest p times {len(p)} is {least:.2g}"


def race_texts(rows):
    """torch.multinomial on CUDA."""
    race = rows[rows.series == "multinomial, CUDA"]
    draws, law = race[race.kind == "draws"], race[race.kind == "tail"].set_index("at").ratio.sort_index()
    if law.empty:
        return []
    untrue = ((draws.low > 1) | (draws.high < 1)).sum()
    half = law.index[law >= 0.5].max()
    return [
        f"{untrue} of {len(draws)} intervals (95 %) of torch.multinomial's race exclude the true tail",
        f"torch.multinomial on CUDA draws rare tokens up to {law.max():.3f} times as often as asked, "
        f"{law.idxmax():g} nats down, and less than half as often beyond {half:g}",
    ]


def summary(rows):
    """Effects on real logits by series: mean and range over rows."""
    table = (
        rows.dropna(subset="row")
        .groupby(["kind", "at", "series"])[EFFECTS]
        .agg(["count", "mean", "min", "max"])
    )
    table.columns = ["_".join(column) for column in table.columns]
    return table.reset_index().assign(at=lambda table: table["at"].map("{:g}".format))


def effect_texts(table):
    text = []
    for (kind, at), part in table.groupby(["kind", "at"], sort=False):
        effect = "token_entropy_lost" if kind == "step" else "total_variation"
        values = ", ".join(f"{row.series} {row[f'{effect}_mean']:.2g}" for _, row in part.iterrows())
        where = kind if kind == "first-hitting" else f"{kind} at {at}"
        text.append(f"{where}, mean {effect.replace('_', ' ')}: {values}")
    return text


# -------------------------------------------------------------- figure

LINES = ("-", "--", "-.")


def figure(rows, analysis):
    rows = larger_samples(rows)
    drawn, panels = figures.canvas(2, width=5.0, height=3.8)
    for axes, (line, names) in zip(panels, PANELS.items(), strict=True):
        axes.axhline(1, color="black", lw=0.8, ls=":")
        for k, series in enumerate(names):
            law_and_draws(axes, rows[rows.series == series], series, k)
        axes.set(xlim=(10, 20), ylim=(0, 1.3), title=line)
        axes.set(xlabel="gap from head to rare tokens (nats)", ylabel="P(rare tokens) as drawn / true")
        axes.legend(loc="lower left")
    return drawn


def law_and_draws(axes, part, series, k):
    law = part[part.kind == "tail"].sort_values("at")
    axes.plot(law["at"], law.ratio, color=figures.COLOURS[k], ls=LINES[k], label=SERIES[series][1])
    draws = part[part.source.isin(["CPU draws", *PANELS])].assign(value=lambda frame: frame.ratio)
    if len(draws):
        label = f"{'CPU' if k == 0 else 'H100'} draws, 95 %"
        figures.sweep(axes, draws, "at", label=label, look=figures.series(k), line="none")


STUDY = Study(
    name="devices",
    question="What does one line of code, on a CPU, on CUDA and compiled, do to rare tokens?",
    cells=cells,
    measure=measure,
    analyse=analyse,
    figure=figure,
    keys=(*POINT, "n"),
)

"""One line of code on three devices: what do CPU, CUDA and compiled CUDA make of ``torch.multinomial(p, 1)``?

A head at logit 0 and round(0.1 e^gap) equal tokens at -gap: P(tail) over the true one, from laws, beside counts of an
H100 (results/gpu) and fresh draws here, Clopper-Pearson 95 %; then the laws on logits of real models. CPU laws are
exact, or (multinomial) the target within a proved bound; CUDA laws are emulated: torch's arithmetic here, and the
logarithm measured on an H100. Inductor leaves ``torch.multinomial`` to the eager kernel: "compiled" is the race
written out. n of draws here: ((z_a + z_b) / d)^2 (1 - p) / p, p = 1/11, for a tail off by 1 +- d: what CUDA does (0.113
at gap 15, false fails 1e-3, misses 1e-2; 0.14 and 0.21 at 16 and 17, from here on 5 % and 20 %), Gumbel-max's own loss
(0.095, 0.24, 0.56), and in quick a loss like it. Cost: quick 40 seconds of a core, full twenty minutes.
"""

import math
from dataclasses import replace
from pathlib import Path

import torch

from precision_lab import SAMPLERS, figures
from precision_lab.compare import compare
from precision_lab.files import read_json
from precision_lab.result import with_long_run
from precision_lab.samplers import with_tolerance
from precision_lab.samplers.head_and_tail import head_and_tail_law, true_tail
from precision_lab.statistics import ratio_of_proportion, tail_test
from precision_lab.study import Study
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
PANELS = {"torch.multinomial(p, 1)": list(SERIES)[:3], "argmax(logits - log(-log(rand)))": list(SERIES)[3:]}
SHOWN = ["CPU draws", "torch.multinomial(p, 1)", "argmax(logits - log(-log(rand)))"]
KEYS = ["series", "kind", "source", "row", "at"]
EFFECTS = ["unmask_multiplier", "token_temperature", "token_entropy_lost", "total_variation"]
GAPS = [8 + k / 4 for k in range(49)]
SHORT = {"mdm": [], "steps": [], "first_hitting": [], "smollm2": []}  # rows of each model; steps N
QUICK = dict.fromkeys([*PANELS["torch.multinomial(p, 1)"], "Gumbel, CPU"], SHORT)
QUICK["multinomial, CUDA"] = SHORT | {"mdm": [2], "steps": [1024, 50000]}
LONG = {"mdm": [*range(5)], "steps": [1024, 4096, 16384, 50000], "first_hitting": [0, 1], "smollm2": [0, 1]}
DRAWS = {  # profile -> series -> gap -> draws
    "quick": {"multinomial, CPU": {17.0: 250}},
    "full": {
        "multinomial, CPU": {15.0: 24_700, 16.0: 4060, 17.0: 1830},
        "Gumbel, CPU": {15.0: 8700, 16.0: 1330, 17.0: 250},
    },
}


def cells(profile):
    if profile == "smoke":
        return [{"series": "Gumbel, CPU", "gaps": [10.0, 14.0]} | SHORT]
    rows = dict.fromkeys(SERIES, LONG) if profile == "full" else QUICK
    found = [{"series": name, "gaps": GAPS} | which for name, which in rows.items()]
    draws = DRAWS[profile].items()
    drawn = [{"series": name, "gap": gap, "draws": n} for name, points in draws for gap, n in points.items()]
    return [*drawn, *found, {"recorded": RECORDED.name}]


def measure(cell, rng):
    if "recorded" in cell:
        points = read_json(RECORDED)["draws"]["points"]
        return [counted(p["law"], p["sampler"], p["gap"], p["tail_draws"], p["n"]) for p in points]
    sampler = SERIES[cell["series"]][0]
    if "draws" in cell:
        hits = sampler.draw(torch.from_numpy(head_and_tail(cell["gap"])), cell["draws"], rng=rng) > 0
        return [counted(cell["series"], "CPU draws", cell["gap"], int(hits.sum()), cell["draws"])]
    rows = []
    for gap in cell["gaps"]:
        law = head_and_tail_law(sampler, gap)
        found = {"kind": "tail", "at": gap, "ratio": law.probs[1] / true_tail(gap)}
        rows.append(found | {"error": law.error, "guarantee": str(law.guarantee)})
    if cell["series"] != "multinomial, CPU":  # whose law is the target, within the bound
        sampler = with_tolerance(sampler, 1e-8, math.inf)
        models = (ROOT / "models" / name / "logits.safetensors" for name in ("mdm", "smollm2"))
        masked, following = map(load_capture, models)
        rows += [on_row(sampler, "step", masked.step(k, n), k, n) for k in cell["mdm"] for n in cell["steps"]]
        rows += [on_row(sampler, "first-hitting", masked.row(k), k, 0) for k in cell["first_hitting"]]
        tokens = [(k, t, following.row(k).at_temperature(t)) for k in cell["smollm2"] for t in (1.0, 0.7)]
        rows += [on_row(sampler, "next token", token, k, t) for k, t, token in tokens]
    wide_law.cache_clear()  # 2 GB a device
    return [{"series": cell["series"]} | row for row in rows]


def counted(series, source, gap, hits, n):
    found = ratio_of_proportion(hits, n, true_tail(gap))
    row = {"series": series, "kind": "draws", "source": source, "at": gap, "ratio": found.value}
    return row | {"low": found.low, "high": found.high, "n": n, "hits": hits}


def on_row(sampler, kind, target, row, at):
    found = compare(sampler, target)
    columns = [*EFFECTS, "error", "guarantee"]
    return {"kind": kind, "row": row, "at": at} | {name: found.get(name) for name in columns}


def known(frame):
    """This run and the long one; of two samples of the same draws the larger."""
    frame = with_long_run(frame, ROOT, "devices", [*KEYS, "n"])
    return frame.sort_values("n", ascending=False, kind="stable").drop_duplicates(KEYS)


def summary(frame):
    """Effects on real logits by series: mean and range over rows."""
    groups = known(frame).dropna(subset="row").groupby(["kind", "at", "series"])
    table = groups[EFFECTS].agg(["count", "mean", "min", "max"])
    table.columns = ["_".join(column) for column in table.columns]
    return table.reset_index().assign(at=lambda table: table["at"].map("{:g}".format))


def draw(frame):
    frame = known(frame)
    figure, panels = figures.canvas(2, width=5.0, height=3.8)
    for axes, (line, names) in zip(panels, PANELS.items(), strict=True):
        axes.axhline(1, color="black", lw=0.8, ls=":")
        for k, series in enumerate(names):
            law = frame[(frame.series == series) & (frame.kind == "tail")].sort_values("at")
            style = {"color": figures.COLOURS[k], "ls": ("-", "--", "-.")[k], "label": SERIES[series][1]}
            axes.plot(law["at"], law.ratio, **style)
            drawn = frame[(frame.series == series) & frame.source.isin(SHOWN)]
            if len(drawn):
                ends = drawn["at"], drawn.ratio, drawn.low, drawn.high
                label = f"{'CPU' if k == 0 else 'H100'} draws, 95 %"
                figures.interval(axes, *ends, label=label, index=k, line="none")
        axes.set(xlim=(10, 20), ylim=(0, 1.3), title=line)
        axes.set(xlabel="gap from head to rare tokens (nats)", ylabel="P(rare tokens) as drawn / true")
        axes.legend(loc="lower left")
    return figure


def verdict(frame):
    frame = known(frame)
    laws = frame[frame.kind == "tail"].set_index(["series", "at"])
    counts, tests = frame[frame.kind == "draws"], {"CPU": [], "H100": []}
    for drawn in counts.itertuples():
        law = laws.loc[(drawn.series, drawn.at)]
        p0 = law.ratio * true_tail(drawn.at)
        found = tail_test(int(drawn.hits), int(drawn.n), p0, p0_error=law.error)
        tests["CPU" if drawn.source == "CPU draws" else "H100"].append(found.p_value)
    least = {where: min(1.0, min(p) * len(p)) for where, p in tests.items()}
    races = counts[counts.series == "multinomial, CUDA"]
    untrue = ((races.low > 1) | (races.high < 1)).sum()
    cuda = laws.loc["multinomial, CUDA"].ratio.sort_index()
    half = cuda.index[cuda >= 0.5].max()
    agreed = "reproduced" if least["H100"] > 1e-3 else "not reproduced"
    lines = [
        f"emulated laws {agreed} by {len(tests['H100'])} counts on an H100 (least p times n {least['H100']:.2g})",
        f"{untrue} of {len(races)} intervals (95 %) of torch.multinomial's race exclude the true tail",
        f"{len(tests['CPU'])} counts on this CPU against its laws: {least['CPU']:.2g}",
        f"torch.multinomial on CUDA draws rare tokens up to {cuda.max():.3f} times as often as asked, "
        f"{cuda.idxmax():g} nats down, and less than half as often beyond {half:g}",
    ]
    for (kind, at), part in summary(frame).groupby(["kind", "at"], sort=False):
        effect = "token_entropy_lost" if kind == "step" else "total_variation"
        values = ", ".join(f"{row.series} {row[f'{effect}_mean']:.2g}" for _, row in part.iterrows())
        where = f"{kind} at {at}" if kind != "first-hitting" else kind
        lines.append(f"{where}, mean {effect.replace('_', ' ')}: {values}")
    return "; ".join(lines) + "."


QUESTION = "What does one line of code, on a CPU, on CUDA and compiled, do to rare tokens?"
STUDY = Study("devices", QUESTION, cells, measure, draw, verdict, summary=summary)

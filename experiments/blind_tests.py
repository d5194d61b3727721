"""What do the public tests of samplers let pass? Each published rule of acceptance on a target like its own test's, at its own
number of draws, and our e-process on the same draws.

Left: the temperatures that pass a rule with probability 1/2 or more (foreseen from the law, no draws; the rules fail right
samplers once in 100 to 1e9), over those that pass our temperature test with as many draws (false-fail rate 1e-6): with 1/2 or
more, and with 1e-6 or more. Right: wrong samplers by exact law. P(pass) of
the rule; the draws by which the e-process rejects (median, then sure to 1e-6), which is told nothing of the sampler: it
bets on lattices of 8 to 32 bits and on temperatures. Every cell draws once from the law and records both verdicts.
Cost: half a minute for two wrong samplers, shown with the committed long run; that takes five.
"""

from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
import torch
from scipy import optimize

from precision_lab import SAMPLERS, figures
from precision_lab.errors import InputError
from precision_lab.laws.law import target_law
from precision_lab.result import with_long_run
from precision_lab.samplers import with_tolerance
from precision_lab.statistics import Counts, EProcess
from precision_lab.statistics.alternatives import alternative_laws, tempered_law
from precision_lab.statistics.public_criteria import PUBLIC_CRITERIA
from precision_lab.statistics.temperature_testing import detectable_temperature, temperature_test
from precision_lab.study import Study
from precision_lab.targets.synthetic import normal, normalise

ROOT, FALSE_FAIL = Path(__file__).parent.parent, 1e-6
TARGETS = {  # rule -> what its own test samples from
    "flashinfer_cosine": ("normal, sd 1, 128,256 tokens", lambda: normal(128_256, 1.0)),
    "jax_chi_square": ("0.1, 0.2, 0.3, 0.4", lambda: np.log([0.1, 0.2, 0.3, 0.4])),
    "pytorch_chi_square": ("0.1, 0.2, 0.7", lambda: np.log([0.1, 0.2, 0.7])),
    "flashsampling_chi_square": ("logits -10 to 10, 512 tokens", lambda: normalise(np.linspace(-10.0, 10.0, 512))),
    "vllm_chi_square": ("normal, sd 1, 16 tokens", lambda: normal(16, 1.0)),
    "vllm_coverage": ("200,000 tokens within a factor 3", lambda: normalise(np.log(1.0 + np.arange(200_000) % 3))),
    "vllm_tail": ("e^18 against 200,000 of 1 to 3",
                  lambda: normalise(np.append(18.0, np.log(1.0 + np.arange(200_000) % 3)))),
}  # fmt: skip
WRONG = ["T = 0.9", "T = 0.95", "T = 0.98", "T = 1.05", "gumbel_max_bf16", "gumbel_max_fp16", "jax_low_bf16", "candle",
         "gumbel_max_fp32"]  # fmt: skip


def cells(profile):
    rules = ["jax_chi_square", "vllm_chi_square"] if profile == "smoke" else list(TARGETS)
    wrong = {"smoke": WRONG[:1], "quick": ["T = 0.95", "gumbel_max_bf16"], "full": WRONG}[profile]
    return [{"rule": rule, "what": what} for rule in rules for what in ("right", *wrong)]


@cache
def target(rule):
    return target_law(TARGETS[rule][1]())


def wrong_law(p, what):
    if what == "right":
        return p
    if what.startswith("T = "):
        return tempered_law(p, float(what[4:]))
    sampler = with_tolerance(SAMPLERS[what], tolerance=1e-9, relative=1e-3)
    return sampler.law(torch.from_numpy(p.log_probs).float())


def edge(rule, p, way):
    """The first temperature from 1 outwards, down or up, at which the rule fails more often than not; 0 or inf if none."""

    def excess(log_t):
        return rule.forecast(tempered_law(p, float(np.exp(log_t))), p).passes - 0.5

    steps = way * np.geomspace(1e-3, 4.0, 60)
    bad = next((i for i, x in enumerate(steps) if excess(x) < 0), None)
    if bad is None:
        return 0.0 if way < 0 else np.inf
    return float(np.exp(optimize.brentq(excess, steps[bad - 1] if bad else 0.0, steps[bad], xtol=1e-6)))


def measure(cell, rng):
    rule, p = PUBLIC_CRITERIA[cell["rule"]], target(cell["rule"])
    q, n = wrong_law(p, cell["what"]), PUBLIC_CRITERIA[cell["rule"]].n
    counts = Counts(rng.multinomial(n, q.probs / q.probs.sum()).astype(np.int64), n)
    process = EProcess(p, alternative_laws(p))
    row = cell | {"target": TARGETS[cell["rule"]][0], "n": n, "passes": rule.forecast(q, p).passes}
    row |= {"passed": rule(counts, p).passed, "log_e": process.update(counts).log_e}
    row |= {"ours_failed": process.rejected(FALSE_FAIL), "median_stop": np.inf, "draws_needed": np.inf}
    if cell["what"] != "right":
        growth = float(process.growth(q).max())
        row["median_stop"] = np.log(len(process.alternatives) / FALSE_FAIL) / growth if growth > 0 else np.inf
        with suppress(InputError):  # no bet gains on this law
            row["draws_needed"] = process.draws_needed(q, FALSE_FAIL, FALSE_FAIL)
    else:
        row |= {"coldest": edge(rule, p, -1), "hottest": edge(rule, p, 1)}
        row |= {"ours_half": detectable_temperature(n, p, FALSE_FAIL, 0.5)}
        row |= {"ours_sure": detectable_temperature(n, p, FALSE_FAIL, FALSE_FAIL)}
    row["temperature_p_value"] = temperature_test(counts, p, false_fail=FALSE_FAIL).p_value
    return [{k: (None if isinstance(v, float) and not np.isfinite(v) else v) for k, v in row.items()}]


def draw(frame):
    frame = with_long_run(frame, ROOT, "blind_tests", ["rule", "what"])
    rules = [name for name in TARGETS if name in set(frame.rule)]
    figure, (left, right) = figures.canvas(2, width=6.0, height=4.4)
    for y, name in enumerate(reversed(rules)):
        row = frame[(frame.rule == name) & (frame.what == "right")].iloc[0]
        low, high = np.nan_to_num(row.coldest, nan=0.0), np.nan_to_num(row.hottest, nan=9.0)
        left.barh(y + 0.17, high - max(low, 0.01), left=max(low, 0.01), height=0.3, color=figures.COLOURS[1])
        for half, colour in ((row.ours_sure, figures.COLOURS[5]), (row.ours_half, figures.COLOURS[0])):
            left.barh(y - 0.17, 2 * half, left=1 - half, height=0.3, color=colour)
    left.bar(0, 0, color=figures.COLOURS[1], label="passes the public rule (P >= 1/2)")
    left.bar(0, 0, color=figures.COLOURS[0], label="passes ours, same draws (P >= 1/2)")
    left.bar(0, 0, color=figures.COLOURS[5], label="passes ours (P >= 1e-6)")
    labels = [f"{n}, n = {PUBLIC_CRITERIA[n].n:,}\n{TARGETS[n][0]}" for n in reversed(rules)]
    left.set_yticks(range(len(rules)), labels, fontsize=6.5)
    left.set(
        xlim=(0.6, 1.4),
        ylim=(-0.6, len(rules) + 0.9),
        xlabel="temperature of the sampler",
        title="Temperatures let through",
    )
    left.axvline(1, color="black", lw=0.8)
    left.legend(fontsize=6.5, loc="upper left", ncols=2)
    wrong = [what for what in WRONG if what in set(frame.what)]
    table = frame.set_index(["rule", "what"])
    for i, name in enumerate(rules):
        for j, what in enumerate(wrong):
            row = table.loc[(name, what)]
            caught = np.isfinite(row.median_stop) and row.median_stop <= row.n
            right.add_patch(figures.cell(j, i, row.passes))
            ours = (
                f"{row.median_stop:.0e}".replace("e+0", "e").replace("e+", "e")
                if np.isfinite(row.median_stop)
                else "never"
            )
            right.text(j, i - 0.16, f"{row.passes:.2g}", ha="center", va="center", fontsize=7)
            right.text(
                j,
                i + 0.2,
                ours,
                ha="center",
                va="center",
                fontsize=5.5,
                weight="bold" if caught else "normal",
            )
    right.set_xticks(range(len(wrong)), wrong, rotation=30, ha="right", fontsize=7)
    right.set_yticks(range(len(rules)), rules, fontsize=6.5)
    right.set(xlim=(-0.5, len(wrong) - 0.5), ylim=(len(rules) - 0.5, -0.5))
    right.set_title("P(wrong sampler passes the rule); below: median draws to our rejection", fontsize=8.5)
    right.grid(False)
    return figure


def verdict(frame):
    frame = with_long_run(frame, ROOT, "blind_tests", ["rule", "what"])
    right = frame[frame.what == "right"]
    text = [f"{r.rule} (n = {r.n:,}) passes temperatures {r.coldest:.3g} to {r.hottest:.3g}, ours with as many those within "
            f"{r.ours_half:.2g} of 1 (P >= 1/2), {r.ours_sure:.2g} (P >= 1e-6)" for r in right.itertuples()]  # fmt: skip
    wrong = frame[frame.what != "right"]
    let, ours = wrong[wrong.passed], wrong[wrong.passed & wrong.ours_failed.astype(bool)]
    text.append(
        f"On one run of draws each, public rules passed {len(let)} of {len(wrong)} wrong samplers; the e-process rejected "
        f"{len(ours)} of these on the same draws, and {int(right.ours_failed.sum())} of {len(right)} right ones (level 1e-6)"
    )
    return ". ".join(text).replace("nan", "0 or inf") + "."


QUESTION = "What do the public tests of samplers let pass, and what would it take to see it?"
STUDY = Study("blind_tests", QUESTION, cells, measure, draw, verdict)

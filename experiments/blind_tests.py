"""What do the public tests of samplers let pass? Each published rule of acceptance on a target like its own
test's, at its own number of draws, and our e-process on the same draws.

Left: the temperatures that pass a rule with probability 1/2 or more (from the law, no draws; the rules fail
right samplers once in 100 to 1e9), over those that pass our temperature test with as many draws (false-fail
rate 1e-6): with 1/2 or more, and with 1e-6 or more. Right: wrong samplers by exact law. P(pass) of the rule;
the draws by which the e-process rejects (median, then sure to 1e-6), which knows nothing of the sampler: it
bets on lattices of 8 to 32 bits and on temperatures. Every cell draws once from the law and records both
verdicts.
Cost: half a minute for two wrong samplers, shown with the committed long run; that takes five.
"""

from contextlib import suppress
from functools import cache

import numpy as np
import torch
from scipy import optimize

from precision_lab import SAMPLERS, figures
from precision_lab.errors import InputError
from precision_lab.laws.law import target_law
from precision_lab.samplers import with_tolerance
from precision_lab.statistics import Counts, EProcess
from precision_lab.statistics.alternatives import alternative_laws, tempered_law
from precision_lab.statistics.public_criteria import PUBLIC_CRITERIA
from precision_lab.statistics.temperature_testing import detectable_temperature, temperature_test
from precision_lab.study import Analysis, Study
from precision_lab.targets.synthetic import normal, normalise

FALSE_FAIL = 1e-6  # of our own tests

# ---------------------------------------------------------------- grid


def probabilities(*p):
    return np.log(p)


def even_logits():
    return normalise(np.linspace(-10.0, 10.0, 512))


def within_factor_three():
    return normalise(np.log(1.0 + np.arange(200_000) % 3))


def one_head():
    return normalise(np.append(18.0, np.log(1.0 + np.arange(200_000) % 3)))


TARGETS = {  # rule -> what its own test samples from: words, and a function of arguments
    "flashinfer_cosine": ("normal, sd 1, 128,256 tokens", normal, 128_256, 1.0),
    "jax_chi_square": ("0.1, 0.2, 0.3, 0.4", probabilities, 0.1, 0.2, 0.3, 0.4),
    "pytorch_chi_square": ("0.1, 0.2, 0.7", probabilities, 0.1, 0.2, 0.7),
    "flashsampling_chi_square": ("logits -10 to 10, 512 tokens", even_logits),
    "vllm_chi_square": ("normal, sd 1, 16 tokens", normal, 16, 1.0),
    "vllm_coverage": ("200,000 tokens within a factor 3", within_factor_three),
    "vllm_tail": ("e^18 against 200,000 of 1 to 3", one_head),
}
RIGHT = "right"
WRONG = [
    "T = 0.9",
    "T = 0.95",
    "T = 0.98",
    "T = 1.05",
    "gumbel_max_bf16",
    "gumbel_max_fp16",
    "jax_low_bf16",
    "candle",
    "gumbel_max_fp32",
]
GRID = {  # profile -> rules, wrong samplers
    "smoke": (["jax_chi_square", "vllm_chi_square"], WRONG[:1]),
    "quick": (list(TARGETS), ["T = 0.95", "gumbel_max_bf16"]),
    "full": (list(TARGETS), WRONG),
}


def cells(profile):
    rules, wrong = GRID[profile]
    return [{"rule": rule, "what": what} for rule in rules for what in (RIGHT, *wrong)]


# ------------------------------------------------------------- measure


def measure(cell, rng):
    rule, p = PUBLIC_CRITERIA[cell["rule"]], target(cell["rule"])
    q, n = law_of(cell["what"], p), rule.n
    counts = Counts(rng.multinomial(n, q.probs / q.probs.sum()).astype(np.int64), n)
    process = EProcess(p, alternative_laws(p))
    row = cell | {"target": TARGETS[cell["rule"]][0], "n": n, "passes": rule.forecast(q, p).passes}
    row["passed"] = rule(counts, p).passed
    row["log_e"] = process.update(counts).log_e
    row["ours_failed"] = process.rejected(FALSE_FAIL)
    row |= draws_to_reject(process, None if cell["what"] == RIGHT else q)
    if cell["what"] == RIGHT:
        row |= {"coldest": edge(rule, p, -1), "hottest": edge(rule, p, 1)}
        row["ours_half"] = detectable_temperature(n, p, FALSE_FAIL, 0.5)
        row["ours_sure"] = detectable_temperature(n, p, FALSE_FAIL, FALSE_FAIL)
    row["temperature_p_value"] = temperature_test(counts, p, false_fail=FALSE_FAIL).p_value
    return [{name: finite(value) for name, value in row.items()}]


@cache
def target(rule):
    _, logits, *arguments = TARGETS[rule]
    return target_law(logits(*arguments))


def law_of(what, p):
    if what == RIGHT:
        return p
    if what.startswith("T = "):
        return tempered_law(p, float(what[4:]))
    sampler = with_tolerance(SAMPLERS[what], tolerance=1e-9, relative=1e-3)
    return sampler.law(torch.from_numpy(p.log_probs).float())


def draws_to_reject(process, q):
    """By which the e-process rejects q: median, then all but surely. Infinite for a right sampler (None)."""
    found = {"median_stop": np.inf, "draws_needed": np.inf}
    if q is None:
        return found
    growth = float(process.growth(q).max())
    if growth > 0:
        found["median_stop"] = np.log(len(process.alternatives) / FALSE_FAIL) / growth
    with suppress(InputError):  # no bet gains on this law
        found["draws_needed"] = process.draws_needed(q, FALSE_FAIL, FALSE_FAIL)
    return found


def edge(rule, p, way):
    """The first temperature from 1 outwards, down or up, at which the rule fails more often than not; 0
    or inf if none."""

    def excess(log_t):
        return rule.forecast(tempered_law(p, float(np.exp(log_t))), p).passes - 0.5

    steps = way * np.geomspace(1e-3, 4.0, 60)
    bad = next((k for k, x in enumerate(steps) if excess(x) < 0), None)
    if bad is None:
        return 0.0 if way < 0 else np.inf
    before = steps[bad - 1] if bad else 0.0
    return float(np.exp(optimize.brentq(excess, before, steps[bad], xtol=1e-6)))


def finite(value):
    """None for infinity and NaN, which JSON has not."""
    return None if isinstance(value, float) and not np.isfinite(value) else value


# ------------------------------------------------------------- analyse


def analyse(rows):
    right, wrong = rows[rows.what == RIGHT], rows[rows.what != RIGHT]
    passed = wrong[wrong.passed.astype(bool)]
    caught = passed[passed.ours_failed.astype(bool)]
    notes = [edges_text(row).replace("nan", "0 or inf") for row in right.itertuples()]
    notes.append(
        f"on one run of draws each, public rules passed {len(passed)} of {len(wrong)} wrong samplers; "
        f"the e-process rejected {len(caught)} of these on the same draws, "
        f"and {int(right.ours_failed.sum())} of {len(right)} right ones (level 1e-6)"
    )
    return Analysis(notes=notes)


def edges_text(row):
    return (
        f"{row.rule} (n = {row.n:,}) passes temperatures {row.coldest:.3g} to {row.hottest:.3g}, "
        f"ours with as many those within {row.ours_half:.2g} of 1 (P >= 1/2), {row.ours_sure:.2g} (P >= 1e-6)"
    )


# -------------------------------------------------------------- figure

THEIRS, OURS, SURE = figures.COLOURS[1], figures.COLOURS[0], figures.COLOURS[5]


def figure(rows, analysis):
    rules = [name for name in TARGETS if name in set(rows.rule)]
    drawn, (left, right) = figures.canvas(2, width=6.0, height=4.4)
    temperatures(left, rows, rules)
    wrong_samplers(right, rows, rules)
    return drawn


def temperatures(axes, rows, rules):
    for y, name in enumerate(reversed(rules)):
        row = rows[(rows.rule == name) & (rows.what == RIGHT)].iloc[0]
        low, high = max(np.nan_to_num(row.coldest, nan=0.0), 0.01), np.nan_to_num(row.hottest, nan=9.0)
        axes.barh(y + 0.17, high - low, left=low, height=0.3, color=THEIRS)
        for half, colour in ((row.ours_sure, SURE), (row.ours_half, OURS)):
            axes.barh(y - 0.17, 2 * half, left=1 - half, height=0.3, color=colour)
    axes.bar(0, 0, color=THEIRS, label="passes the public rule (P >= 1/2)")
    axes.bar(0, 0, color=OURS, label="passes ours, same draws (P >= 1/2)")
    axes.bar(0, 0, color=SURE, label="passes ours (P >= 1e-6)")
    labels = [f"{name}, n = {PUBLIC_CRITERIA[name].n:,}\n{TARGETS[name][0]}" for name in reversed(rules)]
    axes.set_yticks(range(len(rules)), labels, fontsize=6.5)
    axes.set(xlim=(0.6, 1.4), ylim=(-0.6, len(rules) + 0.9))
    axes.set(xlabel="temperature of the sampler", title="Temperatures let through")
    axes.axvline(1, color="black", lw=0.8)
    axes.legend(fontsize=6.5, loc="upper left", ncols=2)


def wrong_samplers(axes, rows, rules):
    """A square a rule and wrong sampler: P(pass), and the e-process's median number of draws."""
    wrong = [what for what in WRONG if what in set(rows.what)]
    table = rows.set_index(["rule", "what"])
    for i, name in enumerate(rules):
        for j, what in enumerate(wrong):
            row = table.loc[(name, what)]
            axes.add_patch(figures.cell(j, i, row.passes))
            axes.text(j, i - 0.16, f"{row.passes:.2g}", ha="center", va="center", fontsize=7)
            caught = np.isfinite(row.median_stop) and row.median_stop <= row.n
            ours = figures.power_of_ten(row.median_stop) if np.isfinite(row.median_stop) else "never"
            weight = "bold" if caught else "normal"
            axes.text(j, i + 0.2, ours, ha="center", va="center", fontsize=5.5, weight=weight)
    axes.set_xticks(range(len(wrong)), wrong, rotation=30, ha="right", fontsize=7)
    axes.set_yticks(range(len(rules)), rules, fontsize=6.5)
    axes.set(xlim=(-0.5, len(wrong) - 0.5), ylim=(len(rules) - 0.5, -0.5))
    axes.set_title("P(wrong sampler passes the rule); below: median draws to our rejection", fontsize=8.5)
    axes.grid(False)


STUDY = Study(
    name="blind_tests",
    question="What do the public tests of samplers let pass, and what would it take to see it?",
    cells=cells,
    measure=measure,
    analyse=analyse,
    figure=figure,
    keys=("rule", "what"),
)

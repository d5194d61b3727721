"""Does truncating float64 noise at float32's ceiling do what float32 does, and how many texts does it take
to see a difference?

Table 2 of arXiv:2409.02908 (entropy 5.17 nats at 32 bits, 5.66 at 64, 5.12 at 64 bits truncated; 2048 steps,
8 texts, no intervals) on models/mdm: L = 128, N = 2048, event-driven. Declared before the run: mean and
median over sequences both (one degenerate sequence can decide a mean); a difference is seen if its 95 %
interval leaves out 0; the lattice must lie above the truncated control, as in the paper, where 5.17 - 5.12
is too small for 8 texts. Token ids are kept, for a judge.

Predicted: at every candidate step, a known random sample of (state, step), each law says how often a token
would come and how surprising, -log mu - H(mu), it would be. That is a law of the step on the states of one
version; it does not say what the text becomes. The difference of a statistic of the whole text is predicted
to first order from both ends: the mean of f sum_c (q_T / q_L - 1) over float32's texts and of f sum_c (1 -
q_L / q_T) over truncated ones, f centred.
Cost: 3.5 s of one core a sequence; quick three fresh ones beside the committed long run of 256 each.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from precision_lab import figures, statistics
from precision_lab.finding import Claim, Finding
from precision_lab.mdm import decode
from precision_lab.mdm.step_account import StepAccount
from precision_lab.mdm.stored import StoredModel
from precision_lab.mdm.texts import STEP_LAWS, as_text
from precision_lab.result import estimates_table
from precision_lab.statistics import Estimate
from precision_lab.study import Analysis, Study

MODEL = StoredModel(Path(__file__).parent.parent / "models" / "mdm")
LAWS = {  # version of the noise -> its law of a step
    "float32": STEP_LAWS["gumbel_max_fp32"],
    "truncated": STEP_LAWS["gumbel_max_fp64_truncated"],
    "float64": STEP_LAWS["gumbel_max_fp64"],
}

# ---------------------------------------------------------------- grid

VERSIONS = {"smoke": ["float32", "truncated"], "quick": list(LAWS), "full": list(LAWS)}
SIZES = {  # profile -> parts of each version, and what all cells share
    "smoke": (1, {"sequences": 2, "length": 16, "steps": 16}),
    "quick": (1, {"sequences": 1, "length": 128, "steps": 2048}),
    "full": (32, {"sequences": 8, "length": 128, "steps": 2048}),
}


def cells(profile):
    parts, shared = SIZES[profile]
    return [
        {"version": version, "part": part} | shared | {"weights": MODEL.identity()}
        for part in range(parts)
        for version in VERSIONS[profile]
    ]


# ------------------------------------------------------------- measure


def measure(cell, rng):
    version, n, steps = cell["version"], cell["sequences"], cell["steps"]
    account = StepAccount(n, LAWS)
    score = np.zeros(n)  # leads from float32 to truncated

    def watch(seen):
        expected = account(seen)
        if expected and version != "float64":
            came = {law: probability(q, seen.token) for law, q in expected.items()}
            score[seen.sequence] += (came["truncated"] - came["float32"]) / came[version]

    size = {"batch": n, "length": cell["length"], "steps": steps}
    done = decode.event_driven(MODEL.network(), LAWS[version], **size, rng=rng, watch=watch)
    ids = done.tokens.numpy()
    scheduled = np.cumsum(np.append(1 / np.arange(steps, 1, -1), 0))  # all steps but the last
    columns = {
        "sequence_entropy": statistics.sequence_entropy(ids),
        "distinct_2": 1 - statistics.repetition(ids, 2),
        "score": score,
        "repetition_4": statistics.repetition(ids, 4),
        "asked": [scheduled[unmasked_at].sum() for unmasked_at in done.steps],
    }
    return [
        cell
        | {"sequence": k, "tokens": as_text(ids[k])}
        | account.rows[k]
        | {name: float(values[k]) for name, values in columns.items()}
        for k in range(n)
    ]


def probability(q, token):
    """Of what happened at a candidate: the token, or none (-1)."""
    return q[token] if token >= 0 else 1 - q.sum()


# ------------------------------------------------------------- analyse

PAPER = {"float32": 5.17, "truncated": 5.12, "float64": 5.66}  # nats
PAIRS = [
    ("float64", "float32"),
    ("float64", "truncated"),
    ("float32", "truncated"),
]  # the first one lies above
PAPER_N = 8  # texts of a version in the paper
CONTROL = "float32 less truncated"
PREDICTED = ("float32", "truncated")


@dataclass(frozen=True)
class Measure:
    """A statistic of the texts of a version: ``of`` (sequences, columns) -> Estimate."""

    name: str
    statistic: str
    columns: list[str]
    of: Callable[[np.ndarray], Estimate]


def median(x):
    return statistics.median(x[:, 0], rng=np.random.default_rng(0))


def mean(x):
    return statistics.mean(x[:, 0])


def ratio(x):
    return statistics.ratio_of_sums(x[:, 0], x[:, 1])


TEXT = ["sequence_entropy", "distinct_2", "repetition_4", "nll", "context"]
MEASURES = [
    Measure(name, *which) for name in TEXT for which in (("median", [name], median), ("mean", [name], mean))
]
MEASURES += [
    Measure("lost", "ratio", ["lost", "count"], ratio),
    Measure("multiplier", "ratio", ["count", "asked"], ratio),
]


def analyse(rows):
    rows = of_most_steps(rows)
    found = measured(rows)
    law = predicted(rows)
    order = {name: first_order(rows, name) for name in TEXT[:3]}
    return Analysis(
        findings(found),
        notes(rows, found, law, order),
        head="Sequence entropy in nats, 95 %; n texts of each version",
        summary=summary(found, law, order),
        details=(found, law),
    )


def of_most_steps(rows):
    """All sequences of the largest N; nats a token."""
    rows = rows[rows.steps == rows.steps.max()]
    return rows.assign(nll=rows.nll / rows.length, context=rows.context / rows.length, lost=-rows.surprise)


def measured(rows):
    """(measure, statistic) -> version or pair -> Estimate over sequences; nats where it is an entropy."""
    found = {}
    for measure in MEASURES:
        by = {
            version: measure.of(part[measure.columns].to_numpy()) for version, part in rows.groupby("version")
        }
        pairs = [pair for pair in PAIRS if set(pair) <= set(by)]
        differences = {f"{a} less {b}": statistics.difference(by[a], by[b]) for a, b in pairs}
        found[measure.name, measure.statistic] = by | differences
    return found


def predicted(rows):
    """(measure, states of a version, law) -> the multiplier and the surprise lost (nats a token) that the
    law expects there."""
    found = {}
    for version, sums in rows.groupby("version").sum(numeric_only=True).iterrows():
        count = {law: sums[f"count_{law}"] for law in LAWS}
        lost = {law: -sums[f"surprise_{law}"] / count[law] for law in LAWS}
        found |= {("multiplier", version, law): Estimate.exact(count[law] / sums.candidates) for law in LAWS}
        found |= {("lost", version, law): Estimate.exact(lost[law]) for law in LAWS}
    return found


def first_order(rows, name):
    """float32 less truncated: minus the mean of f times the score, over the texts of either, averaged."""
    ends = []
    for version in PREDICTED:
        f, score = rows.loc[rows.version == version, [name, "score"]].to_numpy().T
        ends.append(statistics.mean(-(f - f.mean()) * score))
    value = (ends[0].value + ends[1].value) / 2
    half = np.hypot(*((end.high - end.low) / 4 for end in ends))
    return replace(ends[0], value=value, low=value - half, high=value + half, n=2 * ends[0].n)


def findings(found):
    """The paper's three differences, by median and by mean."""
    return [
        Finding(
            f"{a} less {b}, {statistic}",
            found["sequence_entropy", statistic][f"{a} less {b}"],
            claim=Claim.ABOVE,
        )
        for statistic in ("median", "mean")
        for a, b in PAIRS
        if f"{a} less {b}" in found["sequence_entropy", statistic]
    ]


def notes(rows, found, law, order):
    text = []
    for statistic in ("median", "mean"):
        by = found["sequence_entropy", statistic]
        levels = [f"{v} {by[v].text()} ({statistics.to_bits(by[v].value):.2f} bits)" for v in LAWS if v in by]
        text.append(f"{statistic}: " + ", ".join(levels))
        text += [
            power(f"{a} less {b}", statistic, by, PAPER[a] - PAPER[b])
            for a, b in PAIRS
            if f"{a} less {b}" in by
        ]
    own = [law["lost", version, version].value for version in PREDICTED]  # each law on its own states
    came = found["lost", "ratio"][CONTROL]
    text.append(f"surprise lost a token, {CONTROL}: came {came.text()}, predicted {own[0] - own[1]:.3f}")
    text.append(f"nats a token under the model itself, {CONTROL} {found['nll', 'mean'][CONTROL].text()}")
    text.append(f"mean entropy, {CONTROL}, to first order from the laws {order['sequence_entropy'].text()}")
    text.append(f"{(rows.sequence_entropy < 1).sum()} of {len(rows)} texts below 1 nat")
    return text


def power(pair, statistic, by, paper):
    """The paper's difference beside those that so many texts see."""
    e = by[pair]
    sees = [f"n = {n} sees {statistics.detectable_difference(e, n):.3f}" for n in (e.n, PAPER_N)]
    return f"{pair}, {statistic}: {paper:.2f} in the paper, {', '.join(sees)}"


def summary(found, law, order):
    table = {(*key, of): e for key, by in found.items() for of, e in by.items()}
    table |= {(name, f"predicted on {version} states", of): e for (name, version, of), e in law.items()}
    table |= {(name, "first order", CONTROL): e for name, e in order.items()}
    least = [detectable(of, e) for (_, _, of), e in table.items()]
    return estimates_table(table, ["measure", "statistic", "of"]).assign(detectable=least)


def detectable(of, estimate):
    """Of a difference that varies (medians of counts may not); NaN for others."""
    if " less " in of and estimate.low < estimate.high:
        return statistics.detectable_difference(estimate)
    return np.nan


# -------------------------------------------------------------- figure

LINES = {"float32": "-", "truncated": "--", "float64": ":"}
STATISTICS = {"median": {"marker": "o", "mfc": "white"}, "mean": {"marker": "D"}}


def figure(rows, analysis):
    rows = of_most_steps(rows)
    found, law = analysis.details
    versions = [version for version in LAWS if version in set(rows.version)]
    drawn, (left, middle, right) = figures.canvas(3, width=3.9, height=3.7)
    distributions(left, rows, versions)
    differences(middle, found, versions)
    surprise(right, found, law, versions)
    for axes, at in ((left, "upper left"), (middle, "center right"), (right, "center left")):
        axes.legend(fontsize=7, loc=at)
    return drawn


def distributions(axes, rows, versions):
    for version in versions:
        x = np.sort(rows[rows.version == version].sequence_entropy)
        share = (np.arange(len(x)) + 1) / len(x)
        colour = figures.precision(version)["color"]
        label = f"{version} (n = {len(x)})"
        axes.step(x, share, ls=LINES[version], where="post", color=colour, label=label)
    axes.set(
        xlabel="sequence entropy (nats)", ylabel="share of texts below", title=f"{rows.steps.iloc[0]:,} steps"
    )
    axes.set_xlim(left=np.quantile(rows.sequence_entropy, 0.02) - 0.1)


def differences(axes, found, versions):
    pairs = {f"{a} less {b}": PAPER[a] - PAPER[b] for a, b in PAIRS if {a, b} <= set(versions)}
    grey = figures.series(7)
    for k, (statistic, marker) in enumerate(STATISTICS.items()):
        at = np.arange(len(pairs)) + 0.16 * (2 * k - 1)
        ours = [found["sequence_entropy", statistic][pair] for pair in pairs]
        figures.estimates(axes, at, ours, label=f"{statistic}, ours", look=grey | marker)
        sees = [statistics.detectable_difference(e, PAPER_N) for e in ours]
        axes.hlines(sees, at - 0.07, at + 0.07, color=grey["color"], lw=2.5, alpha=0.5)
    paper = figures.series(6) | {"ls": "none", "mfc": "white", "label": "paper, n = 8, L = 1024"}
    axes.plot(range(len(pairs)), list(pairs.values()), **paper)
    axes.axhline(0, color="black", lw=0.8)
    axes.set_xticks(range(len(pairs)), [pair.replace(" less", "\nless") for pair in pairs], fontsize=8)
    axes.set(ylabel="nats")
    axes.set_title("Difference of entropy (95 %); bars: what 8\ntexts of each see with probability 0.8")


def surprise(axes, found, law, versions):
    for name in LAWS:
        lost = [law["lost", version, name].value for version in versions]
        axes.plot(
            range(len(versions)), lost, ls="none", label=f"predicted by {name}", **figures.precision(name)
        )
    came = [found["lost", "ratio"][version] for version in versions]
    figures.estimates(axes, np.arange(len(versions)) + 0.2, came, label="came (95 %)", index=6)
    axes.set_xticks(range(len(versions)), versions)
    axes.set(
        xlabel="on the states of", ylabel="H(mu) + log mu, nats a token", title="Surprise lost in a step"
    )


STUDY = Study(
    name="truncation_control",
    question=(
        "Is float32 in a masked diffusion model the same as float64 truncated at its ceiling, "
        "and what can 8 texts say of it?"
    ),
    cells=cells,
    measure=measure,
    analyse=analyse,
    figure=figure,
    keys=("version", "part", "sequences", "length", "steps", "weights", "sequence"),
)

"""Does truncating float64 noise at float32's ceiling do what float32 does, and how many texts does it take to see a difference?

Table 2 of arXiv:2409.02908 (entropy 5.17 nats at 32 bits, 5.66 at 64, 5.12 at 64 bits truncated; 2048 steps, 8 texts, no
intervals) on models/mdm: L = 128, N = 2048, event-driven. Declared before the run: mean and median over sequences both (one
degenerate sequence can decide a mean); a difference is seen if its 95 % interval leaves out 0; the lattice must lie above
the truncated control, as in the paper, where 5.17 - 5.12 is too small for 8 texts. Token ids are kept, for a judge.

Predicted: at every candidate step, a known random sample of (state, step), each law says how often a token would come and
how surprising, -log mu - H(mu), it would be. That is a law of the step on the states of one version; it does not say what
the text becomes. The difference of a statistic of the whole text is predicted to first order from both ends: the mean of
f sum_c (q_T / q_L - 1) over float32's texts and of f sum_c (1 - q_L / q_T) over truncated ones, f centred.
Cost: 3.5 s of one core a sequence; quick three fresh ones beside the committed long run of 256 each.
"""

from functools import cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from precision_lab import figures
from precision_lab.files import read_json
from precision_lab.laws.process import faithful_step, lattice_step, truncated_step
from precision_lab.mdm import decode
from precision_lab.mdm.train import load_model
from precision_lab.result import with_long_run
from precision_lab.samplers.gumbel_max import FP32_CEILING
from precision_lab.statistics import (
    Estimate,
    cluster_bootstrap,
    cluster_jackknife,
    difference,
    mean,
    repetition,
    sequence_entropy,
)
from precision_lab.study import Study

ROOT = Path(__file__).parent.parent
LAWS = {"float32": lattice_step, "truncated": partial(truncated_step, ceiling=FP32_CEILING), "float64": faithful_step}
PAPER = {"float32": 5.17, "truncated": 5.12, "float64": 5.66}
PAIRS = [("float64", "float32"), ("float64", "truncated"), ("float32", "truncated")]
SIZES = {"smoke": (2, 1, 2, 16, 16), "quick": (3, 1, 1, 128, 2048), "full": (3, 32, 8, 128, 2048)}
MEASURES = ["sequence_entropy", "distinct_2", "repetition_4", "nll", "context"]
RATIOS = {"lost": ["lost", "count"], "multiplier": ["count", "asked"]}
model = cache(lambda: load_model(ROOT / "models" / "mdm"))


def cells(profile):
    weights = read_json(ROOT / "models" / "mdm" / "manifest.json")["weights_sha256"][:12]
    versions, parts, sequences, length, steps = SIZES[profile]
    fixed = {"sequences": sequences, "length": length, "steps": steps, "weights": weights}
    return [{"version": v, "part": part} | fixed for part in range(parts) for v in list(LAWS)[:versions]]


def measure(cell, rng):
    length, steps = cell["length"], cell["steps"]
    sums = [dict.fromkeys(["nll", "context", "count", "surprise", "score"], 0.0) for _ in range(cell["sequences"])]
    done = decode.event_driven(
        model(), LAWS[cell["version"]], batch=len(sums), length=length, steps=steps, rng=rng,
        watch=lambda seen: account(sums[seen.sequence], cell["version"], seen),
    )  # fmt: skip
    tokens, asked = done.tokens.numpy(), np.cumsum(np.append(1 / np.arange(steps, 1, -1), 0))  # all steps but the last
    own = lambda row: {  # noqa: E731
        "sequence_entropy": float(sequence_entropy(row)[0]),
        "distinct_2": 1 - float(repetition(row, 2)[0]),
        "repetition_4": float(repetition(row, 4)[0]),
        "tokens": " ".join(map(str, row[0].tolist())),
    }
    return [
        cell | {"sequence": i, "asked": float(asked[done.steps[i]].sum())} | sums[i] | own(tokens[i : i + 1])
        for i in range(len(sums))
    ]


def account(sums, version, seen):
    """Add one candidate: what came, what each law expects there, and the score that leads from float32 to truncated."""
    entropy = float(-(np.exp(seen.log_mu) @ seen.log_mu))
    if seen.token >= 0:
        sums["nll"] -= seen.log_mu[seen.token]
        sums["context"] += entropy
    if seen.bound == 1:
        return
    surprise, outcome = -seen.log_mu - entropy, {}
    if seen.token >= 0:
        sums["count"] += 1
        sums["surprise"] += surprise[seen.token]
    for name, law in LAWS.items():
        q = law(seen.log_mu, seen.r) / seen.bound
        outcome[name] = q[seen.token] if seen.token >= 0 else 1 - q.sum()
        for what, value in (("count", q.sum()), ("surprise", q @ surprise)):
            sums[f"{what}_{name}"] = sums.get(f"{what}_{name}", 0.0) + float(value)
    sums["candidates"] = sums.get("candidates", 0.0) + seen.r / seen.bound
    if version != "float64":
        sums["score"] += (outcome["truncated"] - outcome["float32"]) / outcome[version]


def everything(frame):
    """All sequences of one length and number of steps, with those of the committed long run; sums of nats per token."""
    keys = ["version", "part", "sequences", "length", "steps", "weights", "sequence"]
    frame = with_long_run(frame, ROOT, "truncation_control", keys)
    frame = frame[frame.steps == frame.steps.max()].copy()
    frame["nll"], frame["context"], frame["lost"] = (
        frame.nll / frame.length,
        frame.context / frame.length,
        -frame.surprise,
    )
    return frame


def estimates(frame):
    """(measure, statistic) -> version -> Estimate over sequences; nats where it is an entropy."""
    median = lambda x: cluster_bootstrap(lambda at: float(np.median(x[at])), len(x), rng=np.random.default_rng(0))  # noqa: E731
    ratio = lambda x: cluster_jackknife(lambda at: float(x[at, 0].sum() / x[at, 1].sum()), len(x))  # noqa: E731
    wanted = [(what, name, what, of) for what in MEASURES for name, of in (("mean", mean), ("median", median))]
    wanted += [(what, "ratio", columns, ratio) for what, columns in RATIOS.items()]
    return {
        (what, name): {v: of(part[columns].to_numpy()) for v, part in frame.groupby("version")}
        for what, name, columns, of in wanted
    }


def detectable(found: Estimate, n=None):
    """The difference that a 95 % interval leaves out 0 for with probability 0.8, at n sequences a version: t and z."""
    n, error = n or found.n, (found.high - found.low) / 2 / stats.norm.isf(0.025)
    return error * np.sqrt(found.n / n) * (stats.t.isf(0.025, 2 * n - 2) + stats.norm.isf(0.2))


def predicted(frame):
    """Multiplier and surprise lost (nats a token) of each law on the states of each version."""
    columns = [f"{what}_{law}" for what in ("count", "surprise") for law in LAWS]
    t = frame.groupby("version")[[*columns, "candidates"]].sum()
    rows = [{"states": v, "law": law, "multiplier": r[f"count_{law}"] / r.candidates,
             "lost": -r[f"surprise_{law}"] / r[f"count_{law}"]} for v, r in t.iterrows() for law in LAWS]  # fmt: skip
    return pd.DataFrame(rows).set_index(["states", "law"])


def response(frame, what):
    """float32 less truncated to first order, from the scores along both versions' texts (mean of the two ends)."""
    ends = []
    for v in ("float32", "truncated"):
        f, score = frame[frame.version == v][what].to_numpy(), frame[frame.version == v].score.to_numpy()
        ends.append(mean(-(f - f.mean()) * score).scaled(0.5))
    zero = Estimate.exact(0.0)
    minus = difference(Estimate(0.0, 0.0, 0.0, 0.95, zero.n, "", zero.guarantee), ends[1])
    return difference(ends[0], minus)


def summary(frame):
    frame, rows = everything(frame), []
    for (what, name), by in estimates(frame).items():
        for v, e in by.items():
            rows.append([what, name, v, e.value, e.low, e.high, e.n, np.nan])
        for a, b in [pair for pair in PAIRS if pair[0] in by]:
            e = difference(by[a], by[b])
            rows.append([what, name, f"{a} less {b}", e.value, e.low, e.high, e.n, detectable(e)])
    for (states, law), r in predicted(frame).iterrows():
        rows += [[what, f"predicted on {states} states", law, r[what], np.nan, np.nan, 0, np.nan] for what in r.index]
    for what in MEASURES[:3]:
        e = response(frame, what)
        rows.append([what, "predicted, first order", "float32 less truncated", e.value, e.low, e.high, e.n, np.nan])
    return pd.DataFrame(rows, columns=["measure", "statistic", "of", "value", "low", "high", "n", "detectable"])


def draw(frame):
    frame = everything(frame)
    found, law = estimates(frame), predicted(frame)
    figure, (left, middle, right) = figures.canvas(3, width=3.9, height=3.6)
    versions = [v for v in LAWS if v in set(frame.version)]
    for k, v in enumerate(versions):
        x = np.sort(frame[frame.version == v].sequence_entropy)
        left.step(
            x,
            (np.arange(len(x)) + 1) / len(x),
            where="post",
            ls=("-", "--", ":")[k],
            color=figures.COLOURS[k],
            label=f"{v} (n = {len(x)})",
        )
    left.set(
        xlabel="sequence entropy (nats)", ylabel="share of sequences below", title="Texts of 2048 steps", xlim=(3, None)
    )
    left.legend(loc="upper left")
    pairs = [pair for pair in PAIRS if pair[0] in versions]
    for k, name in enumerate(("mean", "median")):
        e = [difference(found["sequence_entropy", name][a], found["sequence_entropy", name][b]) for a, b in pairs]
        at = np.arange(len(pairs)) + 0.16 * (2 * k - 1)
        values, lows, highs = (np.array([getattr(d, end) for d in e]) for end in ("value", "low", "high"))
        figures.interval(middle, at, values, lows, highs, label=f"{name}, ours", index=k, line="none")
        for x, d in zip(at, e, strict=True):
            middle.plot([x - 0.06, x + 0.06], 2 * [detectable(d, 8)], color=figures.COLOURS[k], lw=2.5, alpha=0.5)
    middle.plot(
        range(len(pairs)),
        [PAPER[a] - PAPER[b] for a, b in pairs],
        ls="none",
        label="paper, n = 8, L = 1024",
        mfc="white",
        **figures.series(6),
    )
    middle.axhline(0, color="black", lw=0.8)
    middle.set_xticks(range(len(pairs)), [f"{a}\nless {b}" for a, b in pairs], fontsize=7)
    middle.set(
        ylabel="nats",
        title="Difference of entropy (95 %)\nbars: seen by 8 texts each, power 0.8",
        xlim=(-0.5, len(pairs) - 0.5),
    )
    middle.legend(fontsize=7)
    for k, name in enumerate(LAWS):
        at = np.arange(len(versions)) + 0.2 * (k - 1)
        right.plot(
            at,
            [law.loc[(v, name), "lost"] for v in versions],
            ls="none",
            label=f"predicted by {name}",
            **figures.series(k),
        )
    lost = [found["lost", "ratio"][v] for v in versions]
    values, lows, highs = (np.array([getattr(d, end) for d in lost]) for end in ("value", "low", "high"))
    figures.interval(
        right, np.arange(len(versions)) + 0.35, values, lows, highs, label="came (95 %)", index=6, line="none"
    )
    right.set_xticks(range(len(versions)), versions)
    right.set(
        xlabel="states visited by",
        ylabel="H(mu) + log mu, nats a token",
        title="Surprise lost in a step",
        xlim=(-0.5, len(versions) - 0.3),
    )
    right.legend(fontsize=7)
    return figure


def verdict(frame):
    frame = everything(frame)
    found, law = estimates(frame), predicted(frame)
    say = lambda e, digits=3: f"{e.value:.{digits}f} [{e.low:.{digits}f}, {e.high:.{digits}f}]"  # noqa: E731
    text = []
    for name in ("median", "mean"):
        by = found["sequence_entropy", name]
        levels = ", ".join(f"{v} {say(e)} ({e.value / np.log(2):.2f} bits)" for v, e in by.items())
        text.append(f"Sequence entropy, {name}, nats: {levels}")
        for a, b in [pair for pair in PAIRS if pair[0] in by]:
            d = difference(by[a], by[b])
            seen = "seen" if d.low > 0 else "the other sign" if d.high < 0 else "not seen"
            text.append(
                f"{a} less {b} {say(d)}, {seen} (paper {PAPER[a] - PAPER[b]:+.2f}; n = {d.n} a version sees {detectable(d):.3f}, n = 8 {detectable(d, 8):.2f})"
            )
    lost, nll = found["lost", "ratio"], found["nll", "mean"]
    pair = difference(lost["truncated"], lost["float32"])
    both = [law.loc[(v, "truncated"), "lost"] - law.loc[(v, "float32"), "lost"] for v in law.index.levels[0]]
    text.append(
        f"Surprise lost a token, truncated less float32: came {say(pair)}, predicted {min(both):.3f} to {max(both):.3f} on the states of each version"
    )
    text.append(
        f"nats a token under the model itself, float32 less truncated {say(difference(nll['float32'], nll['truncated']))}"
    )
    text.append(
        f"entropy, float32 less truncated, to first order from the laws {say(response(frame, 'sequence_entropy'))}"
    )
    text.append(f"{(frame.sequence_entropy < 1).sum()} of {len(frame)} texts below 1 nat")
    return "; ".join(text) + "."


QUESTION = "Is float32 in a masked diffusion model the same as float64 truncated at its ceiling, and what can 8 texts say of it?"
STUDY = Study("truncation_control", QUESTION, cells, measure, draw, verdict, summary=summary)

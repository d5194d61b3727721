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

from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import numpy as np

from precision_lab import figures
from precision_lab import statistics as judge
from precision_lab.files import read_json
from precision_lab.laws.process import faithful_step, lattice_step, truncated_step
from precision_lab.mdm import decode
from precision_lab.mdm.step_account import StepAccount
from precision_lab.mdm.train import load_model
from precision_lab.result import estimates_table, with_long_run
from precision_lab.samplers.gumbel_max import FP32_CEILING
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
    n, steps, version = cell["sequences"], cell["steps"], cell["version"]
    account, score = StepAccount(n, LAWS), np.zeros(n)

    def watch(seen):  # the score leads from float32 to truncated
        of = {law: q[seen.token] if seen.token >= 0 else 1 - q.sum() for law, q in account(seen).items()}
        if of and version != "float64":
            score[seen.sequence] += (of["truncated"] - of["float32"]) / of[version]

    common = {"batch": n, "length": cell["length"], "steps": steps, "rng": rng, "watch": watch}
    done = decode.event_driven(model(), LAWS[version], **common)
    ids, asked = done.tokens.numpy(), np.cumsum(np.append(1 / np.arange(steps, 1, -1), 0))  # all steps but the last
    own = {"sequence_entropy": judge.sequence_entropy(ids), "distinct_2": 1 - judge.repetition(ids, 2), "score": score,
           "repetition_4": judge.repetition(ids, 4), "asked": [asked[came].sum() for came in done.steps]}  # fmt: skip
    each = [{"sequence": i, "tokens": " ".join(map(str, ids[i].tolist()))} for i in range(n)]
    return [cell | each[i] | account.rows[i] | {k: float(v[i]) for k, v in own.items()} for i in range(n)]


def everything(frame):
    """All sequences of the largest N, with those of the committed long run."""
    keys = ["version", "part", "sequences", "length", "steps", "weights", "sequence"]
    frame = with_long_run(frame, ROOT, "truncation_control", keys)
    frame = frame[frame.steps == frame.steps.max()]
    return frame.assign(nll=frame.nll / frame.length, context=frame.context / frame.length, lost=-frame.surprise)


def estimates(frame):
    """(measure, statistic) -> version or pair -> Estimate over sequences; nats where it is an entropy."""
    middle = lambda x: judge.median(x, rng=np.random.default_rng(0))  # noqa: E731
    ratio = lambda x: judge.ratio_of_sums(*x.T)  # noqa: E731
    wanted = [(what, name, what, of) for what in MEASURES for name, of in (("median", middle), ("mean", judge.mean))]
    wanted += [(what, "ratio", columns, ratio) for what, columns in RATIOS.items()]
    found = {}
    for what, name, columns, of in wanted:
        by = {v: of(part[columns].to_numpy()) for v, part in frame.groupby("version")}
        pairs = [pair for pair in PAIRS if set(pair) <= set(by)]
        found[what, name] = by | {f"{a} less {b}": judge.difference(by[a], by[b]) for a, b in pairs}
    return found


def predicted(frame):
    """(measure, states of a version, law) -> the multiplier and the surprise lost (nats a token) that the law expects there."""
    found, exact = {}, judge.Estimate.exact
    for v, r in frame.groupby("version").sum(numeric_only=True).iterrows():
        found |= {("multiplier", v, law): exact(r[f"count_{law}"] / r.candidates) for law in LAWS}
        found |= {("lost", v, law): exact(-r[f"surprise_{law}"] / r[f"count_{law}"]) for law in LAWS}
    return found


def first_order(frame, what):
    """float32 less truncated: minus the mean of f times the score, over the texts of either, averaged."""
    ends = []
    for version in ("float32", "truncated"):
        f, score = frame.loc[frame.version == version, [what, "score"]].to_numpy().T
        ends.append(judge.mean(-(f - f.mean()) * score))
    value, half = (ends[0].value + ends[1].value) / 2, np.hypot(*((e.high - e.low) / 4 for e in ends))
    return replace(ends[0], value=value, low=value - half, high=value + half, n=2 * ends[0].n)


def summary(frame):
    frame = everything(frame)
    found = {(*key, of): e for key, by in estimates(frame).items() for of, e in by.items()}
    found |= {(what, f"predicted on {v} states", law): e for (what, v, law), e in predicted(frame).items()}
    found |= {(what, "first order", "float32 less truncated"): first_order(frame, what) for what in MEASURES[:3]}
    seen = lambda key, e: judge.detectable_difference(e) if " less " in key[2] and e.low < e.high else np.nan  # noqa: E731
    least = [seen(*pair) for pair in found.items()]  # medians of counts may not vary
    return estimates_table(found, ["measure", "statistic", "of"]).assign(detectable=least)


def draw(frame):
    frame = everything(frame)
    found, law, versions = estimates(frame), predicted(frame), [v for v in LAWS if v in set(frame.version)]
    figure, (left, middle, right) = figures.canvas(3, width=3.9, height=3.7)
    for k, v in enumerate(versions):
        x, style = np.sort(frame[frame.version == v].sequence_entropy), {"color": figures.COLOURS[k], "where": "post"}
        left.step(x, (np.arange(len(x)) + 1) / len(x), ls=("-", "--", ":")[k], label=f"{v} (n = {len(x)})", **style)
    left.set(xlabel="sequence entropy (nats)", ylabel="share of texts below", title=f"{frame.steps.iloc[0]:,} steps")
    left.set_xlim(left=np.quantile(frame.sequence_entropy, 0.02) - 0.1)
    pairs = {f"{a} less {b}": PAPER[a] - PAPER[b] for a, b in PAIRS if {a, b} <= set(versions)}
    for k, name in enumerate(("median", "mean")):
        e, at = [found["sequence_entropy", name][pair] for pair in pairs], np.arange(len(pairs)) + 0.16 * (2 * k - 1)
        figures.estimates(middle, at, e, label=f"{name}, ours", index=k)
        seen = [judge.detectable_difference(x, 8) for x in e]
        middle.hlines(seen, at - 0.07, at + 0.07, color=figures.COLOURS[k], lw=2.5, alpha=0.5)
    style = figures.series(6) | {"ls": "none", "mfc": "white", "label": "paper, n = 8, L = 1024"}
    middle.plot(range(len(pairs)), list(pairs.values()), **style)
    middle.axhline(0, color="black", lw=0.8)
    middle.set_xticks(range(len(pairs)), [pair.replace(" less", "\nless") for pair in pairs], fontsize=8)
    middle.set(
        ylabel="nats", title="Difference of entropy (95 %); bars: what 8\ntexts of each see with probability 0.8"
    )
    for k, name in enumerate(LAWS):
        lost, style = [law["lost", v, name].value for v in versions], figures.series(k) | {"ls": "none"}
        right.plot(range(len(versions)), lost, label=f"predicted by {name}", **style)
    came = [found["lost", "ratio"][v] for v in versions]
    figures.estimates(right, np.arange(len(versions)) + 0.2, came, label="came (95 %)", index=6)
    right.set_xticks(range(len(versions)), versions)
    right.set(xlabel="on the states of", ylabel="H(mu) + log mu, nats a token", title="Surprise lost in a step")
    for axes, at in ((left, "upper left"), (middle, "center right"), (right, "center left")):
        axes.legend(fontsize=7, loc=at)
    return figure


def verdict(frame):
    frame = everything(frame)
    found, law, text = estimates(frame), predicted(frame), []
    for name in ("median", "mean"):
        by = found["sequence_entropy", name]
        levels = [f"{v} {by[v].text()} ({judge.to_bits(by[v].value):.2f} bits)" for v in LAWS if v in by]
        text.append(f"Sequence entropy, {name}, nats: " + ", ".join(levels))
        for a, b in PAIRS:
            if e := by.get(f"{a} less {b}"):
                seen = "seen" if e.low > 0 else "the other sign" if e.high < 0 else "not seen"
                least = [f"n = {n} a version sees {judge.detectable_difference(e, n):.3f}" for n in (e.n, 8)]
                text.append(f"{a} less {b} {e.text()}, {seen} (paper {PAPER[a] - PAPER[b]:.2f}; {', '.join(least)})")
    pair, came = "float32 less truncated", found["lost", "ratio"]
    own = [law["lost", v, v].value for v in ("float32", "truncated")]  # each law on its own states
    text += [
        f"surprise lost a token, {pair}: came {came[pair].text()}, predicted {own[0] - own[1]:.3f}",
        f"nats a token under the model itself, {pair} {found['nll', 'mean'][pair].text()}",
        f"mean entropy, {pair}, to first order from the laws {first_order(frame, 'sequence_entropy').text()}",
        f"{(frame.sequence_entropy < 1).sum()} of {len(frame)} texts below 1 nat",
    ]
    return "; ".join(text) + "."


QUESTION = "Is float32 in a masked diffusion model the same as float64 truncated at its ceiling, and what can 8 texts say of it?"
STUDY = Study("truncation_control", QUESTION, cells, measure, draw, verdict, summary=summary)

"""Are some tokens unmasked before others, and is it that, or the tokens drawn, that costs diversity over many steps?

"Prioritized unmasking", by arXiv:2409.02908 (section 5) the major factor, inferred from first-hitting decoding. models/mdm,
L = 64, event-driven. Laws of the step: float64, float32 (lattice), truncated, and float32 changed in one thing: two_stage,
whether is decided exactly, then a float32 draw from mu alone; tokens, the right rate and float32's law of what comes; times,
float32's rate and what comes from mu. So two_stage takes out both effects of the race, and tokens and times tell them apart.
By probability mu of the token when it came: how often it came over how often asked (predicted: q / (r mu) on the states
visited), mean time 1 - step / N, place in the order. mu rises with context, so the order is not flat even for float64. The
declared test: given the state, the step says nothing of the token, on any network. Evidence is the likelihood ratio of
float32's law to the faithful one, of tokens and of times; at 2e6 the faithful law is refused (Ville). Declared: medians.
Cost: 1.2 s of one core a sequence; full 16 to 40 of each of six laws and three N, quick one of each at one N.
"""

from functools import cache, partial
from itertools import product
from pathlib import Path

import numpy as np

from precision_lab import figures
from precision_lab import statistics as judge
from precision_lab.files import read_json
from precision_lab.laws import process
from precision_lab.mdm import decode
from precision_lab.mdm.step_account import StepAccount
from precision_lab.mdm.train import load_model
from precision_lab.result import estimates_table, with_long_run
from precision_lab.samplers.gumbel_max import FP32_CEILING
from precision_lab.study import Study

ROOT, ASKED, RACE = Path(__file__).parent.parent, "float64", "float32"
LAWS = {ASKED: process.faithful_step, RACE: process.lattice_step, "two_stage": process.two_stage_step,
        "tokens": process.tokens_alone(process.lattice_step), "times": process.times_alone(process.lattice_step),
        "truncated": partial(process.truncated_step, ceiling=FP32_CEILING)}  # fmt: skip
GRID = {"smoke": (2, 8, 2, {64: 1}), "quick": (6, 64, 1, {50_000: 1}), "full": (6, 64, 8, {256: 2, 4096: 5, 50_000: 5})}
EDGES, DECADES, REFUSED = np.log(10.0) * np.arange(-6, 0), 7, np.log(2e6)  # of log mu: below 1e-6, then six decades
RATIOS = {"rate": "came asked", "predicted": "expected asked", "time": "time came", "order": "order came"}
model = cache(lambda: load_model(ROOT / "models" / "mdm"))


def cells(profile):
    weights = read_json(ROOT / "models" / "mdm" / "manifest.json")["weights_sha256"][:12]
    laws, length, sequences, parts = GRID[profile]  # parts of each number of steps
    runs = [(law, steps, part) for steps, n in parts.items() for part in range(n) for law in list(LAWS)[:laws]]
    fixed = {"length": length, "sequences": sequences, "weights": weights}
    return [{"law": law, "steps": steps, "part": part} | fixed for law, steps, part in runs]


def measure(cell, rng):
    n, length, steps = cell["sequences"], cell["length"], cell["steps"]
    account, decade = StepAccount(n, {law: LAWS[law] for law in (ASKED, RACE)}), np.zeros((n, length), dtype=int)
    bins = {what: np.zeros((n, DECADES)) for what in ("asked", "expected", "came", "time", "order")}
    sums = {what: np.zeros(n) for what in ("evidence_tokens", "evidence_times", "entropy_asked", "entropy_race")}

    def watch(seen):
        given, of, i = account(seen), np.digitize(seen.log_mu, EDGES), seen.sequence
        decade[i, seen.position] = of[seen.token]  # the last candidate is the one that came
        if given:
            p, q, entropy = given[ASKED], given[RACE], -np.exp(seen.log_mu) @ seen.log_mu
            a, b = p.sum(), q.sum()
            bins["asked"][i] += np.bincount(of, p, DECADES)
            bins["expected"][i] += np.bincount(of, q, DECADES)
            sums["entropy_asked"][i] += a * entropy
            sums["entropy_race"][i] += b * entropy
            if seen.token >= 0:
                sums["evidence_tokens"][i] += np.log(q[seen.token] / b) - np.log(p[seen.token] / a)
            sums["evidence_times"][i] += np.log(b / a) if seen.token >= 0 else np.log((1 - b) / (1 - a))

    done = decode.event_driven(model(), LAWS[cell["law"]], batch=n, length=length, steps=steps, rng=rng, watch=watch)
    came, ids = done.steps.numpy(), done.tokens.numpy()
    place = (came.argsort(1, kind="stable").argsort(1, kind="stable") + 0.5) / length
    for what, value in (("came", np.ones(came.shape)), ("time", 1 - came / steps), ("order", place)):
        value = np.where(came < steps - 1, value, 0)  # in the last step everything comes
        bins[what] = np.array([np.bincount(decade[i], value[i], DECADES) for i in range(n)])
    sums |= {f"{what}_{k}": column for what, each in bins.items() for k, column in enumerate(each.T)}
    sums["sequence_entropy"] = judge.sequence_entropy(ids)
    each = [{"sequence": i, "tokens": " ".join(map(str, ids[i].tolist()))} for i in range(n)]
    return [cell | each[i] | account.rows[i] | {what: float(v[i]) for what, v in sums.items()} for i in range(n)]


def everything(frame):
    both = with_long_run(frame, ROOT, "unmasking_order", [*frame.columns[:7]])
    return both[both.length == both.length.max()]


def by_decade(frame):
    """(law, steps, decade, measure) -> Estimate, where at least 20 tokens came in at least two sequences."""
    return {
        (law, steps, k, what): judge.ratio_of_sums(part[f"{over}_{k}"], part[f"{under}_{k}"])
        for (law, steps), part in frame.groupby(["law", "steps"], sort=False)
        for k in range(DECADES)
        for what, (over, under) in ((what, names.split()) for what, names in RATIOS.items())
        if part[f"came_{k}"].sum() >= 20 and (part[f"came_{k}"] > 0).sum() >= 2
    }


def lost(frame):
    """(law, steps, "", measure) -> entropy that float32 loses and, where that is seen, the share of it that each changed law
    loses; independent groups, drawn again in pairs."""
    found = {}
    for (steps, part), (name, of) in product(frame.groupby("steps"), (("median", np.median), ("mean", np.mean))):
        x = {law: each.sequence_entropy.to_numpy() for law, each in part.groupby("law")}
        less = lambda law, at, x=x, of=of: float(of(x[ASKED][at]) - of(x[law][at]))  # noqa: E731
        boot = partial(judge.cluster_bootstrap, clusters=min(map(len, x.values())), rng=np.random.default_rng(0))
        found[RACE, steps, "", f"{name} entropy lost"] = whole = boot(partial(less, RACE))
        for law in [law for law in list(LAWS)[2:] if law in x and whole.low > 0]:
            found[law, steps, "", f"share of the {name}"] = boot(
                lambda at, law=law, of=less: of(law, at) / of(RACE, at)
            )
    return found


def of_a_step(frame):
    """(float32, steps, "", measure) -> nats by which its next token is less surprising than asked, on its own states: for
    the token that comes there, and for the place where it comes (surer places sooner)."""
    found = {}
    for steps, race in frame[frame.law == RACE].groupby("steps"):
        x = race[[f"surprise_{RACE}", f"count_{RACE}", "entropy_race", "entropy_asked", f"count_{ASKED}"]].to_numpy()
        place = lambda at, x=x: float(x[at, 3].sum() / x[at, 4].sum() - x[at, 2].sum() / x[at, 1].sum())  # noqa: E731
        found[RACE, steps, "", "less surprising by the token"] = judge.ratio_of_sums(-x[:, 0], x[:, 1])
        found[RACE, steps, "", "less surprising by the place"] = judge.cluster_jackknife(place, len(x))
    return found


def summary(frame):
    frame = everything(frame)
    return estimates_table(by_decade(frame) | lost(frame) | of_a_step(frame), ["law", "steps", "decade", "measure"])


def draw(frame):
    frame = everything(frame)
    found, runs = by_decade(frame), sorted(set(frame.steps))
    figure, (left, middle, right) = figures.canvas(3, width=4.0, height=3.7)

    def curve(axes, law, steps, what, shift=0.0, **style):
        at = [k for k in range(DECADES) if (law, steps, k, what) in found]
        figures.estimates(axes, np.array(at) + shift, [found[law, steps, k, what] for k in at], **style)

    for j, steps in enumerate(runs):
        at = [k for k in range(DECADES) if (RACE, steps, k, "predicted") in found]
        left.plot(at, [found[RACE, steps, k, "predicted"].value for k in at], color=figures.COLOURS[j])
        curve(left, RACE, steps, "rate", label=f"float32, N = {steps:,}", index=j)
    curve(left, "two_stage", runs[-1], "rate", 0.15, label=f"two-stage, N = {runs[-1]:,}", index=6)
    left.axhline(1, color="black", lw=0.8)
    for k, law in enumerate(LAWS):
        if law not in ("tokens", "times"):
            curve(middle, law, runs[-1], "order", 0.08 * (k - 2), label=law, index=k, line="-")
        parts = [part.sequence_entropy for _, part in frame[frame.law == law].groupby("steps")]
        medians = [judge.median(x, rng=np.random.default_rng(0)) for x in parts]
        figures.estimates(right, np.arange(len(parts)) + 0.12 * (k - 2.5), medians, label=law, index=k)
    left.set(ylabel="came / asked", title="Rate of unmasking (lines: predicted)")
    middle.set(ylabel="mean place in the order (0 first, 1 last)", title=f"Order of unmasking, N = {runs[-1]:,}")
    right.set(ylabel="sequence entropy (nats)", title="Median of the texts (95 %)")
    for axes in (left, middle):
        axes.set_xticks(range(DECADES), ["<1e-6", *(f"1e{k - 6}" for k in range(DECADES - 1))], fontsize=7)
        axes.set_xlabel("probability of the token when it came, from")
    right.set_xticks(range(len(runs)), [f"N = {steps:,}" for steps in runs])
    for axes in (left, middle, right):
        axes.legend(fontsize=7)
    return figure


def verdict(frame):
    frame, text = everything(frame), []
    for (law, n), part in frame[frame.law.isin([ASKED, RACE, "two_stage"])].groupby(["law", "steps"], sort=False):
        a, b = part[["evidence_tokens", "evidence_times"]].sum()
        kept = f"{'refused' if max(a, b) > REFUSED else 'kept'} ({a:.1f} nats by tokens, {b:.1f} by times"
        text.append(f"{law}, N = {n}: faithful law {kept}; n = {len(part)})")
    found = {key: e for key, e in (of_a_step(frame) | lost(frame)).items() if "mean" not in key[3]}
    text += [f"N = {steps}, {law}, {what}: {e.text(2)} (n = {e.n})" for (law, steps, _, what), e in found.items()]
    share = {key[0]: e for key, e in found.items() if "share" in key[3]}  # of the largest N
    if "tokens" in share and share["tokens"].low > share["times"].high:
        text[:0] = [f"N = {max(frame.steps)}: the order of places costs less than the token that wins: different"]
    return "; ".join(text) + "."


ASKS = "Are some tokens unmasked before others, and is that what costs diversity over many steps?"
STUDY = Study("unmasking_order", ASKS, cells, measure, draw, verdict, summary=summary)

"""Is a law of the step a law of the run? Real ancestral decoding against what each law predicts on the
states that it visits.

Brute force on models/mdm, every draw made. At every step every masked position has, under a law, a
probability of being unmasked and an expected surprise of the token that comes, here -log mu - H(mu): 0 on
average if the sampler draws what it was asked for. What happened minus what was expected, summed over a run,
is a martingale if the law is right: z is standard normal whatever the network says. So is the ratio of the
run's likelihoods under another law and the right one: it exceeds e^x with probability at most e^-x, at any
stopping. Between two events the state is fixed and a law is interpolated in log r, 3 points an octave.
Beyond N = 4096 states are visited event-driven, and only predictions are shown. The committed long run is
added.
Cost: N * length * vocab / 2 noise values and 2,000 step laws a sequence.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from precision_lab import SAMPLERS, figures, resolve
from precision_lab.finding import Claim, Finding, evidence
from precision_lab.laws.process import interpolation, lattice_step
from precision_lab.mdm import decode
from precision_lab.mdm.stored import StoredModel
from precision_lab.mdm.texts import STEP_LAWS
from precision_lab.study import Analysis, Study

MODEL = StoredModel(Path(__file__).parent.parent / "models" / "mdm")
LENGTH = 32
SEQUENCES = 2  # of a cell
NODES = 3  # points an octave at which a law is computed

FP32 = "gumbel_max_fp32"
FP64 = "gumbel_max_fp64"
TRUNCATED = "gumbel_max_fp64_truncated"
OWN_LAW = {FP32: "lattice", FP64: "faithful", TRUNCATED: "Prop. 5.2"}  # sampler -> its law of a step
LAWS = {law: STEP_LAWS[sampler] for sampler, law in OWN_LAW.items()}

# ---------------------------------------------------------------- grid

RUN = ["decoder", "sampler", "steps"]
GRID = {  # profile -> (decoder, sampler, steps, cells)
    "smoke": [("ancestral", FP32, 8, 1)],
    "quick": [
        ("ancestral", FP32, 128, 1),
        ("ancestral", FP32, 1024, 1),
        ("ancestral", FP64, 1024, 1),
        ("event_driven", FP32, 16384, 1),
    ],
    "full": [
        ("ancestral", FP32, 128, 8),
        ("ancestral", FP32, 1024, 16),
        ("ancestral", FP32, 4096, 6),
        ("ancestral", FP64, 1024, 6),
        ("ancestral", TRUNCATED, 1024, 6),
        ("event_driven", FP32, 16384, 3),
        ("event_driven", FP32, 50_000, 3),
    ],
}


def cells(profile):
    weights = MODEL.identity()
    return [
        {"decoder": decoder, "sampler": sampler, "steps": steps, "part": part, "weights": weights}
        for decoder, sampler, steps, parts in GRID[profile]
        for part in range(parts)
    ]


# ------------------------------------------------------------- measure


@dataclass
class StepSums:
    """What one law says of a run, and what happened, summed over positions and over all steps but the
    last, where the mask has no mass."""

    asked: float = 0.0  # unmasking probability as scheduled
    count: float = 0.0  # tokens that came
    expected: float = 0.0  # tokens that the law expects, and the variance of their number
    variance: float = 0.0
    surprise: float = 0.0  # -log mu - H(mu) of the tokens that came
    surprise_mean: float = 0.0  # the same as the law expects it, and its variance
    surprise_variance: float = 0.0
    log_likelihood: float = 0.0


SUMS = list(asdict(StepSums()))


def measure(cell, rng):
    rows = []
    for sequence in range(SEQUENCES):
        tokens, unmasked_at = decoded(cell, rng)
        sums = account(tokens, unmasked_at, cell["steps"])
        rows += [cell | {"sequence": sequence, "law": law} | asdict(sums[law]) for law in LAWS]
    return rows


def decoded(cell, rng):
    """One sequence: its tokens and the step in which each of them came, (LENGTH,) both."""
    common = {"batch": 1, "length": LENGTH, "steps": cell["steps"], "rng": rng}
    if cell["decoder"] == "event_driven":
        done = decode.event_driven(MODEL.network(), lattice_step, **common)
        return done.tokens[0].numpy(), done.steps[0].numpy()
    drawn = []

    def watched(logits, n, *, generator):  # one call a step, as long as LENGTH <= 64
        drawn.append(SAMPLERS[cell["sampler"]].sample(logits, n, rng=generator))
        return drawn[-1]

    done = decode.ancestral(MODEL.network(), resolve(watched), **common)
    unmasked_at = np.full(LENGTH, -1)
    for step, tokens in enumerate(drawn):
        masked = np.flatnonzero(unmasked_at < 0)
        came = (tokens[0] != MODEL.network().config.mask_id).numpy()
        unmasked_at[masked[came]] = step
    return done.tokens[0].numpy(), unmasked_at


def account(tokens, unmasked_at, steps):
    """Law -> StepSums of one run."""
    sums = {law: StepSums() for law in LAWS}
    for first, end in fixed_states(unmasked_at, steps):
        left = np.arange(steps - first, steps - end, -1.0)  # 1 / r in these steps
        for position, log_mu in masked_rows(tokens, unmasked_at, first):
            came = tokens[position] if unmasked_at[position] < end else None
            for name, law in LAWS.items():
                add(sums[name], law, left, log_mu, tokens[position], came is not None)
    return sums


def fixed_states(unmasked_at, steps) -> Iterator[tuple[int, int]]:
    """Ranges of steps in which the state does not change and r grows by an octave at most."""
    octaves = steps - steps // 2 ** np.arange(steps.bit_length())
    edges = np.unique([*octaves, *(unmasked_at + 1)])
    return pairwise(edges[edges < steps])


def masked_rows(tokens, unmasked_at, step):
    """(position, log mu) of every position that is masked before ``step``."""
    network = MODEL.network()
    masked = np.flatnonzero(unmasked_at >= step)
    state = torch.from_numpy(np.where(unmasked_at < step, tokens, network.config.mask_id))
    with torch.no_grad():
        hidden = network.hidden(state[None])[0, masked]
        rows = torch.log_softmax(network.logits(hidden).double(), -1).numpy()
    return zip(masked, rows, strict=True)


def add(sums, law, left, log_mu, token, event):
    """Add a position's part of a range of steps. ``event``: whether ``token`` came in the last of them."""
    log_p = np.sort(log_mu)  # sorted, so that Prop. 5.2 sorts fast
    at = np.searchsorted(log_p, log_mu[token])
    surprise = -log_p + np.exp(log_p) @ log_p
    this_token = np.arange(len(log_p)) == at
    moments = np.stack([np.ones_like(log_p), surprise, surprise**2, this_token], 1)
    nodes, weight = interpolation(left, NODES)
    at_nodes = np.array([law(log_p, 1 / x) * x for x in nodes]) @ moments  # smooth in log r
    unmasks, first, second, this = (weight @ at_nodes / left[:, None]).T  # a step each

    sums.asked += (1 / left).sum()
    sums.expected += unmasks.sum()
    sums.variance += (unmasks * (1 - unmasks)).sum()
    sums.surprise_mean += first.sum()
    sums.surprise_variance += (second - first**2).sum()
    log_likelihood = np.log1p(-unmasks).sum()
    if event:
        sums.count += 1.0
        sums.surprise += surprise[at]
        log_likelihood += np.log(this[-1] / (1 - unmasks[-1]))
    sums.log_likelihood += log_likelihood


# ------------------------------------------------------------- analyse


def analyse(rows):
    table = by_law(rows)
    largest = table[(table.decoder == "ancestral") & (table.sampler == FP32)].steps.max()
    at_largest = table[(table.decoder == "ancestral") & (table.sampler == FP32) & (table.steps == largest)]
    nats = at_largest.set_index("law").nats
    behind = f"float32 at N = {largest}: nats of likelihood of the lattice's law over"
    findings = [
        Finding(f"{behind} Prop. 5.2's", evidence(nats["Prop. 5.2"]), claim=Claim.BELOW, digits=1),
        Finding(f"{behind} the law asked for", evidence(nats["faithful"]), claim=Claim.ABOVE, digits=1),
    ]
    head = (
        "Multiplier and surprise lost (nats a token), +- 95 % under the sampler's own law; "
        "likelihood ratios -/+ log(1e6)"
    )
    runs = table[table.decoder == "ancestral"].groupby(RUN)
    notes = [run_text(sampler, steps, part) for (_, sampler, steps), part in runs]
    return Analysis(findings, notes, head, details=table)


def by_law(rows):
    """A row a run and law, sequences summed: multiplier and surprise lost, predicted and drawn; their z;
    and the nats by which the sampler's own law explains the run better."""
    table = rows.groupby([*RUN, "law"])[SUMS].sum().reset_index()
    own = table[table.law == table.sampler.map(OWN_LAW)][[*RUN, "log_likelihood"]]
    table = table.merge(own, on=RUN, suffixes=("", "_own"))
    table["nats"] = table.log_likelihood_own - table.log_likelihood

    table["predicted"] = table.expected / table.asked
    table["drawn"] = table["count"] / table.asked
    table["error"] = np.sqrt(table.variance) / table.asked
    table["z_count"] = (table["count"] - table.expected) / np.sqrt(table.variance)

    table["lost_predicted"] = -table.surprise_mean / table.expected
    table["lost"] = -table.surprise / table["count"]
    table["lost_error"] = np.sqrt(table.surprise_variance) / table["count"]
    table["z_surprise"] = (table.surprise - table.surprise_mean) / np.sqrt(table.surprise_variance)
    return table


def run_text(sampler, steps, part):
    own = part[part.law == OWN_LAW[sampler]].iloc[0]
    drawn = f"drawn {own.drawn:.3f} +- {1.96 * own.error:.3f}, {own.lost:.3f} +- {1.96 * own.lost_error:.3f}"
    laws = [
        f"{r.law} {r.predicted:.3f}, {r.lost_predicted:.3f} "
        f"(z {r.z_count:.1f}, {r.z_surprise:.1f}; {r.nats:.1f} nats worse)"
        for r in part.itertuples()
    ]
    return f"{sampler} N = {steps}, {own['count']:.0f} tokens: {drawn}; " + ", ".join(laws)


# -------------------------------------------------------------- figure

LINES = {"lattice": "-", "faithful": "--", "Prop. 5.2": "-."}
SHIFT = {FP32: 1.0, FP64: 1.15, TRUNCATED: 0.87}  # of N, so that the samplers stand side by side


def figure(rows, analysis):
    table = analysis.details
    drawn, (share, lost, z, nats) = figures.canvas(2, 2, width=4.5, height=3.3)
    curves(share, table, "predicted", "drawn", "error")
    curves(lost, table, "lost_predicted", "lost", "lost_error")
    share.set(ylabel="unmaskings / intended", title="how much of the unmasking is left")
    lost.set(ylabel="H(mu) + log mu, nats a token", title="surprise that the tokens lose")
    deviations(z, table)
    likelihoods(nats, table)
    drawn.legend(*share.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=7)
    return drawn


def curves(axes, table, predicted, measured, error):
    """Each law's prediction for float32, and what each sampler drew with the error under its own law."""
    for sampler, law in OWN_LAW.items():
        look = figures.precision(sampler)
        of_law = table[table.law == law]
        line = of_law[of_law.sampler == FP32].sort_values(["steps", "decoder"])
        axes.plot(line.steps, line[predicted], ls=LINES[law], ms=3, label=f"{law}: predicted", **look)
        own = of_law[(of_law.sampler == sampler) & (of_law.decoder == "ancestral")]
        axes.errorbar(
            own.steps * SHIFT[sampler],
            own[measured],
            1.96 * own[error],
            ls="none",
            capsize=2,
            mfc="white",
            label=f"{sampler}: drawn",
            **look,
        )
    axes.set(xscale="log", xlabel="steps N")
    axes.set_xticks(line.steps, [f"{n:,}" for n in line.steps])
    axes.minorticks_off()


def ancestral(table, law):
    return table[(table.decoder == "ancestral") & (table.law == law)].sort_values(["sampler", "steps"])


def name_runs(axes, runs):
    names = [f"{r.sampler.removeprefix('gumbel_max_')}\nN = {r.steps:,}" for r in runs.itertuples()]
    axes.set_yticks(range(len(names)), names, fontsize=7)


def deviations(axes, table):
    axes.axvspan(-1.96, 1.96, color="#dddddd", lw=0, zorder=0)
    for law in LAWS:
        runs, look = ancestral(table, law), figures.precision(law)
        at = np.arange(len(runs))
        axes.plot(runs.z_count, at + 0.15, ls="none", mfc="white", **look)
        axes.plot(runs.z_surprise, at - 0.15, ls="none", **look)
    name_runs(axes, runs)
    axes.set(xlabel="z of the draws if the law were right", title="open: count; filled: surprise; grey: 95 %")


def likelihoods(axes, table):
    for law in LAWS:
        runs = ancestral(table, law)
        axes.plot(runs.nats, np.arange(len(runs)), ls="none", **figures.precision(law))
    name_runs(axes, runs)
    axes.axvline(np.log(1e6), color="black", ls=":", lw=1)
    axes.set(xscale="symlog", xlabel="nats of likelihood behind the sampler's own law")
    axes.set_title("dotted: a right law falls so far once in 1e6")


STUDY = Study(
    name="process_law",
    question="Do real decoding runs follow the law of a step, and which one?",
    cells=cells,
    measure=measure,
    analyse=analyse,
    figure=figure,
    keys=(*RUN, "part", "weights", "sequence", "law"),
)

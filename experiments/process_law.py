"""Is a law of the step a law of the run? Real ancestral decoding against what each law predicts on the states it visits.

Brute force on models/mdm, every draw made. At every step every masked position has, under a law, a probability of being
unmasked and an expected surprise of the token that comes, here -log mu - H(mu): 0 on average if the sampler is faithful.
What happened minus what was expected, summed over a run, is a martingale if the law is right: z is standard normal whatever
the network says. So is the ratio of the run's likelihoods under another law and the right one: it exceeds e^x with
probability at most e^-x, at any stopping. Between two events the state is fixed and a law is interpolated in log r, 3 points
an octave. Beyond N = 4096 states are visited event-driven, and only predictions are shown. The committed long run is added.
Cost: N * length * vocab / 2 noise values and 2,000 step laws a sequence.
"""

from functools import cache, partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from precision_lab import SAMPLERS, figures, resolve
from precision_lab.files import read_json
from precision_lab.laws.process import faithful_step, interpolation, lattice_step, truncated_step
from precision_lab.mdm import decode
from precision_lab.mdm.train import load_model
from precision_lab.result import with_long_run
from precision_lab.samplers.gumbel_max import FP32_CEILING
from precision_lab.study import Study

ROOT, LENGTH, KEY = Path(__file__).parent.parent, 32, ["decoder", "sampler", "steps"]
LAWS = {"lattice": lattice_step, "faithful": faithful_step, "Prop. 5.2": partial(truncated_step, ceiling=FP32_CEILING)}
FP32, FP64, TRUNCATED = NAMES = ("gumbel_max_fp32", "gumbel_max_fp64", "gumbel_max_fp64_truncated")
OWN = dict(zip(NAMES, LAWS, strict=True))
GRID = {  # profile -> (decoder, sampler, steps, cells of two sequences)
    "smoke": [("ancestral", FP32, 8, 1)],
    "quick": [
        ("ancestral", FP32, 128, 1),
        ("ancestral", FP32, 1024, 1),
        ("ancestral", FP64, 1024, 1),
        ("event_driven", FP32, 16384, 1),
    ],
    "full": [("ancestral", FP32, 128, 8), ("ancestral", FP32, 1024, 16), ("ancestral", FP32, 4096, 6)]
    + [("ancestral", sampler, 1024, 6) for sampler in (FP64, TRUNCATED)]
    + [("event_driven", FP32, steps, 3) for steps in (16384, 50_000)],
}
model = cache(lambda: load_model(ROOT / "models" / "mdm"))
SUMS = ["asked", "count", "expected", "variance", "surprise", "surprise_mean", "surprise_variance", "log_likelihood"]


def cells(profile):
    weights = read_json(ROOT / "models" / "mdm" / "manifest.json")["weights_sha256"][:12]
    runs = [(*run, part) for *run, parts in GRID[profile] for part in range(parts)]
    return [dict(zip([*KEY, "part"], run, strict=True)) | {"weights": weights} for run in runs]


def measure(cell, rng):
    rows = []
    for sequence in range(2):
        common = {"batch": 1, "length": LENGTH, "steps": cell["steps"], "rng": rng}
        drawn, came = [], np.full(LENGTH, -1)

        def watched(logits, n, *, generator, drawn=drawn):  # one call a step, as long as LENGTH <= 64
            drawn.append(SAMPLERS[cell["sampler"]].sample(logits, n, rng=generator))
            return drawn[-1]

        if cell["decoder"] == "event_driven":
            done = decode.event_driven(model(), lattice_step, **common)
            came = done.steps[0].numpy()
        else:
            done = decode.ancestral(model(), resolve(watched), **common)
            for step, tokens in enumerate(drawn):
                came[np.flatnonzero(came < 0)[(tokens[0] != model().config.mask_id).numpy()]] = step
        sums = account(done.tokens[0].numpy(), came, cell["steps"])
        rows += [
            cell | {"sequence": sequence, "law": law} | dict(zip(SUMS, sums[law].tolist(), strict=True)) for law in LAWS
        ]
    return rows


def account(tokens, came, steps):
    """Law -> SUMS over all steps but the last, where the mask has no mass."""
    sums = {law: np.zeros(len(SUMS)) for law in LAWS}
    octaves = steps - steps // 2 ** np.arange(steps.bit_length())
    edges = np.unique([*octaves, *(came + 1)])  # the state is fixed from edge to edge
    for a, b in pairwise(edges[edges < steps]):
        k, masked = np.arange(steps - a, steps - b, -1.0), np.flatnonzero(came >= a)
        nodes, weight = interpolation(k, 3)
        state = torch.from_numpy(np.where(came < a, tokens, model().config.mask_id))
        with torch.no_grad():
            rows = torch.log_softmax(model().logits(model().hidden(state[None])[0, masked]).double(), -1).numpy()
        for log_mu, position in zip(rows, masked, strict=True):
            event, log_p = came[position] < b, np.sort(log_mu)  # sorted, so that Prop. 5.2 sorts fast
            surprise, at = -log_p + np.exp(log_p) @ log_p, np.searchsorted(log_p, log_mu[tokens[position]])
            moments = np.stack([np.ones_like(log_p), surprise, surprise**2, np.arange(len(log_p)) == at], 1)
            for name, law in LAWS.items():
                q = np.array([law(log_p, 1 / x) * x for x in nodes]) @ moments  # smooth in log r
                given, first, second, this = (weight @ q / k[:, None]).T
                happened = [1.0, surprise[at], np.log(this[-1] / (1 - given[-1]))] if event else [0.0, 0.0, 0.0]
                variance, surprise_variance = (given * (1 - given)).sum(), (second - first**2).sum()
                sums[name] += [(1 / k).sum(), happened[0], given.sum(), variance, happened[1], first.sum(), surprise_variance,
                               np.log1p(-given).sum() + happened[2]]  # fmt: skip
    return sums


def summarise(frame):
    """Sequences summed, those of the committed long run too (a cell of both is the same numbers, counted once). Multiplier
    and surprise lost, their z, and the nats by which the sampler's own law explains the run better than each law."""
    frame = with_long_run(frame, ROOT, "process_law", [*KEY, "part", "weights", "sequence", "law"])
    t = frame.groupby([*KEY, "law"])[SUMS].sum().reset_index()
    t = t.merge(t[t.law == t.sampler.map(OWN)][[*KEY, "log_likelihood"]], on=KEY, suffixes=("", "_own"))
    t["predicted"], t["drawn"], t["error"] = t.expected / t.asked, t["count"] / t.asked, np.sqrt(t.variance) / t.asked
    t["lost_predicted"], t["lost"] = -t.surprise_mean / t.expected, -t.surprise / t["count"]
    t["lost_error"], t["nats"] = np.sqrt(t.surprise_variance) / t["count"], t.log_likelihood_own - t.log_likelihood
    t["z_count"] = (t["count"] - t.expected) / np.sqrt(t.variance)
    t["z_surprise"] = (t.surprise - t.surprise_mean) / np.sqrt(t.surprise_variance)
    return t


def draw(frame):
    table = summarise(frame)
    runs = table[table.decoder == "ancestral"].sort_values(["sampler", "steps"])
    figure, (share, lost, z, nats) = figures.canvas(2, 2, width=4.5, height=3.3)
    for k, (sampler, law) in enumerate(OWN.items()):
        line = table[(table.law == law) & (table.sampler == FP32)].sort_values(["steps", "decoder"])
        own, mine, style = runs[(runs.law == law) & (runs.sampler == sampler)], runs[runs.law == law], figures.series(k)
        for ax, y in ((share, ("predicted", "drawn", "error")), (lost, ("lost_predicted", "lost", "lost_error"))):
            ax.plot(line.steps, line[y[0]], ls=("-", "--", "-.")[k], ms=3, label=f"{law}: predicted", **style)
            at = own.steps * (1, 1.15, 0.87)[k]  # side by side
            ax.errorbar(
                at, own[y[1]], 1.96 * own[y[2]], ls="none", capsize=2, mfc="white", label=f"{sampler}: drawn", **style
            )
            ax.set(xscale="log", xlabel="steps N")
            ax.set_xticks(line.steps, [f"{n:,}" for n in line.steps])
            ax.minorticks_off()
        for column, face, shift in (("z_count", "white", 0.15), ("z_surprise", None, -0.15)):
            z.plot(mine[column], np.arange(len(mine)) + shift, ls="none", mfc=face, **style)
        nats.plot(mine.nats, np.arange(len(mine)), ls="none", **style)
        names = [f"{r.sampler.removeprefix('gumbel_max_')}\nN = {r.steps:,}" for r in mine.itertuples()]
    share.set(ylabel="unmaskings / intended", title="how much of the unmasking is left")
    lost.set(ylabel="H(mu) + log mu, nats a token", title="surprise that the tokens lose")
    z.axvspan(-1.96, 1.96, color="#dddddd", lw=0, zorder=0)
    z.set(xlabel="z of the draws if the law were right", title="open: count; filled: surprise; grey: 95 %")
    nats.axvline(np.log(1e6), color="black", ls=":", lw=1)
    nats.set(
        xscale="symlog",
        xlabel="nats of likelihood behind the sampler's own law",
        title="dotted: a right law falls so far once in 1e6",
    )
    for ax in (z, nats):
        ax.set_yticks(range(len(names)), names, fontsize=7)
    figure.legend(*share.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=7)
    return figure


def verdict(frame):
    table, text = summarise(frame), []
    for (_, sampler, steps), part in table[table.decoder == "ancestral"].groupby(KEY):
        own = part[part.law == OWN[sampler]].iloc[0]
        drawn = f"drawn {own.drawn:.3f} +- {1.96 * own.error:.3f}, {own.lost:.3f} +- {1.96 * own.lost_error:.3f}"
        laws = [
            f"{r.law} {r.predicted:.3f}, {r.lost_predicted:.3f} (z {r.z_count:.1f}, {r.z_surprise:.1f}; {r.nats:.1f} nats worse)"
            for r in part.itertuples()
        ]
        text.append(f"{sampler} N = {steps}, {own['count']:.0f} tokens: {drawn}; " + ", ".join(laws))
    own = table[(table.decoder == "ancestral") & (table.sampler == FP32)].sort_values("steps").tail(len(LAWS))
    state = ", ".join(f"{r.law} {'' if r.nats > np.log(1e6) else 'not '}refused" for r in own.itertuples())
    head = f"Multiplier and surprise lost (nats a token), +- 95 % under the sampler's own law. float32 at N = {own.steps.max()}"
    return f"{head}, odds of a million: {state}. " + ". ".join(text) + "."


QUESTION = "Do real decoding runs follow the law of a step, and which one?"
STUDY = Study("process_law", QUESTION, cells, measure, draw, verdict)
